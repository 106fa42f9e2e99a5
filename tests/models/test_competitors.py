"""The competitors of Figure 4: their Cells against plain NumPy, and the counts that their papers report."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import runtime
from acmix_ms.analysis.complexity import complexity
from acmix_ms.errors import UserError
from acmix_ms.ops import ACmix
from models import create_model
from models.competitors import AugmentedConv, BottleneckAttention, LocalRelation, RelativeAttention, relative_logits
from models.layers import resize_table
from tests.ops.test_ops import filled, relative


def images(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def pointwise(cell: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """1x1 convolution without bias: (B, C, H, W) -> (B, Co, H, W)."""
    return np.einsum("oc,bchw->bohw", cell.weight.asnumpy()[:, :, 0, 0].astype(np.float64), x)


def global_attention(net: RelativeAttention, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Query by query, with each distance looked up."""
    batch, _, height, width = q.shape
    heads, dim = net.num_heads, net.key_dim
    down = resize_table(net.rel_height, 2 * height - 1).asnumpy()
    across = resize_table(net.rel_width, 2 * width - 1).asnumpy()
    out = np.zeros_like(v)
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    for b in range(batch):
        for n in range(heads):
            keys, share = slice(n * dim, (n + 1) * dim), v.shape[1] // heads
            values = slice(n * share, (n + 1) * share)
            for i, j in zip(y, x):
                position = down[y - i + len(down) // 2] + across[x - j + len(across) // 2]  # (H*W, d)
                query = q[b, keys, i, j] * dim**-0.5
                weights = softmax((k[b, keys].reshape(dim, -1).T + position) @ query)
                out[b, values, i, j] = v[b, values].reshape(share, -1) @ weights
    return out


@pytest.mark.parametrize("size", [1, 2, 5])
def test_relative_logits_look_up_the_distance(size):
    q, table = images(2, 3, size, 4), images(2 * size - 1, 4)
    out = relative_logits(q, table).asnumpy()
    for i in range(size):
        for j in range(size):
            assert np.allclose(out[:, :, i, j], q.asnumpy()[:, :, i] @ table.asnumpy()[j - i + size - 1], atol=1e-5)


def test_tables_are_resized_about_distance_zero():
    table = Tensor(np.linspace(-6, 6, 13, dtype=np.float32)[:, None])
    assert np.array_equal(resize_table(table, 13).asnumpy(), table.asnumpy())
    for rows in (1, 5, 27):
        resized = resize_table(table, rows).asnumpy()[:, 0]
        assert np.allclose(resized, -resized[::-1], atol=1e-5)
        assert (np.diff(resized) >= 0).all()


@pytest.mark.parametrize("size", [(4, 4), (6, 3), (1, 5), (1, 1)], ids=str)
def test_relative_attention_equals_numpy(size):
    net = RelativeAttention(3, 2, side=4)
    filled(net)
    q, k, v = images(2, 6, *size), images(2, 6, *size) * 0.5, images(2, 4, *size)
    assert relative(net(q, k, v), global_attention(net, q.asnumpy(), k.asnumpy(), v.asnumpy())) < 1e-5


@pytest.mark.parametrize("mode", ["pynative", "graph"])
def test_bottleneck_attention_equals_numpy(mode):
    runtime.start(mode=mode)
    net = BottleneckAttention(12, 5, stride=2, num_heads=3)
    filled(net)
    x = images(2, 12, 5, 5)
    maps = [pointwise(cell, x.asnumpy()) for cell in (net.query, net.key, net.value)]
    out = np.pad(global_attention(net.attention, *maps), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    expected = np.nanmean(out.reshape(2, 12, 3, 2, 3, 2), (3, 5))  # the pool's last row and column are half empty
    assert relative(net(x), expected) < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
def test_augmented_conv_equals_numpy(stride):
    net = AugmentedConv(16, 3, stride, num_heads=2, min_key_dim=4, value_share=0.5)
    filled(net)
    assert (net.keys, net.values, net.conv.out_channels) == (8, 8, 8)
    x = images(2, 16, 3 * stride, 3 * stride)
    q, k, v = np.split(pointwise(net.qkv, x.asnumpy()[:, :, ::stride, ::stride]), 3, 1)
    attention = pointwise(net.proj, global_attention(net.attention, q, k, v))
    assert relative(net(x), np.concatenate([net.conv(x).asnumpy(), attention], 1)) < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
def test_local_relation_equals_numpy(stride):
    net = LocalRelation(8, stride, kernel_size=3, share_channels=4)
    filled(net)
    x = images(2, 8, 5, 6)
    q, k, v = (pointwise(cell, x.asnumpy()) for cell in (net.query, net.key, net.value))
    k, v = (np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect") for a in (k, v))
    first, last = net.prior[0], net.prior[2]
    grid = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]))[None].astype(np.float64)
    prior = pointwise(last, np.maximum(pointwise(first, grid) + first.bias.asnumpy().reshape(1, -1, 1, 1), 0))
    expected = np.zeros((2, 8, -(-5 // stride), -(-6 // stride)))
    for i in range(expected.shape[2]):
        for j in range(expected.shape[3]):
            row, col = i * stride, j * stride
            keys = k[:, :, row : row + 3, col : col + 3].reshape(2, 2, 9)
            weights = softmax(prior.reshape(1, 2, 9) - (q[:, :, row, col, None] - keys) ** 2)
            values = v[:, :, row : row + 3, col : col + 3].reshape(2, 4, 2, 9)  # channel c belongs to group c mod 2
            expected[:, :, i, j] = (weights[:, None] * values).sum(-1).reshape(2, 8)
    assert relative(net(x), expected) < 1e-5


@pytest.mark.parametrize(
    "build", [lambda: BottleneckAttention(32, 7), lambda: AugmentedConv(32, 7), lambda: LocalRelation(32)]
)
def test_graph_equals_pynative_and_half_precision_is_near(build):
    net, half, x = build(), build(), images(2, 32, 9, 6)  # another map than the tables are made for
    filled(net)
    ms.load_param_into_net(half, net.parameters_dict())
    half.to_float(ms.float16)
    eager, low = net(x).asnumpy(), half(x.astype(ms.float16))
    assert low.dtype == ms.float16
    assert relative(low, eager) < 1e-2
    runtime.start(mode="graph")
    assert relative(net(x), eager) < 1e-5


def test_sasa_is_the_attention_path_alone():
    net = create_model("sasa_resnet26", num_heads=8)
    cells = [cell for _, cell in net.cells_and_names() if isinstance(cell, ACmix)]
    assert {(cell.mix, cell.num_heads, cell.attn_kernel_size) for cell in cells} == {("attention", 8, 7)}
    assert len(cells) == 8


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BottleneckAttention(10, 7), "channels=10 is not a multiple of num_heads=4"),
        (lambda: LocalRelation(12), "channels=12 is not a multiple of share_channels=8"),
        (lambda: LocalRelation(16, kernel_size=4), "kernel_size=4"),
        (lambda: AugmentedConv(0, 7), "channels=0"),
    ],
)
def test_impossible_arguments_are_told(build, message):
    with pytest.raises(UserError, match=message):
        build()


# --------------------------------------------------------------------------------------------------------- counts
@pytest.mark.parametrize("stride", [1, 2])
def test_work_equals_hand_counts(stride):
    size, out = 8, 8 // stride
    found = complexity(BottleneckAttention(16, 8, stride), (2, 16, size, size))
    pixels = 2 * size * size
    assert found.macs(stage="I") == 3 * pixels * 16 * 16
    assert found.macs(stage="II") == pixels * (2 * size * size * 16 + 2 * size * 16)
    assert found.params == found.stage_params("I") + found.stage_params("II") == 3 * 256 + 2 * 15 * 4

    found = complexity(AugmentedConv(16, out, stride, num_heads=2, min_key_dim=4, value_share=0.5), (2, 16, size, size))
    pixels = 2 * out * out  # 8 channels each for keys, values and convolution
    assert found.macs(stage="I") == pixels * 16 * 24
    assert found.macs(stage="II") == pixels * (out * out * 16 + 2 * out * 8)
    assert found.macs(stage="rest") == pixels * (9 * 16 * 8 + 8 * 8)
    assert found.params == 16 * 24 + 2 * (2 * out - 1) * 4 + 9 * 16 * 8 + 64

    found = complexity(LocalRelation(16, stride), (2, 16, size, size))
    assert found.macs(stage="I") == 2 * size * size * (16 * 16 + 16 * 2) + pixels * 16 * 2
    prior = 49 * (2 * 2 + 2 * 2)  # does not depend on the batch
    assert found.macs(stage="II") == pixels * 49 * (2 + 16) + prior
    assert found.macs("A+bias") == found.macs() + 49 * 2
    assert found.params == 16 * 16 + 2 * 16 * 2 + (2 * 2 + 2 + 2 * 2)
