"""Hand counts: the multiply-adds and parameters of small Cells, of every rule, and of the paper's models."""

from __future__ import annotations

import mindspore as ms
import pytest
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.analysis.complexity import CONVENTIONS, Complexity, complexity
from acmix_ms.analysis.work import Work
from acmix_ms.ops import ACmix, GlobalACmix, PatchwiseACmix, ShiftConv, SpatialReductionACmix, WindowACmix
from acmix_ms.ops.base import MIXES
from models import create_model

SHIFTS = ("tensor", "fixed", "learned")
RATES = {"alpha_one": 1, "alpha": 1, "learned": 2}


def conv_path(channels: int, heads: int, full: int, low: int, out: int, shift: str, fc_bias: bool = False) -> dict:
    """Hand count of fc (3N -> 9, for each of d channels and each pixel) and shift with a 3x3 kernel."""
    dim = channels // heads
    macs = 9 * heads * dim * (full + 2 * low) + (9 if shift == "tensor" else 81) * channels * out
    params = 27 * heads + 9 * fc_bias + (0 if shift == "tensor" else 81 * channels)
    return {"macs": macs, "bias": 9 * dim * full * fc_bias, "params": params}


# -------------------------------------------------------------------------------------------- rules of plain Cells
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("has_bias", [False, True])
def test_convolution(groups, has_bias):
    net = nn.Conv2d(8, 12, 3, 2, pad_mode="pad", padding=1, group=groups, has_bias=has_bias)
    found = complexity(net, (2, 8, 9, 6))
    outputs = 2 * 12 * 5 * 3
    assert found.macs() == found.macs(stage="rest") == outputs * 9 * (8 // groups)
    assert found.macs("A+bias") - found.macs() == outputs * has_bias
    (item,) = found.items
    assert (item.label, item.additions, item.biases) == ("conv3x3", 9 * outputs, 12 * has_bias)
    assert found.params == item.params == 12 * 8 // groups * 9 + 12 * has_bias


def test_pointwise_convolution_has_nothing_to_shift():
    (item,) = complexity(nn.Conv2d(4, 6, 1), (1, 4, 5, 5)).items
    assert (item.label, item.macs, item.additions) == ("conv", 4 * 6 * 25, 0)


def test_dense_and_norms():
    net = nn.SequentialCell(nn.Dense(6, 10), nn.LayerNorm((10,)), nn.Dense(10, 3, has_bias=False))
    found = complexity(net, (2, 7, 6))
    assert found.macs() == 14 * (60 + 30)
    assert found.macs("A+bias") == found.macs() + 14 * 10
    assert found.macs("A+norm") == found.macs() + 14 * 10
    assert found.params == 60 + 10 + 20 + 30
    batch_norm = complexity(nn.SequentialCell(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), (1, 3, 5, 5))
    assert (batch_norm.macs("A+norm"), batch_norm.params) == (300, 12 + 8)  # no running statistics


@pytest.mark.parametrize("stride", [1, 2])
def test_shift_convolution(stride):
    found = complexity(ShiftConv(8, 2, 3, stride), (3, 18, 5, 6))
    assert found.macs("dagger") == found.macs(stage="II") == 3 * 8 * 81 * (30 if stride == 1 else 9)
    assert found.params == found.stage_params("II") == 8 * 81


# --------------------------------------------------------------------------------------------- the forms of ACmix
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("mix", MIXES)
def test_sliding_form(mix, shift, stride):
    found = complexity(ACmix(6, 8, num_heads=2, attn_kernel_size=5, stride=stride, shift=shift, mix=mix), (2, 6, 5, 7))
    full, out = 2 * 35, 2 * (35 if stride == 1 else 12)
    attention, conv = mix != "conv", mix != "attention"
    path = conv_path(8, 2, full, full, out, shift)
    assert found.macs(stage="I") == 3 * 6 * 8 * full
    assert found.macs(stage="II") == attention * 2 * 25 * 8 * out + conv * path["macs"]
    assert found.macs(stage="rest") == 0
    assert found.macs("A+bias") - found.macs() == 3 * 8 * full
    # The position term of each tap, and the grid's projection to d = 4 channels, once for the whole batch.
    position = attention * (25 * 8 * out + 2 * 4 * 35)
    assert found.macs("dagger") - found.macs("A+bias") == found.macs("A+position") - found.macs() == position
    assert found.stage_params("I") == 3 * (6 * 8 + 8)
    assert found.stage_params("II") == conv * path["params"] + RATES.get(mix, 0)
    assert found.stage_params("rest") == attention * (2 * 4 + 4)
    assert found.params == sum(found.stage_params(stage) for stage in ("I", "II", "rest"))


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("mix", MIXES)
def test_window_form(mix, shift):
    found = complexity(WindowACmix(8, (3, 2), 2, shift=shift, mix=mix), (2, 6, 4, 8))
    pixels = 2 * 24
    attention, conv = mix != "conv", mix != "attention"
    path = conv_path(8, 2, pixels, pixels, pixels, shift, fc_bias=True)
    assert found.macs(stage="I") == 3 * 64 * pixels
    assert found.macs(stage="II") == attention * 2 * 6 * 8 * pixels + conv * path["macs"]
    assert found.macs(stage="rest") == attention * 64 * pixels
    assert found.macs("A+bias") - found.macs() == (3 + attention) * 8 * pixels + conv * path["bias"]
    assert found.stage_params("I") == 3 * 64 + 24
    assert found.stage_params("II") == attention * 5 * 3 * 2 + conv * path["params"] + RATES.get(mix, 0)
    assert found.params == sum(found.stage_params(stage) for stage in ("I", "II", "rest"))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("mix", MIXES)
def test_patchwise_form(mix, shift, stride):
    net = PatchwiseACmix(
        12, 8, rel_channels=2, share_channels=4, num_heads=2, attn_kernel_size=3, stride=stride, shift=shift, mix=mix
    )
    found = complexity(net, (2, 12, 5, 7))
    full, out = 2 * 35, 2 * (35 if stride == 1 else 12)
    attention, conv = mix != "conv", mix != "attention"
    path = conv_path(8, 2, full, full, out, shift)
    # q and the 9 keys, 2 maps each, to 2 weights; those to 2 weights for each of 9 taps; 9 taps of 8 channels.
    weights = 20 * 2 + 2 * 18
    assert found.macs(stage="I") == 12 * (2 + 2 + 8) * full
    assert found.macs(stage="II") == attention * (weights + 9 * 8) * out + conv * path["macs"]
    assert found.macs("A+bias") - found.macs() == 12 * full + attention * 18 * out
    norms = 2 * 20 + 2 * 2
    expected = attention * (weights + 18 + norms) + conv * path["params"] + RATES.get(mix, 0)
    assert found.stage_params("II") == expected
    assert found.params == found.stage_params("I") + expected == 12 * 12 + 12 + expected


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("mix", MIXES)
def test_global_form(mix, token):
    found = complexity_of_tokens(GlobalACmix(8, 2, mix=mix), 5, 4, token)
    tokens, pixels = 2 * (20 + token), 2 * 20
    attention, conv = mix != "conv", mix != "attention"
    path = conv_path(8, 2, pixels, pixels, pixels, "learned", fc_bias=True)
    assert found.macs(stage="I") == 3 * 64 * tokens
    assert found.macs(stage="II") == attention * 2 * 8 * tokens * (20 + token) + conv * path["macs"]
    assert found.macs(stage="rest") == attention * 64 * tokens
    assert found.macs("A+bias") - found.macs() == (3 + attention) * 8 * tokens + conv * path["bias"]
    assert found.params == 3 * 64 + 24 + attention * 72 + conv * path["params"] + RATES.get(mix, 0)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("mix", MIXES)
def test_reduced_form(mix, shift):
    found = complexity_of_tokens(SpatialReductionACmix(8, 2, sr_ratio=2, shift=shift, mix=mix), 6, 5, False)
    pixels, low = 2 * 30, 2 * 3 * 2  # the fifth column is a remainder that keys do not see
    attention, conv = mix != "conv", mix != "attention"
    path = conv_path(8, 2, pixels, low, pixels, shift, fc_bias=True)
    assert found.macs(stage="I") == 64 * (pixels + 2 * low)
    assert found.macs(stage="II") == attention * 2 * 8 * pixels * 6 + conv * path["macs"]
    assert found.macs(stage="rest") == 64 * 4 * low + attention * 64 * pixels
    biases = 8 * (pixels + 2 * low) + 8 * low + attention * 8 * pixels + conv * path["bias"]
    assert found.macs("A+bias") - found.macs() == biases
    assert found.macs("A+norm") - found.macs() == 8 * low
    assert found.stage_params("I") == 3 * 64 + 24
    assert found.stage_params("rest") == 64 * 4 + 8 + 16 + attention * 72
    assert found.stage_params("II") == conv * path["params"] + RATES.get(mix, 0)


class Tokens(nn.Cell):
    """Calls a Cell for tokens with the size of its map."""

    def __init__(self, inner: nn.Cell, height: int, width: int):
        super().__init__()
        self.inner, self.height, self.width = inner, height, width

    def construct(self, x):
        return self.inner(x, self.height, self.width)


def complexity_of_tokens(net: nn.Cell, height: int, width: int, token: bool) -> Complexity:
    return complexity(Tokens(net, height, width), (2, height * width + token, 8))


# --------------------------------------------------------------------------------------------------- conventions
def test_conventions_add_what_they_say():
    items = (
        Work("x", "I", 1000, bias=100, position=10, norm=1, counter=40, additions=7, params=5),
        Work("y", "II", 2000, bias=200, position=20, norm=2, counter=50, additions=7, params=6),
    )
    found = Complexity(items, 20)
    totals = {"A": 3000, "A+bias": 3300, "dagger": 3330, "A+position": 3030, "A+norm": 3003, "mmdetection": 3090}
    assert {convention: found.macs(convention) for convention in CONVENTIONS} == totals
    assert found.macs("dagger", "II") == 2220
    assert found.stage_params("I") == 5
    with pytest.raises(ValueError, match="convention='B': choose from A, A\\+bias"):
        found.macs("B")


def test_counting_leaves_no_trace():
    runtime.start(mode="graph")
    net = nn.SequentialCell(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).set_train(True)
    before = {name: p.asnumpy() for name, p in net.parameters_dict().items()}
    first, second = complexity(net, (1, 3, 8, 8)), complexity(net, (1, 3, 8, 8))
    assert first == second  # no hook stayed behind
    assert net.training
    assert all((p.asnumpy() == before[name]).all() for name, p in net.parameters_dict().items())
    assert ms.get_context("mode") == ms.GRAPH_MODE


def test_batch_multiplies_work():
    net = create_model("acmix_resnet_digits")
    one, three = complexity(net, (1, 3, 32, 32)), complexity(net, (3, 3, 32, 32))
    for convention in ("A", "A+bias", "A+norm"):
        assert three.macs(convention) == 3 * one.macs(convention)
    assert three.params == one.params


# ---------------------------------------------------------------------------------------------- the paper's models
# G multiply-adds at 224: worked out beforehand, partly by running the official code.
KNOWN = [
    ("resnet50", "A", 4.089),
    ("acmix_resnet26", "dagger", 2.251),
    ("acmix_resnet50", "dagger", 3.576),
    ("acmix_resnet50", "A", 3.501),
    ("san10", "A", 1.791),
    ("acmix_san10", "A+bias", 1.912),
    ("pvt_tiny", "A", 1.9329),
    ("acmix_pvt_tiny", "A", 2.0047),
    ("swin_tiny", "A+norm", 4.494405),
    ("acmix_swin_tiny", "A+norm", 4.648847),
    ("conv_swin_tiny", "A+norm", 6.088),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "convention", "expected"), KNOWN)
def test_models_of_the_paper(name, convention, expected):
    assert complexity(create_model(name), (1, 3, 224, 224)).macs(convention) / 1e9 == pytest.approx(expected, rel=2e-4)
