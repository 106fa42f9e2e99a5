"""The operator against the official vectors and the float64 reference: outputs, gradients, every option, bad input."""

from __future__ import annotations

import contextlib

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import ACmix, SpatialReductionACmix, WindowACmix, runtime
from acmix_ms.ops import functional as F
from acmix_ms.ops import kernels, reference
from acmix_ms.ops.neighborhood import reflect_index
from models.pretrained import load_torch_state

ACMIX_VECTORS = [
    "acmix_64_64_k7_h4_s1_14x14",
    "acmix_64_64_k7_h4_s2_14x14",
    "acmix_32_64_k7_h4_s1_12x16",
    "acmix_32_64_k7_h4_s2_12x16",
    "acmix_64_64_k7_h4_s1_13x9",
    "acmix_64_64_k7_h4_s1_7x7",
    "acmix_64_64_k3_h8_s1_10x10",
    "acmix_48_32_k5_h2_s2_10x6",
]
WINDOW_VECTORS = ["winattn_acmix_96_h3_w7_14x14_nomask", "winattn_acmix_96_h3_w7_14x14_mask"]
TOLERANCE = 1e-5
CANCELLING_TOLERANCE = 3e-7  # of a sum that nearly cancels: of the magnitudes it is made of; float32 has 1.2e-7


def relative(actual, expected) -> float:
    """Largest difference over the largest expected magnitude."""
    actual = actual.asnumpy() if isinstance(actual, Tensor) else actual
    return float(np.abs(actual.astype(np.float64) - expected).max() / np.abs(expected).max())


def official_state(file: dict) -> dict[str, np.ndarray]:
    return {name[len("state/") :]: value for name, value in file.items() if name.startswith("state/")}


def check_against(net: nn.Cell, file: dict, mode: str, *extra) -> None:
    """Output and every gradient of L = sum(output * G) against an official run."""
    runtime.start(mode=mode)
    load_torch_state(net, official_state(file))
    weight, parameters = Tensor(file["grad_output"]), net.trainable_params()

    def loss(x):
        y = net(x, *extra)
        return (y * weight).sum(), y

    step = ms.value_and_grad(loss, 0, parameters, has_aux=True)
    (_, output), (grad_input, grads) = (ms.jit(step) if mode == "graph" else step)(Tensor(file["input"]))
    assert relative(output, file["output"]) < TOLERANCE
    assert relative(grad_input, file["grad_input"]) < TOLERANCE
    assert {p.name for p in parameters} == {name[5:] for name in file if name.startswith("grad/")}
    for parameter, grad in zip(parameters, grads):
        expected = file[f"grad/{parameter.name}"]
        if parameter.name == "conv_p.bias":  # cancels in the softmax: zero but for rounding
            assert np.abs(grad.asnumpy()).max() < 1e-4
        elif parameter.name in ("rate1", "rate2"):
            error = abs(float(grad.asnumpy().item()) - float(expected.item()))
            assert error < CANCELLING_TOLERANCE * rate_magnitude(net, parameter.name, file, *extra), parameter.name
        else:
            assert relative(grad, expected) < TOLERANCE, parameter.name


def rate_magnitude(net: nn.Cell, name: str, file: dict, *extra) -> float:
    """Sum of the magnitudes that a rate's gradient is the sum of: of grad_output times the path that it weighs.

    How nearly they cancel in float32, in the official run as in ours, depends on the order in which kernels add.
    """
    rates = {rate: getattr(net, rate).value().asnumpy() for rate in ("rate1", "rate2")}
    outputs = []
    for own in (1.0, 0.0):
        for rate in rates:
            getattr(net, rate).set_data(Tensor(np.full_like(rates[rate], own if rate == name else 0.0)))
        outputs.append(net(Tensor(file["input"]), *extra).asnumpy().astype(np.float64))
    for rate, value in rates.items():
        getattr(net, rate).set_data(Tensor(value))
    return float(np.abs((outputs[0] - outputs[1]) * file["grad_output"]).sum())


def acmix_options(file: dict) -> tuple[int, int, dict]:
    in_channels, out_channels, *values = (int(v) for v in file["config"])
    names = ("attn_kernel_size", "num_heads", "conv_kernel_size", "stride")
    return in_channels, out_channels, dict(zip(names, values))


@pytest.mark.parametrize(("backend", "mode"), [("halo", "pynative"), ("halo", "graph"), ("unfold", "pynative")])
@pytest.mark.parametrize("name", ACMIX_VECTORS)
def test_acmix_equals_official(vectors, name, backend, mode):
    file = vectors(name)
    in_channels, out_channels, options = acmix_options(file)
    check_against(ACmix(in_channels, out_channels, backend=backend, **options), file, mode)


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("name", WINDOW_VECTORS)
def test_window_acmix_equals_official(vectors, name, mode):
    file = vectors(name)
    mask = (Tensor(file["mask"]),) if "mask" in file else ()
    check_against(WindowACmix(96, 7, 3), file, mode, *mask)


@pytest.mark.parametrize("name", ACMIX_VECTORS)
def test_each_path_equals_official(vectors, name):
    file = vectors(name)
    in_channels, out_channels, options = acmix_options(file)
    x, state = Tensor(file["input"]), official_state(file)
    for rates, key in (((1, 0), "out_att_only"), ((0, 1), "out_conv_only")):
        net = ACmix(in_channels, out_channels, **options)
        load_torch_state(net, {**state, "rate1": np.float32([rates[0]]), "rate2": np.float32([rates[1]])})
        assert relative(net(x), file[key]) < TOLERANCE
    for mix, key in (("attention", "out_att_only"), ("conv", "out_conv_only")):
        net = ACmix(in_channels, out_channels, mix=mix, **options)
        load_torch_state(net, {p.name: state[p.name] for p in net.get_parameters()})
        assert relative(net(x), file[key]) < TOLERANCE


@pytest.mark.parametrize("name", ACMIX_VECTORS + WINDOW_VECTORS)
def test_reference_equals_official(vectors, name):
    file = vectors(name)
    if "config" in file:
        output = reference.acmix(file["input"], official_state(file), **acmix_options(file)[2])
    else:
        output = reference.window_acmix(
            file["input"], official_state(file), window_size=(7, 7), num_heads=3, mask=file.get("mask")
        )
    assert relative(output, file["output"]) < TOLERANCE


def test_fresh_shift_kernels_equal_official(vectors):
    file = vectors(ACMIX_VECTORS[0])
    assert np.array_equal(ACmix(64, 64).dep_conv.weight.asnumpy(), file["init_dep_conv_weight"])


# ------------------------------------------------------------------------------------- what the official code cannot
def filled(net: nn.Cell, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights in every trainable parameter (frozen kernels stay); returns them all."""
    rng = np.random.default_rng(seed)
    for parameter in net.trainable_params():
        parameter.set_data(Tensor((0.3 * rng.standard_normal(parameter.shape)).astype(np.float32)))
    return {p.name: p.asnumpy() for p in net.get_parameters()}


OPTIONS = [
    {},
    {"stride": 2},
    {"dilation": 2},
    {"stride": 3, "dilation": 3, "attn_kernel_size": 5, "conv_kernel_size": 5},
    {"attn_kernel_size": 1, "conv_kernel_size": 1, "num_heads": 2},
    {"attn_kernel_size": 9, "stride": 2, "conv_kernel_size": 7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (9, 8), (15, 22)], ids=str)
def test_any_size_equals_reference(size, options):
    net = ACmix(6, 16, **options)
    state = filled(net)
    x = np.random.default_rng(1).standard_normal((2, 6, *size)).astype(np.float32)
    expected = reference.acmix(x, state, **options)
    stride = options.get("stride", 1)
    assert expected.shape == (2, 16, -(-size[0] // stride), -(-size[1] // stride))
    output = net(Tensor(x))
    assert output.shape == expected.shape
    assert relative(output, expected) < TOLERANCE
    half = net(Tensor(x, ms.float16))
    assert half.dtype == ms.float16
    assert relative(half, expected) < 5e-3
    unfolded = ACmix(6, 16, backend="unfold", **options)
    ms.load_param_into_net(unfolded, {name: ms.Parameter(value) for name, value in state.items()})
    assert relative(unfolded(Tensor(x)), expected) < TOLERANCE


@pytest.mark.parametrize("size", [(16, 16), (15, 7), (1, 3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_output_size_is_that_of_a_convolution(size, stride):
    conv = nn.Conv2d(8, 16, 3, stride, pad_mode="pad", padding=1)
    x = Tensor(np.ones((1, 8, *size), np.float32))
    assert ACmix(8, 16, stride=stride)(x).shape == conv(x).shape


def test_mirroring_is_numpys_again_and_again():
    for size in (1, 2, 3, 5):
        expected = np.pad(np.arange(size), 11, mode="reflect")
        assert np.array_equal(reflect_index(np.arange(-11, size + 11), size), expected)


@pytest.mark.parametrize("shift", ["tensor", "fixed", "random", "learned"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2, "conv_kernel_size": 5}, {"dilation": 9}], ids=str
)
def test_shift_forms_equal_reference(shift, options):
    net = ACmix(8, 16, shift=shift, **options)
    x = np.random.default_rng(1).standard_normal((2, 8, 9, 8)).astype(np.float32)
    expected = reference.acmix(x, filled(net), **options)
    assert relative(net(Tensor(x)), expected) < TOLERANCE
    trainable = {p.name for p in net.trainable_params()}
    assert ("dep_conv.weight" in trainable) == (shift in ("random", "learned"))
    if shift != "tensor":
        kernels = F.shift_kernels(16, options.get("conv_kernel_size", 3))
        is_shift = np.array_equal(net.dep_conv.weight.asnumpy(), kernels)
        assert is_shift == (shift == "fixed")  # the trainable ones were filled above


def test_tensor_shifts_equal_fixed_kernels():
    fixed, moved = ACmix(8, 16, shift="fixed"), ACmix(8, 16, shift="tensor")
    state = filled(fixed)
    ms.load_param_into_net(moved, {n: ms.Parameter(v) for n, v in state.items() if n != "dep_conv.weight"})
    x = Tensor(np.random.default_rng(1).standard_normal((2, 8, 9, 8)).astype(np.float32))
    assert relative(moved(x), fixed(x).asnumpy()) < 1e-6


@pytest.mark.parametrize("mix", ["attention", "conv", "sum", "alpha_one", "alpha", "learned"])
def test_mixes_equal_reference(mix):
    net = ACmix(8, 16, mix=mix)
    x = np.random.default_rng(1).standard_normal((2, 8, 9, 8)).astype(np.float32)
    expected = reference.acmix(x, filled(net), mix=mix)
    assert relative(net(Tensor(x)), expected) < TOLERANCE
    window = WindowACmix(16, (3, 2), 2, mix=mix)
    x = np.random.default_rng(1).standard_normal((2, 6, 8, 16)).astype(np.float32)
    mask = np.random.default_rng(2).standard_normal((8, 6, 6)).astype(np.float32)
    expected = reference.window_acmix(x, filled(window), window_size=(3, 2), num_heads=2, mask=mask, mix=mix)
    assert relative(window(Tensor(x), Tensor(mask)), expected) < TOLERANCE
    for cell in (net, window):
        names = {p.name for p in cell.trainable_params()}
        assert ("rate1" in names, "rate2" in names) == (mix in ("alpha_one", "alpha", "learned"), mix == "learned")
        assert ("fc.weight" in names) == (mix != "attention")


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"shift": "tensor", "stride": 2}], ids=str)
@pytest.mark.parametrize("mode", ["pynative", "graph"])
def test_gradients_equal_differences_of_the_reference(options, mode):
    runtime.start(mode=mode)
    net = ACmix(6, 8, num_heads=2, attn_kernel_size=5, **options)
    state = filled(net)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 6, 9, 11))
    numeric = {k: v for k, v in options.items() if k != "shift"}

    def judge(x, state):
        return reference.acmix(x, state, num_heads=2, attn_kernel_size=5, **numeric)

    weight = rng.standard_normal(judge(x, state).shape)
    factor = Tensor(weight.astype(np.float32))

    def loss(x):
        return (net(x) * factor).sum()

    parameters = net.trainable_params()
    step = ms.grad(loss, 0, parameters)
    grad_input, grads = (ms.jit(step) if mode == "graph" else step)(Tensor(x.astype(np.float32)))
    # Along a random direction of all of them at once, in float64.
    direction = {p.name: rng.standard_normal(p.shape) for p in parameters}
    towards = rng.standard_normal(x.shape)
    eps = 1e-5

    def moved(sign: int) -> float:
        there = {n: v + sign * eps * direction[n] if n in direction else v for n, v in state.items()}
        return (judge(x + sign * eps * towards, there) * weight).sum()

    expected = (moved(1) - moved(-1)) / (2 * eps)
    actual = (grad_input.asnumpy() * towards).sum()
    actual += sum((g.asnumpy() * direction[p.name]).sum() for p, g in zip(parameters, grads))
    assert abs(actual - expected) < 1e-4 * abs(expected)


def test_half_precision_stays_finite_with_sharp_attention():
    net = ACmix(8, 16)
    filled(net)
    x = Tensor(np.random.default_rng(1).standard_normal((1, 8, 14, 14)) * 50, ms.float16)
    logits_reach = 1000  # far beyond where exp() overflows in fp16, and in fp32 too
    q, k = (F.project(x, c.weight, c.bias).asnumpy().astype(np.float64) for c in (net.conv1, net.conv2))
    assert np.abs(q[:, :4] * k[:, :4]).sum(1).max() / 2 > logits_reach
    assert np.isfinite(net(x).asnumpy()).all()


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda **drop: WindowACmix(16, (3, 2), 2, **drop), (Tensor(np.ones((2, 6, 8, 16), np.float32)),)),
        (lambda **drop: SpatialReductionACmix(16, 2, **drop), (Tensor(np.ones((2, 48, 16), np.float32)), 6, 8)),
    ],
    ids=["window", "global"],
)
def test_dropout_is_of_training_alone(make, inputs):
    plain = make()
    filled(plain)
    expected = plain(*inputs).asnumpy()
    for drop in ("attn_drop", "proj_drop"):
        net = make(**{drop: 0.5})
        ms.load_param_into_net(net, plain.parameters_dict())
        assert np.array_equal(net.set_train(False)(*inputs).asnumpy(), expected)
        first, second = (net.set_train(True)(*inputs).asnumpy() for _ in range(2))
        assert not np.array_equal(first, second)
        assert (0.4 < (first == 0).mean() < 0.6) == (drop == "proj_drop")


def test_softmax_and_positions_stay_in_float32(monkeypatch):
    logits, grids = [], []
    product, project = kernels.softmax_product, F.project

    def softmax_product(given, v):
        logits.append((given.dtype, v.dtype))
        return product(given, v)

    def watched(x, *more):
        grids.extend([x.dtype] if x.shape[1] == 2 else [])  # the grid has two channels
        return project(x, *more)

    monkeypatch.setattr(kernels, "softmax_product", softmax_product)
    monkeypatch.setattr(F, "project", watched)
    for backend in ("halo", "unfold"):
        ACmix(8, 16, backend=backend)(Tensor(np.ones((1, 8, 9, 9)), ms.float16))
    WindowACmix(16, 3, 4)(Tensor(np.ones((1, 9, 9, 16)), ms.float16))
    SpatialReductionACmix(16, 4)(Tensor(np.ones((1, 12, 16)), ms.float16), 3, 4)
    assert logits == [(ms.float32, ms.float16)] * 4
    assert grids == [ms.float32] * 2


def test_to_float_runs_in_half_precision():
    for net, shape in ((ACmix(8, 16), (1, 8, 9, 9)), (WindowACmix(16, 3, 4), (1, 9, 9, 16))):
        net.to_float(ms.float16)
        assert net(Tensor(np.ones(shape, np.float32))).dtype == ms.float16


def test_replaces_a_convolution_in_a_network():
    net = nn.SequentialCell(nn.Conv2d(3, 8, 3), nn.ReLU(), ACmix(8, 16, stride=2), nn.ReLU())
    for _, cell in net.cells_and_names():  # the loop that many networks run over their convolutions
        if isinstance(cell, nn.Conv2d):
            cell.weight.set_data(ms.common.initializer.initializer("HeNormal", cell.weight.shape))
    assert np.array_equal(net[2].dep_conv.weight.asnumpy(), F.shift_kernels(16, 3))
    runtime.start(mode="graph")
    assert net(Tensor(np.ones((2, 3, 17, 11), np.float32))).shape == (2, 16, 9, 6)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ACmix(8, 10), "out_channels=10 .* num_heads=4"),
        (lambda: ACmix(8, 16, num_heads=0), "num_heads=0"),
        (lambda: ACmix(0, 16), "in_channels=0"),
        (lambda: ACmix(8, 16.0), "out_channels=16.0"),
        (lambda: ACmix(8, 16, attn_kernel_size=4), "attn_kernel_size=4"),
        (lambda: ACmix(8, 16, conv_kernel_size=2), "conv_kernel_size=2"),
        (lambda: ACmix(8, 16, stride=0), "stride=0"),
        (lambda: ACmix(8, 16, dilation=-1), "dilation=-1"),
        (lambda: ACmix(8, 16, shift="learnt"), "shift='learnt'.*learned"),
        (lambda: ACmix(8, 16, mix="both"), "mix='both'"),
        (lambda: ACmix(8, 16, backend="natten"), "backend='natten'"),
        (lambda: WindowACmix(10, 7, 4), "dim=10 .* num_heads=4"),
        (lambda: WindowACmix(16, (7, 7, 7), 4), "window_size="),
        (lambda: WindowACmix(16, 0, 4), "window_height=0"),
        (lambda: WindowACmix(16, 7, 4, conv_kernel_size=4), "conv_kernel_size=4"),
        (lambda: WindowACmix(16, 7, 4)(Tensor(np.ones((1, 14, 15, 16), np.float32))), "14x15.*window_size"),
    ],
)
def test_bad_arguments_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("native", [False, True])
def test_windows_come_back_where_they_were(native):
    x = Tensor(np.arange(2 * 6 * 8 * 6, dtype=np.float32).reshape(2, 6, 8, 6))
    with kernels.native() if native else contextlib.nullcontext():
        windows = F.window_heads(x, 2, (3, 2))
        assert windows.shape == (16, 2, 6, 3)
        assert np.array_equal(windows[1, 1].asnumpy(), x[0, 0:3, 2:4, 3:].reshape(6, 3).asnumpy())
        assert np.array_equal(F.merge_heads(windows, (3, 2), 6, 8).asnumpy(), x.asnumpy())
