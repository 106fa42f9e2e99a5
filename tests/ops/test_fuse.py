"""The fused net computes what the train form computes, for every form, option and model, and leaves that as it was."""

from __future__ import annotations

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import ACmix, GlobalACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, runtime
from acmix_ms.analysis.complexity import complexity
from acmix_ms.analysis.work import count_params
from acmix_ms.deploy import export, verify
from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError
from acmix_ms.ops import fold, fused, fused_tokens, kernels
from acmix_ms.ops.fuse import fuse, randomise, relative_difference
from models import create_model, list_models
from scripts import verify as verify_script

TOLERANCE = 1e-5
SHIFTS, MIXES = ["tensor", "fixed", "random", "learned"], ["attention", "conv", "sum", "alpha_one", "alpha", "learned"]
FORMS = list(fold.FORMS)


def build(form: str, **options) -> tuple[nn.Cell, tuple]:
    """A random operator of a form, followed by a BatchNorm where it makes maps, and inputs for it."""
    makes_maps = form in ("sliding", "patchwise")
    if form == "sliding":
        size = options.pop("size", (9, 10))
        net, inputs = ACmix(6, 16, **options), ((2, 6, *size),)
    elif form == "patchwise":
        size = options.pop("size", (9, 10))
        options = {"share_channels": 4, **options}
        net, inputs = PatchwiseACmix(6, 16, **options), ((2, 6, *size),)
    elif form == "window":
        net, inputs = WindowACmix(16, (3, 4), 4, **options), ((2, 9, 8, 16), (6, 12, 12))
    elif form == "reduction":
        net, inputs = SpatialReductionACmix(16, 4, sr_ratio=2, **options), ((2, 63, 16), 9, 7)
    else:
        net, inputs = GlobalACmix(16, 4, **options), ((2, 31, 16), 5, 6)
    if makes_maps:
        net = nn.SequentialCell(net, nn.BatchNorm2d(16), nn.ReLU())
    rng = np.random.default_rng(1)
    inputs = tuple(
        value if isinstance(value, int) else Tensor(rng.standard_normal(value).astype(np.float32)) for value in inputs
    )
    randomise(net)
    return net.set_train(False), inputs


def force(monkeypatch, form: str) -> None:
    monkeypatch.setattr(fold, "cheapest_form", lambda costs, **sizes: form)


def check(net: nn.Cell, inputs: tuple, tolerance: float = TOLERANCE) -> nn.Cell:
    after = fuse(net)
    assert relative_difference(after(*inputs), net(*inputs)) < tolerance
    return after


# ------------------------------------------------------------------------------------------------------- operators
@pytest.mark.parametrize("conv", FORMS)
@pytest.mark.parametrize("form", ["sliding", "patchwise", "window", "reduction", "global"])
def test_every_option_of_every_form(monkeypatch, form, conv):
    force(monkeypatch, conv)
    for shift in SHIFTS:
        for mix in MIXES:
            net, inputs = build(form, shift=shift, mix=mix)
            check(net, inputs)


@pytest.mark.parametrize("conv", FORMS)
@pytest.mark.parametrize("form", ["sliding", "patchwise"])
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"dilation": 2},
        {"stride": 3, "dilation": 2, "attn_kernel_size": 5, "conv_kernel_size": 5, "mix": "conv"},
        {"stride": 2, "conv_kernel_size": 1, "num_heads": 2},
    ],
    ids=str,
)
def test_sizes_and_strides(monkeypatch, options, form, conv):
    force(monkeypatch, conv)
    for size in ((1, 1), (2, 5), (13, 9)):  # (2, 5) is smaller than a window
        net, inputs = build(form, size=size, **options)
        check(net, inputs)


@pytest.mark.parametrize("conv", FORMS)
@pytest.mark.parametrize("form", ["window", "reduction", "global"])
def test_tokens_without_biases_and_with_large_kernels(monkeypatch, form, conv):
    force(monkeypatch, conv)
    check(*build(form, qkv_bias=False))
    check(*build(form, conv_kernel_size=5))


@pytest.mark.parametrize("conv", FORMS)
@pytest.mark.parametrize("form", ["sliding", "patchwise", "window", "reduction", "global"])
def test_half_precision(monkeypatch, form, conv):
    force(monkeypatch, conv)
    net, inputs = build(form)
    expected = net(*inputs)
    half = fuse(net).to_float(ms.float16)(*inputs)
    assert relative_difference(half, expected) < 1e-2


def test_zero_rates_and_scales():
    # Nothing may be divided by what is folded.
    net, inputs = build("sliding")
    net[0].rate1.set_data(Tensor([0.0], ms.float32))
    net[1].gamma.set_data(Tensor(np.zeros(16, np.float32)))
    check(net, inputs)


@pytest.mark.parametrize("form", ["sliding", "patchwise", "window", "reduction", "global"])
@pytest.mark.parametrize("conv", FORMS)
def test_a_mistake_would_be_seen(monkeypatch, form, conv):
    """Each number of a fused operator matters: with any parameter's sign turned, the proof fails."""
    force(monkeypatch, conv)
    net, inputs = build(form)
    expected, after = net(*inputs), fuse(net)
    for parameter in after.get_parameters():
        value = parameter.asnumpy()
        if not value.any() or parameter.name.endswith(("moving_mean", "moving_variance")):
            continue
        parameter.set_data(Tensor(-value))
        assert relative_difference(after(*inputs), expected) > 1e-4, parameter.name
        parameter.set_data(Tensor(value))
    assert relative_difference(after(*inputs), expected) < TOLERANCE


def with_small_variances(net: nn.Cell) -> nn.Cell:
    """Variances from far below a norm's epsilon to far above it, with gains that keep the outputs where they were."""
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d):
            variance = np.geomspace(1e-7, 1e-1, cell.num_features)
            gain = cell.gamma.asnumpy() * np.sqrt(variance + cell.eps)
            cell.moving_variance.set_data(Tensor(variance.astype(np.float32)))
            cell.gamma.set_data(Tensor(gain.astype(np.float32)))
    return net


@pytest.mark.parametrize("conv", FORMS)
@pytest.mark.parametrize("form", ["sliding", "patchwise"])
def test_epsilon_of_a_norm_matters(monkeypatch, form, conv):
    """Where a channel hardly varies, the epsilon is all that its scale is made of."""
    force(monkeypatch, conv)
    net, inputs = build(form)
    check(with_small_variances(net), inputs)
    conv = nn.SequentialCell(nn.Conv2d(6, 16, 3), nn.BatchNorm2d(16))
    check(with_small_variances(randomise(conv)).set_train(False), inputs)


# ------------------------------------------------------------------------------------------------------------ nets
def test_the_net_is_left_as_it_was():
    net, inputs = build("sliding")
    net.set_train(True)
    before = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    after = fuse(net)
    for parameter in after.get_parameters():
        parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    assert net.training and not after.training
    assert {p.name for p in net.get_parameters()} == set(before)
    assert all(np.array_equal(p.asnumpy(), before[p.name]) for p in net.get_parameters())


def test_fusing_twice_changes_nothing():
    net = create_model("acmix_resnet_digits", num_classes=10)
    randomise(net)
    once = fuse(net)
    twice = fuse(once)
    x = Tensor(np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32))
    assert [p.name for p in twice.get_parameters()] == [p.name for p in once.get_parameters()]
    assert np.array_equal(once(x).asnumpy(), twice(x).asnumpy())


def test_only_norms_that_follow_a_convolution_are_folded():
    class Other(nn.Cell):
        """Its norm follows the convolution in __init__ only."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def construct(self, x):
            return self.norm(ms.ops.relu(self.conv(x)))

    for net in (
        Other(),
        nn.SequentialCell(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.SequentialCell(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
        nn.SequentialCell(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, use_batch_statistics=True)),
        nn.BatchNorm2d(3),
    ):
        randomise(net)
        after = check(net.set_train(False), (Tensor(np.random.rand(2, 3, 5, 5).astype(np.float32)),))
        assert any(isinstance(cell, nn.BatchNorm2d) for _, cell in after.cells_and_names())
    net = nn.SequentialCell(nn.Conv2d(4, 6, 3, 2, pad_mode="valid", group=2, has_bias=True), nn.BatchNorm2d(6))
    randomise(net)
    after = check(net.set_train(False), (Tensor(np.random.rand(2, 4, 7, 8).astype(np.float32)),))
    assert [type(cell) for cell in after] == [kernels.Conv2d, nn.Identity]


SMALL = [name for name in list_models(task="classification") if name.endswith("_digits")]


def net_and_images(name: str, size: int, **options) -> tuple[nn.Cell, Tensor]:
    net = create_model(name, num_classes=10, **options)
    randomise(net)
    return net.set_train(False), Tensor(np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32))


@pytest.mark.parametrize("name", SMALL)
def test_small_models(name):
    net, images = net_and_images(name, 32)
    after = check(net, (images,))
    names = [p.name for p in after.get_parameters()]
    assert len(set(names)) == len(names) and all(names)
    if "acmix" in name:
        kinds = (fused.FusedACmix, fused.FusedPatchwise, fused_tokens._FusedTokens)
        assert any(isinstance(cell, kinds) for _, cell in after.cells_and_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models(task="classification") if name not in SMALL])
def test_large_models(name):
    net, images = net_and_images(name, 64)
    check(net, (images,))


@pytest.mark.parametrize("name", ["aa_resnet50", "botnet50", "lrnet50", "acmix_pvt_tiny", "acmix_deit_tiny"])
def test_families_without_a_small_model(name):
    net, images = net_and_images(name, 32)
    after = check(net, (images,))
    if name.endswith("50"):  # the norms of all of them have a place
        assert not any(isinstance(cell, nn.BatchNorm2d) for _, cell in after.cells_and_names())


def test_features():
    net, images = net_and_images("acmix_swin_digits", 36, features_only=True, mix="alpha", shift="tensor")
    for given, expected in zip(fuse(net)(images), net(images)):
        assert relative_difference(given, expected) < TOLERANCE


# ------------------------------------------------------------------------------------------------- cost and size
@pytest.mark.parametrize("name", ["acmix_resnet_digits", "acmix_swin_digits", "acmix_san_digits", "acmix_pvt_tiny"])
@pytest.mark.parametrize("conv", FORMS)
def test_fused_nets_are_counted(monkeypatch, name, conv):
    force(monkeypatch, conv)
    net = create_model(name, num_classes=10)
    after = fuse(net)
    found = complexity(after, (1, 3, 32, 32))
    assert found.params == count_params([after])
    assert found.macs(stage="II") > 0
    # Every parameter belongs to a piece of work, but for position tables and norms that no convolution precedes.
    outside = re.compile(r"^(pos_embed\d|cls_token)$|(^|\.)bn\w*\.(gamma|beta)$")
    left = sum(p.size for p in after.get_parameters() if outside.search(p.name))
    assert found.params - sum(item.params for item in found.items) == left


def test_macs_of_a_dense_convolution_path(monkeypatch):
    force(monkeypatch, "dense")
    found = complexity(fuse(ACmix(8, 16)), (1, 8, 10, 12))
    pixels = 10 * 12
    assert found.macs() == pixels * (3 * 8 * 16 + 2 * 49 * 16 + 9 * 8 * 16 + 9 * 16)
    assert found.params == 3 * 8 * 16 + 16 + 2 * 4 + 9 * 8 * 16 + 9 * 16 + 16


def test_rule_of_costs():
    cpu, ascend = fold.costs_of("CPU"), fold.costs_of("Ascend")
    sizes = {"kernel_size": 3, "num_heads": 4}
    assert fold.cheapest_form(cpu, in_channels=64, channels=64, **sizes) == "dense"
    assert fold.cheapest_form(cpu._replace(weight=0.01), in_channels=64, channels=64, **sizes) != "dense"
    assert fold.cheapest_form(cpu._replace(weight=0.01), in_channels=16, channels=16, **sizes) == "dense"
    assert fold.cheapest_form(cpu, in_channels=512, channels=512, **sizes) != "dense"
    # What was measured: narrow groups are folded, wide ones are not.
    assert fold.cheapest_form(cpu, in_channels=96, channels=96, num_heads=3, kernel_size=3) == "grouped"
    assert fold.cheapest_form(cpu, in_channels=384, channels=384, num_heads=12, kernel_size=3) == "factored"
    # An Ascend merges groups, and needs no other order of the projections: narrow ones are as good as folded.
    assert fold.cheapest_form(ascend, in_channels=64, channels=64, **sizes) == "grouped"
    assert fold.cheapest_form(cpu._replace(weight=10.0), in_channels=64, channels=64, **sizes) != "dense"
    with pytest.raises(ValueError, match="device=.TPU.: choose from CPU, Ascend, GPU"):
        fold.costs_of("TPU")


def test_groups_are_merged_as_cann_merges_them():
    """Padded multiply-adds for an output pixel of a 3x3 group convolution of 64 and 512 channels with 4 heads."""
    for dim, nine, twelve in ((16, 82_944, 27_648), (128, 663_552, 221_184)):
        for given, expected in ((9, nine), (12, twelve)):
            merged = fold.merged_groups(given, 4, dim, 16)
            sides = [-(-channels * merged // 16) * 16 for channels in (given, 4)]
            assert dim // merged * 9 * sides[0] * sides[1] == expected
    assert fold.merged_groups(9, 4, 16, 1) == 1, "no cube, no merging"



def test_fused_file_is_smaller_and_computes_what_was_trained(tmp_path):
    runtime.start("CPU", "graph")
    net, images = net_and_images("acmix_resnet_digits", 32)
    before = export(net, "mindir", tmp_path / "train.mindir", image_size=32, batch=2)
    after = export(fuse(net), "mindir", tmp_path / "fused.mindir", image_size=32, batch=2, reference=net)
    assert after.stat().st_size < before.stat().st_size
    assert verify(after, net, [images.asnumpy()]).relative < TOLERANCE


# -------------------------------------------------------------------------------------------------------- commands
def test_export_fuses_unless_told_otherwise(run_cli, tmp_path):
    command = ["--model", "acmix_resnet_digits", "--num-classes", 10, "--image-size", 32, "--format", "mindir"]
    fused_file, trained_file = tmp_path / "fused.mindir", tmp_path / "trained.mindir"
    for file, more in ((fused_file, []), (trained_file, ["--no-fuse"])):
        result = run_cli("export.py", *command, "--output", file, *more)
        assert result.code == 0, result.stderr
    assert fused_file.stat().st_size < trained_file.stat().st_size


def test_verify_proves_models(monkeypatch, capsys):
    assert verify_script.main(["resnet_digits", "acmix_swin_digits", "num_classes=10", "--image-size", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["resnet_digits", "acmix_swin_digits"]
    monkeypatch.setattr(fold, "rates", lambda cell: (0.5, 0.5))  # a mistake
    assert verify_script.main(["acmix_resnet_digits", "num_classes=10", "--image-size", "32"]) == 3
    assert "TOO LARGE" in capsys.readouterr().out


def test_verify_reads_checkpoints(tmp_path, capsys):
    net = create_model("acmix_resnet_digits", num_classes=7)
    randomise(net)
    meta = {"model": "acmix_resnet_digits", "num_classes": 7}
    checkpoint.save(tmp_path / "net.ckpt", net.parameters_dict(), meta=meta)
    assert verify_script.main([str(tmp_path / "net.ckpt"), "--image-size", "32"]) == 0
    checkpoint.save(tmp_path / "nameless.ckpt", net.parameters_dict(), meta={"num_classes": 7})
    with pytest.raises(UserError, match="does not say of which model"):
        verify_script.main([str(tmp_path / "nameless.ckpt")])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "or --all"),
        (["--all", "resnet26"], "or --all"),
        (["resnet_digit"], "resnet_digits"),
        (["none.ckpt"], "none.ckpt does not exist"),
        (["resnet_digits", "--image-size", "8"], "at least 32"),
    ],
)
def test_verify_names_mistakes(arguments, told):
    with pytest.raises(UserError, match=told):
        verify_script.main(arguments)
