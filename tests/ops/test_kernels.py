"""The kernels chosen on CPU compute what the native operators compute, forward and backward, in both modes."""

from __future__ import annotations

import contextlib

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from acmix_ms import runtime
from acmix_ms.ops import ACmix, WindowACmix, fold, kernels
from acmix_ms.ops import functional as F
from acmix_ms.ops.neighborhood import places

RNG = np.random.default_rng(5)


def tensor(*shape, scale=1.0, offset=0.0):
    return Tensor((offset + scale * RNG.standard_normal(shape)).astype(np.float32))


class Norm(nn.Cell):
    def __init__(self):
        super().__init__()
        self.norm = kernels.LayerNorm(12)

    def construct(self, x):
        return self.norm(x)


def scaled(x, rate):
    return kernels.scale(x, rate)


CASES = {
    "gelu": (kernels.gelu, [tensor(40, 9, scale=3)]),
    "softmax_product, long rows": (kernels.softmax_product, [tensor(6, 5, 40, scale=3), tensor(6, 40, 4)]),
    "softmax_product, short rows": (kernels.softmax_product, [tensor(6, 5, 7, scale=3), tensor(6, 7, 4)]),
    "LayerNorm": (Norm(), [tensor(3, 5, 12, scale=2, offset=7)]),
    "LayerNorm, nearly constant rows": (Norm(), [tensor(3, 5, 12, scale=3e-3)]),
    "add_channels, rows": (kernels.add_channels, [tensor(8, 5), tensor(5)]),
    "add_channels, maps": (kernels.add_channels, [tensor(2, 5, 4, 3), tensor(5)]),
    "add_rows": (kernels.add_rows, [tensor(4, 2, 3, 5), tensor(3, 5)]),
    "scale": (scaled, [tensor(2, 5, 4, 3), tensor(1)]),
    "linear": (kernels.linear, [tensor(2, 3, 6), tensor(4, 6), tensor(4)]),
    "swap_last": (kernels.swap_last, [tensor(3, 4, 9)]),
    "swap_back": (kernels.swap_back, [tensor(3, 9, 4)]),
}

OPERATORS = {
    "sliding, dense": (lambda: ACmix(16, 16), [tensor(2, 16, 9, 8)]),
    "sliding, two layers": (lambda: ACmix(96, 128), [tensor(1, 96, 6, 5)]),
    "sliding, stride 2, dilation 2": (lambda: ACmix(16, 16, stride=2, dilation=2), [tensor(2, 16, 9, 8)]),
    "windows, dense": (lambda: WindowACmix(16, 3, 2), [tensor(2, 6, 9, 16)]),
    "windows, conv alone": (lambda: WindowACmix(16, 3, 2, mix="conv"), [tensor(2, 6, 9, 16)]),
}


class Call(nn.Cell):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, *inputs):
        return self.function(*inputs)


class Gradient(nn.Cell):
    def __init__(self, net):
        super().__init__()
        self.net, self.gradient = net, ops.GradOperation(get_all=True, sens_param=True)

    def construct(self, *inputs):
        return self.gradient(self.net)(*inputs)


def outputs(function, inputs):
    """Result and gradients of all inputs, for a fixed gradient of the result."""
    net = Call(function)
    result = net(*inputs)
    weight = Tensor(np.random.default_rng(0).standard_normal(result.shape).astype(np.float32))
    return [value.asnumpy() for value in (result, *Gradient(net)(*inputs, weight))]


@pytest.mark.parametrize("mode", ["graph", "pynative"])
@pytest.mark.parametrize("case", CASES)
def test_fast_kernels_equal_native_ones(case, mode):
    runtime.start("CPU", mode)
    function, inputs = CASES[case]
    fast = outputs(function, inputs)
    with kernels.native():
        native = outputs(function, inputs)
    for given, expected in zip(fast, native):
        assert np.abs(given - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1.0)


@pytest.mark.parametrize("case", OPERATORS)
def test_operators_of_fast_kernels_equal_those_of_native_ones(case):
    runtime.start("CPU", "graph")
    build, inputs = OPERATORS[case]
    net = build()
    for parameter in net.get_parameters():
        value = parameter.asnumpy()
        parameter.set_data(Tensor((value + 0.1 * RNG.standard_normal(value.shape)).astype(np.float32)))
    fast = outputs(net, inputs)
    with kernels.native():
        native = outputs(net, inputs)
    for given, expected in zip(fast, native):
        assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("device", ["CPU", "Ascend"])
def test_the_cost_rule_chooses_both_forms(device):
    assert fold.dense_is_cheaper(device, 64, 64, 4, 3)
    assert not fold.dense_is_cheaper(device, 256, 256, 4, 3)
    assert not fold.dense_is_cheaper("GPU", 64, 64, 4, 3)


@pytest.mark.parametrize(("stride", "dilation", "bias"), [(1, 1, False), (2, 1, True), (1, 2, True)])
def test_the_three_forms_of_a_convolution_path_are_one_map(stride, dilation, bias):
    """What an Ascend trains with is what the paper's two layers compute, forward and for every weight."""
    runtime.start("CPU", "graph")
    heads, dim, taps, given = 2, 6, 9, 5
    weight, projected = tensor(3 * heads * dim, given), tensor(3 * heads * dim)
    fc, shift = tensor(taps, 3 * heads, 1, 1), tensor(heads * dim, taps, 3, 3)
    fc_bias = tensor(taps) if bias else None

    def layers(x, weight, projected, fc, shift):
        qkv = F.project(x, weight.reshape(*weight.shape, 1, 1), projected)
        return F.group_shift(F.mix_features(qkv, fc, fc_bias), shift, dim, stride, dilation)

    def grouped(x, weight, projected, fc, shift):
        qkv = F.project(x, weight.reshape(*weight.shape, 1, 1), projected)
        return F.grouped_path(qkv, fc, fc_bias, shift, stride, dilation)

    def dense(x, weight, projected, fc, shift):
        return F.dense_path(x, weight, projected, fc, fc_bias, shift, stride, dilation)

    inputs = [tensor(2, given, 7, 6), weight, projected, fc, shift]
    expected = outputs(layers, inputs)
    for form in (grouped, dense):
        for given_value, wanted in zip(outputs(form, inputs), expected):
            assert np.abs(given_value - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_native_is_left_again_after_an_error():
    runtime.start("CPU", "pynative")
    assert kernels.on_cpu()
    with pytest.raises(RuntimeError), kernels.native():
        assert not kernels.on_cpu()
        raise RuntimeError
    assert kernels.on_cpu()


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_the_gradient_of_taken_rows_is_a_sum_over_their_places(mode):
    """Rows taken once, several times and never; the form of an Ascend beside the CPU's."""
    runtime.start(mode=mode)
    random = np.random.default_rng(0)
    index = np.array([4, 0, 4, 2, 4, 5, 0], np.int32)
    table = places(index, 7)
    assert table.shape == (7, 3) and table[4].tolist() == [0, 2, 4] and table[1].tolist() == [7, 7, 7]
    x = Tensor(random.standard_normal((2, 7, 3)).astype(np.float32))
    weight = Tensor(random.standard_normal((2, 7, 3)).astype(np.float32))

    def loss(x):
        return (kernels.take_rows(x, Tensor(index), Tensor(table)) * weight).sum()

    found = []
    for native in (False, True):
        with kernels.native() if native else contextlib.nullcontext():
            step = ms.value_and_grad(loss)
            found.append([value.asnumpy() for value in (ms.jit(step) if mode == "graph" else step)(x)])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6, atol=1e-6)
    assert not found[1][1][:, [1, 3, 6]].any(), "never taken"
