"""What the operators cannot take is said in one sentence, in both modes, by the train forms and the deploy forms."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import ACmix, GlobalACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, runtime
from acmix_ms.errors import UserError
from acmix_ms.ops.fuse import fuse


def of(*shape: int, dtype=np.float32) -> Tensor:
    return Tensor(np.ones(shape, dtype))


SLIDING, PATCHWISE = (lambda: ACmix(8, 16)), (lambda: PatchwiseACmix(8, 16))
WINDOW, REDUCTION, GLOBAL = (
    lambda: WindowACmix(16, 7, 4),
    lambda: SpatialReductionACmix(16, 4, sr_ratio=2),
    lambda: GlobalACmix(16, 4),
)
REFUSED = [
    (SLIDING, (of(2, 8, 14),), "ACmix: x has 3 dimensions (2, 8, 14); give (B, 8, H, W)"),
    (SLIDING, (of(2, 6, 9, 9),), "ACmix: x has 6 channels (2, 6, 9, 9); give (B, 8, H, W)"),
    (SLIDING, (of(2, 8, 0, 9),), "ACmix: x has no pixels (2, 8, 0, 9); give (B, 8, H, W)"),
    (SLIDING, (None,), "ACmix: x is of type NoneType; give a mindspore.Tensor"),
    (SLIDING, (np.ones((2, 8, 9, 9), np.float32),), "ACmix: x is of type ndarray; give a mindspore.Tensor"),
    (PATCHWISE, (of(2, 9, 9, 8),), "PatchwiseACmix: x has 9 channels (2, 9, 9, 8); give (B, 8, H, W)"),
    (WINDOW, (of(2, 49, 16),), "WindowACmix: x has 3 dimensions (2, 49, 16); give (B, H, W, 16)"),
    (WINDOW, (of(2, 7, 7, 8),), "WindowACmix: x has 8 channels (2, 7, 7, 8); give (B, H, W, 16)"),
    (WINDOW, (of(2, 7, 0, 16),), "WindowACmix: x has no pixels (2, 7, 0, 16); give (B, H, W, 16)"),
    (
        WINDOW,
        (of(2, 14, 15, 16),),
        "WindowACmix: x is a map of 14x15; height and width must be multiples of window_size=(7, 7), pad it",
    ),
    (
        WINDOW,
        (of(2, 14, 7, 16), of(4, 49, 49)),
        "WindowACmix: mask has shape (4, 49, 49); give (2, 49, 49), a table for each window of x",
    ),
    (REDUCTION, (of(2, 16, 3, 4), 3, 4), "SpatialReductionACmix: x has 4 dimensions (2, 16, 3, 4); give (B, H*W, 16)"),
    (REDUCTION, (of(2, 12, 8), 3, 4), "SpatialReductionACmix: x has 8 channels (2, 12, 8); give (B, H*W, 16)"),
    (
        REDUCTION,
        (of(2, 12, 16), 3, 5),
        "SpatialReductionACmix: x has 12 tokens, which do not fit a map of 3x5, with or without a class token; "
        "give height and width of the map that they are of",
    ),
    (
        REDUCTION,
        (of(2, 13, 16), 3, 4),
        "SpatialReductionACmix: a class token has no place in a reduced map: sr_ratio=2, use sr_ratio=1",
    ),
    (
        GLOBAL,
        (of(2, 12, 16), -3, -4),
        "GlobalACmix: height=-3; give the pixels of the map, an integer of at least 1",
    ),
    (
        GLOBAL,
        (of(2, 12, 16), 3, 4.0),
        "GlobalACmix: width=4.0; give the pixels of the map, an integer of at least 1",
    ),
]
TYPES = [(np.int32, "Int32"), (np.bool_, "Bool"), (np.float64, "Float64"), (np.complex64, "Complex64")]
REFUSED += [
    (
        make,
        (of(*shape, dtype=dtype), *sizes),
        f"{name}: x is of type {said}; give float32, float16 or bfloat16, such as x.astype(mindspore.float32)",
    )
    for (make, shape, sizes, name), (dtype, said) in zip(
        [
            (SLIDING, (2, 8, 9, 9), (), "ACmix"),
            (PATCHWISE, (2, 8, 9, 9), (), "PatchwiseACmix"),
            (WINDOW, (2, 7, 7, 16), (), "WindowACmix"),
            (GLOBAL, (2, 12, 16), (3, 4), "GlobalACmix"),
        ],
        TYPES,
    )
]


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize(("make", "inputs", "said"), REFUSED)
def test_what_cannot_be_taken_is_said_in_a_sentence(monkeypatch, tmp_path, make, inputs, said, mode):
    monkeypatch.chdir(tmp_path)  # MindSpore leaves a folder behind where a graph cannot be compiled
    runtime.start(mode=mode)
    with pytest.raises(UserError) as raised:
        make()(*inputs)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("make", "inputs", "name"),
    [
        (SLIDING, (of(2, 6, 9, 9),), "ACmix"),
        (PATCHWISE, (of(2, 6, 9, 9),), "Patchwise"),
        (WINDOW, (of(2, 7, 7, 8),), "WindowACmix"),
        (REDUCTION, (of(2, 12, 8), 3, 4), "ReductionACmix"),
    ],
)
def test_deploy_forms_ask_the_same(make, inputs, name):
    with pytest.raises(UserError, match=rf"Fused{name}: x has \d channels .*; give \(B, "):
        fuse(make())(*inputs)


def test_within_a_net_and_a_train_step_the_sentence_is_the_same(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runtime.start(mode="graph")
    net = nn.SequentialCell(nn.Conv2d(3, 6, 3), nn.ReLU(), ACmix(8, 16))

    def loss(x):
        return net(x).sum()

    step = ms.jit(ms.value_and_grad(loss, None, net.trainable_params()))
    with pytest.raises(UserError, match=r"^ACmix: x has 6 channels \(2, 6, 9, 9\); give \(B, 8, H, W\)$"):
        step(of(2, 3, 9, 9))


def test_half_precision_of_both_kinds_is_taken():
    # No kernel of the CPU computes in bfloat16: it is enough that nothing of ours refuses it.
    assert ACmix(8, 16).to_float(ms.float16)(of(1, 8, 5, 5)).dtype == ms.float16
    with pytest.raises(Exception) as raised:
        ACmix(8, 16)(of(1, 8, 5, 5).astype(ms.bfloat16))
    assert not isinstance(raised.value, UserError)
