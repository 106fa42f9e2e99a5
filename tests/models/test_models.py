"""Every model of the zoo: counts, official logits, forward and backward, features, odd sizes, half precision."""

from __future__ import annotations

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import ACmix, WindowACmix, runtime
from acmix_ms.errors import UserError
from acmix_ms.ops.base import TwoPaths
from acmix_ms.ops.functional import shift_kernels
from models import create_model, list_models, register_model
from models.layers import DropPath, drop_path_rates, resize_positions
from models.pretrained import load_torch_state
from models.swin import PatchMerging, SwinBlock, _attention_mask, roll
from tests.conftest import ROOT
from tests.helpers.official import official_input, official_state
from tests.ops.test_ops import filled, relative

PARAMETERS = {
    "resnet26": 13_696_552,
    "resnet38": 19_626_792,
    "resnet50": 25_557_032,
    "acmix_resnet26": 10_487_816,
    "acmix_resnet38": 14_410_896,
    "acmix_resnet50": 18_333_976,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "acmix_swin_tiny": 28_649_908,
    "acmix_swin_small": 50_345_080,
    "conv_swin_tiny": 39_030_088,
    "san10": 11_841_124,
    "san15": 16_181_310,
    "san19": 20_518_470,
    "acmix_san10": 11_995_152,
    "acmix_san15": 16_414_944,
    "acmix_san19": 20_830_304,
    "pvt_tiny": 13_229_288,
    "pvt_small": 24_485_864,
    "acmix_pvt_tiny": 13_396_128,
    "acmix_pvt_small": 24_824_755,
    "deit_tiny": 5_717_416,
    "acmix_deit_tiny": 5_905_144,
    "pvt_medium": 44_208_104,
    "pvt_large": 61_369_320,
    "acmix_pvt_medium": 44_859_787,
    "acmix_pvt_large": 62_297_329,
    "sasa_resnet26": 10_336_600,
    "sasa_resnet38": 14_181_480,
    "sasa_resnet50": 18_026_360,
    "aa_resnet50": 25_781_872,
    "botnet50": 20_852_008,
    "lrnet50": 23_409_128,
}
OFFICIAL = {  # acmix_resnet26, acmix_swin_tiny, pvt_tiny: in test_weights.py, through a converted file
    "acmix_resnet38": "resnet_acmix38",
    "acmix_resnet50": "resnet_acmix50",
    "acmix_swin_small": "swin_acmix_S",
    "swin_tiny": "swin_tiny",
    "pvt_small": "pvt_small",
}


def images(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def every_block(name: str) -> dict:
    """Options without stochastic depth, which would leave some blocks out of a small batch."""
    return {"drop_path_rate": 0.0} if any(family in name for family in ("swin", "pvt", "deit")) else {}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("acmix_resnet50", {"in_chans": 1}, "in_chans=1; it takes attn_kernel_size, .*features_only, in_channels"),
        ("swin_tiny", {"mix": "sum"}, "mix='sum'; it takes depths, dim"),
        ("acmix_resnet26", {"depths": (1, 1, 1, 1)}, r"depths=\(1, 1, 1, 1\); it takes"),
        ("acmix_swin_tiny", {"depths": 3}, "depths=3: give 4 integers of at least 1"),
        ("acmix_swin_tiny", {"window_size": "7"}, "window_size='7': give an integer of at least 1"),
        ("acmix_pvt_tiny", {"drop_path_rate": float("nan")}, "drop_path_rate=nan: give a rate from 0 to below 1"),
        ("san10", {"features_only": "yes"}, "features_only='yes': give true or false"),
        ("acmix_deit_tiny", {"image_size": 0}, "image_size=0: give an integer"),
        ("lrnet50", {"num_heads": 4}, "num_heads=4; it takes features_only, in_channels"),
    ],
)
def test_arguments_that_a_model_cannot_take_are_told_with_its_name(name, options, told):
    with pytest.raises(UserError, match=f"model '{name}'.*{told}"):
        create_model(name, **options)


def test_registry():
    assert set(PARAMETERS) | {"resnet_digits", "acmix_resnet_digits"} <= set(list_models())
    assert list_models() == sorted(list_models())
    names = ["acmix_swin_digits", "acmix_swin_small", "acmix_swin_tiny"]
    assert list_models("acmix_swin_*", task="classification") == names
    with pytest.raises(UserError, match="'acmix_resnet5'.*'acmix_resnet50'"):
        create_model("acmix_resnet5")
    with pytest.raises(UserError, match="resnet26.*kernel_shape"):
        create_model("resnet26", kernel_shape=3)
    with pytest.raises(UserError, match="num_classes=0"):
        create_model("resnet26", num_classes=0)
    with pytest.raises(ValueError, match="mix='none'"):
        create_model("acmix_resnet_digits", mix="none")

    def resnet26():
        """Of somebody else's, under a name that is taken."""

    with pytest.raises(ValueError, match="'resnet26' is registered"):
        register_model(resnet26)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_exact(name):
    assert sum(p.size for p in create_model(name).trainable_params()) == PARAMETERS[name]


@pytest.mark.parametrize("name", OFFICIAL)
def test_logits_equal_official(vectors, name):
    file = vectors(OFFICIAL[name])
    runtime.start(mode="graph")
    net = create_model(name).set_train(False)
    load_torch_state(net, official_state(file))
    logits = net(Tensor(official_input(file)))
    assert relative(logits, file["logits"]) < 1e-5


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_forward_and_backward(name):
    options = every_block(name)
    net = create_model(name, num_classes=5, **options).set_train(True)
    x, parameters = images(2, 3, 65, 40), net.trainable_params()

    def loss(x):
        logits = net(x)
        return nn.CrossEntropyLoss()(logits, Tensor([1, 4], ms.int32)), logits

    (value, logits), grads = ms.value_and_grad(loss, None, parameters, has_aux=True)(x)
    assert logits.shape == (2, 5)
    assert np.isfinite(value.asnumpy())
    # The constant of the position encoding cancels in the softmax. Where a class token is all that is read, the
    # convolution path of the last block, which has no term for it, has nothing to learn.
    idle = ["conv_p.bias"]
    if "acmix_pvt" in name or "acmix_deit" in name:
        blocks = [p.name for p in parameters if p.name.endswith("attn.rate2")]
        idle += [blocks[-1].replace("rate2", part) for part in ("rate2", "fc.weight", "fc.bias", "dep_conv.weight")]
    for parameter, grad in zip(parameters, grads):
        grad = grad.asnumpy()
        assert np.isfinite(grad).all(), parameter.name
        assert np.abs(grad).max() > 0 or parameter.name.endswith(tuple(idle)), parameter.name


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_features(name):
    net = create_model(name, features_only=True).set_train(False)
    height, width = 67, 45
    maps = net(images(1, 3, height, width))
    assert len(maps) == len(net.feature_strides) == len(net.feature_channels) == (1 if "deit" in name else 4)
    for x, stride, channels in zip(maps, net.feature_strides, net.feature_channels):
        if "net" in name or "swin" in name:  # padded; the others leave a remainder out, as their official code does
            size = (-(-height // stride), -(-width // stride))
        else:
            size = (height // stride, width // stride)
        assert x.shape == (1, channels, *size)
        assert np.isfinite(x.asnumpy()).all()
    assert not [p.name for p in net.get_parameters() if p.name.startswith(("fc.", "head."))]


# Deeper members of a family export the same operators more often.
DEEPER = r"^((acmix_|sasa_)?resnet(38|50)|.*_(small|medium|large)|.*san(15|19))$"
SHALLOWEST = [name for name in list_models(task="classification") if not re.match(DEEPER, name)]


@pytest.mark.parametrize("name", SHALLOWEST)
def test_mindir_and_half_precision(tmp_path, name):
    net = create_model(name, num_classes=5).set_train(False)
    x = images(1, 3, 32, 32)
    eager = net(x).asnumpy()
    runtime.start(mode="graph")
    ms.export(net, x, file_name=str(tmp_path / "m"), file_format="MINDIR")
    loaded = nn.GraphCell(ms.load(str(tmp_path / "m.mindir")))
    assert relative(loaded(x), eager) < 1e-4
    runtime.start(mode="pynative")
    half = net.to_float(ms.float16)(x)
    assert half.dtype == ms.float16
    assert np.isfinite(half.asnumpy()).all()


@pytest.mark.parametrize(
    "name", ["acmix_resnet_digits", "acmix_resnet26", "acmix_swin_tiny", "acmix_san10", "acmix_pvt_tiny"]
)
def test_graph_equals_pynative_and_half_precision_is_near(name):
    # In training mode, so that BatchNorm keeps untrained activations in range.
    options = every_block(name)
    net = create_model(name, num_classes=5, **options).set_train(True)
    x = images(2, 3, 64, 64)
    eager = net(x).asnumpy()
    half = create_model(name, num_classes=5, **options).set_train(True)
    ms.load_param_into_net(half, net.parameters_dict())
    half.to_float(ms.float16)
    logits = half(x)
    assert logits.dtype == ms.float16
    assert relative(logits, eager) < 5e-2
    runtime.start(mode="graph")
    assert relative(net(x), eager) < 1e-4


@pytest.mark.parametrize("name", list_models("acmix_*", task="classification"))
def test_construction_keeps_the_shift_kernels(name):
    cells = [c for _, c in create_model(name).cells_and_names() if isinstance(c, TwoPaths)]
    assert cells
    for cell in cells:
        kernel = cell.dep_conv.weight.asnumpy()
        assert np.array_equal(kernel, shift_kernels(len(kernel), 3))
        assert cell.rate1.asnumpy() == cell.rate2.asnumpy() == 0.5


def test_operator_options_reach_every_block():
    net = create_model("acmix_resnet_digits", shift="fixed", mix="alpha", num_heads=2, attn_kernel_size=3)
    cells = [c for _, c in net.cells_and_names() if isinstance(c, ACmix)]
    assert {(c.shift, c.mix, c.num_heads, c.attn_kernel_size) for c in cells} == {("fixed", "alpha", 2, 3)}
    net = create_model("acmix_swin_tiny", shift="tensor", mix="sum")
    cells = [c for _, c in net.cells_and_names() if isinstance(c, WindowACmix)]
    assert {(c.shift, c.mix) for c in cells} == {("tensor", "sum")}
    assert len(cells) == 12


def test_initial_weights_follow_the_recipes():
    net = create_model("acmix_resnet26")
    weight = net.layer4[0].conv1.weight.asnumpy()  # Kaiming normal, fan out
    assert weight.std() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    net = create_model("swin_tiny")
    dense = net.layers[2].blocks[0].mlp.fc1
    assert dense.weight.asnumpy().std() == pytest.approx(0.02, rel=0.15)
    assert not dense.bias.asnumpy().any()
    table = net.layers[3].blocks[0].attn.relative_position_bias_table.asnumpy()
    assert table.std() == pytest.approx(0.02, rel=0.15)


# ------------------------------------------------------------------------------------------------- pieces of Swin
def swin_block_state(file: dict) -> dict[str, np.ndarray]:
    return {name[6:]: value for name, value in file.items() if name.startswith("state/")}


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("shift", [0, 3])
def test_swin_block_equals_official(vectors, shift, mode):
    name = f"swinblock_acmix_96_h3_w7_14x14_shift{shift}"
    file = {**vectors(name), **vectors(f"{name}_gradients")}
    runtime.start(mode=mode)
    net = SwinBlock(96, 3, 7, shift)
    load_torch_state(net, swin_block_state(file))
    weight, parameters = Tensor(file["grad_output"]).reshape(2, 14, 14, 96), net.trainable_params()

    def loss(x):
        y = net(x)
        return (y * weight).sum(), y

    step = ms.value_and_grad(loss, 0, parameters, has_aux=True)
    x = Tensor(file["input"]).reshape(2, 14, 14, 96)
    (_, output), (grad_input, grads) = (ms.jit(step) if mode == "graph" else step)(x)
    assert relative(output, file["output"].reshape(2, 14, 14, 96)) < 1e-5
    assert relative(grad_input, file["grad_input"].reshape(2, 14, 14, 96)) < 1e-5
    torch_names = {"gamma": "weight", "beta": "bias"}
    for parameter, grad in zip(parameters, grads):
        head, _, last = parameter.name.rpartition(".")
        expected = file["grad/" + (f"{head}." if head else "") + torch_names.get(last, last)]
        tolerance = 1e-4 if last in ("rate1", "rate2") else 1e-5
        assert relative(grad, expected) < tolerance, parameter.name


def test_shift_mask_equals_official(vectors):
    file = vectors("winattn_acmix_96_h3_w7_14x14_mask")
    assert np.array_equal(_attention_mask(14, 14, 7, 3).asnumpy(), file["mask"])
    assert _attention_mask(14, 14, 7, 0) is None


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(10, 12), (8, 15), (21, 9)], ids=str)
def test_mask_lets_only_neighbours_of_the_unrolled_map_meet(size, shift):
    height, width = size
    padded_h, padded_w = -(-height // 7) * 7, -(-width // 7) * 7
    mask = _attention_mask(height, width, 7, shift).asnumpy()
    y, x = np.meshgrid(np.arange(padded_h), np.arange(padded_w), indexing="ij")
    place = np.stack([y, x], -1)
    place = np.roll(place, (-shift, -shift), (0, 1))  # where each position of the rolled map came from
    windows = place.reshape(padded_h // 7, 7, padded_w // 7, 7, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 49, 2)
    for window, table in zip(windows, mask):
        real = (window[:, 0] < height) & (window[:, 1] < width)
        near = (np.abs(window[:, None] - window[None]) < 7).all(-1)  # rolling brought the others together
        both = real[:, None] & real[None]
        assert np.array_equal(table[both] == 0, near[both])
        assert (table[real][:, ~real] == -100).all()


@pytest.mark.parametrize("size", [(10, 12), (3, 5), (7, 20)], ids=str)
def test_padding_never_enters_the_attention(size):
    net = SwinBlock(16, 2, 7, 3, operator={"mix": "attention"})
    filled(net)
    x = images(1, *size, 16).asnumpy()
    expected = net.windows(Tensor(x)).asnumpy()
    assert expected.shape == x.shape
    # The same by hand, with something else than zeros in the padding.
    padded = np.pad(x, ((0, 0), (0, -size[0] % 7), (0, -size[1] % 7), (0, 0)), constant_values=2.0)
    shift = 3 if min(size) > 7 else 0
    rolled = Tensor(np.roll(padded, (-shift, -shift), (1, 2)))
    out = net.attn(rolled, _attention_mask(*size, 7, shift)).asnumpy()
    out = np.roll(out, (shift, shift), (1, 2))[:, : size[0], : size[1]]
    assert relative(out, expected) < 1e-5


def test_positions_are_resized_bilinearly():
    table = Tensor(np.arange(8, dtype=np.float32).reshape(1, 4, 2))  # 2x2 positions of two channels
    assert resize_positions(table, 2, 2, 2) is table
    wide = resize_positions(table, 2, 2, 4).asnumpy().reshape(2, 4, 2)
    assert np.allclose(wide[0, :, 0], [0, 0.5, 1.5, 2])  # half-pixel centres, edges repeated
    tall = resize_positions(table, 2, 4, 2).asnumpy().reshape(4, 2, 2)
    assert np.allclose(tall[:, 1, 1], [3, 4, 6, 7])
    small = resize_positions(table, 2, 1, 1).asnumpy()
    assert np.allclose(small, table.asnumpy().mean(1))


def test_roll_and_merging_equal_numpy():
    x = images(2, 6, 9, 4)
    for shift in (-3, 2):
        assert np.array_equal(roll(x, shift).asnumpy(), np.roll(x.asnumpy(), (shift, shift), (1, 2)))
    net = PatchMerging(4)
    net.norm, net.reduction = nn.Identity(), nn.Identity()
    merged = net(x).asnumpy()
    a = np.pad(x.asnumpy(), ((0, 0), (0, 0), (0, 1), (0, 0)))
    parts = [a[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert np.array_equal(merged, np.concatenate(parts, -1))


def test_drop_path_drops_samples_and_keeps_the_mean():
    net, x = DropPath(0.4), Tensor(np.ones((1000, 2, 3), np.float32))
    assert np.array_equal(net.set_train(False)(x).asnumpy(), x.asnumpy())
    y = net.set_train(True)(x).asnumpy()
    assert set(np.unique(y.round(4))) == {0.0, np.float32(1 / 0.6).round(4)}
    assert (y == y[:, :1, :1]).all()
    assert y.mean() == pytest.approx(1, abs=0.1)
    rates = drop_path_rates(0.2, (2, 2, 6, 2))
    assert [len(r) for r in rates] == [2, 2, 6, 2]
    assert rates[0][0] == 0
    assert rates[3][1] == pytest.approx(0.2)


def test_readme_table_is_true():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: int(count.replace(",", "")) for name, count in rows} == PARAMETERS
