"""analysis.attention: the map of one query, put to work on the values, is what the operator's attention path gives."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from PIL import Image

from acmix_ms import ACmix, PatchwiseACmix, SpatialReductionACmix
from acmix_ms.analysis import attention, figures
from acmix_ms.errors import UserError
from acmix_ms.ops import functional as F
from acmix_ms.ops import kernels
from models import create_model
from models.swin import SwinBlock
from tests.ops.test_ops import filled


def maps(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def assert_sums_to_one(found: attention.Attention) -> None:
    total = found.weights.sum((1, 2)) + (0 if found.class_weights is None else found.class_weights)
    assert np.allclose(total, 1, atol=1e-6)
    assert found.map().sum() == pytest.approx(1)


QUERIES = [(0, 0), (4, 3), (2, 5)]


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "attn_kernel_size": 5}, {"dilation": 2}], ids=str)
def test_sliding_weights_give_the_output(options, query):
    cell = ACmix(6, 16, **options)
    filled(cell)
    x = maps(1, 6, 9, 11)
    q, k, v = (F.project(x, conv.weight, conv.bias) for conv in (cell.conv1, cell.conv2, cell.conv3))
    expected = cell.attention_path(q, k, v).asnumpy()[0, :, query[0], query[1]]
    found = attention.sliding_attention(cell, x, query)
    assert_sums_to_one(found)
    values = v.asnumpy().reshape(4, 4, 9, 11)  # (N, d, H, W)
    output = np.einsum("nij,ndij->nd", found.weights, values).reshape(-1)
    assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "attn_kernel_size": 3}], ids=str)
def test_patchwise_weights_give_the_output(options, query):
    cell = PatchwiseACmix(8, 16, rel_channels=4, share_channels=4, **options)
    filled(cell)
    cell.set_train(False)
    x = maps(1, 8, 9, 11)
    q, k, v = (F.project(x, conv.weight, conv.bias) for conv in (cell.conv1, cell.conv2, cell.conv3))
    expected = cell.attention_path(q, k, v).asnumpy()[0, :, query[0], query[1]]
    found = attention.patchwise_attention(cell, x, query)
    assert found.signed
    assert found.weights.min() < 0 < found.weights.max()
    assert found.map().min() >= 0
    assert found.map().sum() == pytest.approx(1)
    values = v.asnumpy().reshape(4, 4, 9, 11)  # (share, groups, H, W): channel c has group c mod groups
    output = np.einsum("gij,sgij->sg", found.weights, values).reshape(-1)
    assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("tokens", ["reduced", "plain", "class"])
def test_global_weights_give_the_output(tokens):
    cell = SpatialReductionACmix(16, 2, sr_ratio=2 if tokens == "reduced" else 1)
    filled(cell)
    x = maps(1, 48 + (tokens == "class"), 16)
    query = (3, 5)
    found = attention.global_attention(cell, x, 6, 8, query)
    assert_sums_to_one(found)
    assert found.weights.shape == ((2, 3, 4) if tokens == "reduced" else (2, 6, 8))
    q = kernels.linear(x, cell.q.weight, cell.q.bias)
    reduced = cell.reduce(x, 6, 8)[0]
    kv = kernels.linear(reduced, cell.kv.weight, cell.kv.bias)
    position = query[0] * 8 + query[1] + (tokens == "class")
    expected = cell.attention_path(q, kv).asnumpy()[0, position]
    weights = found.weights.reshape(2, -1)
    if tokens == "class":
        weights = np.concatenate([found.class_weights[:, None], weights], 1)
    output = np.einsum("nm,mnd->nd", weights, kv.asnumpy()[0, :, 16:].reshape(-1, 2, 8)).reshape(1, -1)
    output = kernels.linear(Tensor(output.astype(np.float32)), cell.proj.weight, cell.proj.bias).asnumpy()[0]
    assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()


class OneBlock(nn.Cell):
    """Images (B, 3, H, W) through one Swin block; its attention path alone decides the difference to its input."""

    def __init__(self, shift: int):
        super().__init__()
        self.block = SwinBlock(8, 2, 4, shift, operator={"mix": "attention"})
        self.weight = maps(3, 8, seed=5)

    def tokens(self, images: Tensor) -> Tensor:
        return ops.matmul(ops.transpose(images, (0, 2, 3, 1)), self.weight)

    def construct(self, images: Tensor) -> Tensor:
        return self.block(self.tokens(images))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 6), (3, 5)], ids=str)
def test_window_weights_give_the_output_through_roll_and_padding(size, shift):
    net = OneBlock(shift)
    filled(net.block)
    net.set_train(False)
    image = maps(3, *size, seed=2).asnumpy()
    normed = net.block.norm1(net.tokens(Tensor(image[None])))
    expected = net.block.windows(normed).asnumpy()[0]
    cell = net.block.attn
    values = kernels.linear(normed, cell.qkv.weight, cell.qkv.bias).asnumpy()[0, ..., 16:].reshape(*size, 2, 4)
    for query in [(0, 0), (2, 4), (size[0] - 1, size[1] - 1)]:
        found = attention.attention_of(net, image, "block.attn", query)
        assert found.weights.shape == (2, *size)
        assert found.query == query
        assert_sums_to_one(found)
        output = np.einsum("nij,ijnd->nd", found.weights, values).reshape(1, -1)
        output = kernels.linear(Tensor(output.astype(np.float32)), cell.proj.weight, cell.proj.bias).asnumpy()[0]
        there = expected[query]
        assert np.abs(output - there).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    "model, layer, size",
    [
        ("acmix_resnet_digits", None, None),
        ("acmix_san_digits", "layer1.0.sam", (8, 8)),
        ("acmix_swin_digits", "layers.0.blocks.1.attn", (16, 16)),
        ("acmix_pvt_tiny", "block2.0.attn", (1, 1)),
        ("acmix_deit_tiny", None, (2, 2)),
    ],
)
def test_every_family_has_maps(model, layer, size):
    net = create_model(model, 10).set_train(False)
    layers = attention.attention_layers(net)
    layer = layer or next(iter(layers))
    image = maps(3, 32, 32).asnumpy()
    found = attention.attention_of(net, image, layer, (20, 9))
    assert size in (None, found.map().shape)
    row, column = found.query
    assert (row, column) == (20 * found.query_size[0] // 32, 9 * found.query_size[1] // 32)
    assert found.map().sum() == pytest.approx(1)


def test_mistakes_are_told():
    net = create_model("acmix_swin_digits", 10).set_train(False)
    image = maps(3, 32, 32).asnumpy()
    with pytest.raises(UserError, match=r"layers\.0\.blocks\.0\.attn"):
        attention.attention_of(net, image, "layers.0.blocks.0.att", (0, 0))
    with pytest.raises(UserError, match="pixel 32 0 is outside the image of 32x32"):
        attention.attention_of(net, image, "layers.0.blocks.0.attn", (32, 0))
    with pytest.raises(UserError, match="has no attention"):
        attention.attention_of(create_model("resnet_digits", 10), image, "layer1", (0, 0))


@pytest.mark.parametrize("count", [1, 4, 7])
def test_overlay_is_drawn(tmp_path, count):
    weights = np.zeros((2, 4, 4))
    weights[:, 1, 2] = 1
    maps_by_layer = {f"layer{i}": attention.Attention(weights, (1, 2), (4, 4)) for i in range(count)}
    png = tmp_path / "new" / "attention.png"
    figures.plot_attention(maps(3, 16, 16).asnumpy(), (5, 9), maps_by_layer, png)
    assert png.stat().st_size < 200_000
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L"))[:2].min() == 255, "the titles are not cut off"


def test_command_tells_what_is_wrong(run_cli):
    config = ("--config", "configs/classification/acmix_swin_digits.yaml")
    missing = run_cli("scripts/attention.py", *config, "--checkpoint", "no.ckpt", "--pixel", 1, 2, "--output", "x.png")
    assert (missing.code, missing.stderr) == (2, "error: checkpoint no.ckpt does not exist\n")
    words = run_cli("scripts/attention.py", *config, "--checkpoint", "no.ckpt", "--pixel", "a", 2, "--output", "x.png")
    assert words.code == 2
    assert words.stderr.startswith("error: argument --pixel: invalid int value: 'a'")
