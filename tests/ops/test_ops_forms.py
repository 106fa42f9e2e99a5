"""The patchwise and global forms, which the official repository never released, against the float64 reference."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from acmix_ms import GlobalACmix, PatchwiseACmix, SpatialReductionACmix, runtime
from acmix_ms.ops import reference
from acmix_ms.ops.functional import shift_kernels
from models.pretrained import torch_name
from tests.ops.test_ops import relative

TOLERANCE = 1e-5
SHIFTS, MIXES = ["tensor", "fixed", "random", "learned"], ["attention", "conv", "sum", "alpha_one", "alpha", "learned"]


def filled(net) -> dict[str, np.ndarray]:
    """Random weights and statistics everywhere but in frozen kernels; returned under official names."""
    rng = np.random.default_rng(0)
    for p in net.get_parameters():
        value = 0.3 * rng.standard_normal(p.shape)
        if p.name.endswith("moving_variance"):
            value = 1 + np.abs(value)
        if p.name.endswith("gamma"):
            value = 1 + value
        if p.requires_grad or "moving" in p.name:
            p.set_data(Tensor(value.astype(np.float32)))
    net.set_train(False)
    return {torch_name(p.name): p.asnumpy() for p in net.get_parameters()}


def check_gradients(net, judge, x: np.ndarray, *extra, mode: str) -> None:
    """All gradients along a random direction against differences of the reference, in float64."""
    runtime.start(mode=mode)
    state = filled(net)
    rng = np.random.default_rng(3)
    weight = rng.standard_normal(judge(x, state).shape)
    factor, parameters = Tensor(weight.astype(np.float32)), net.trainable_params()

    def loss(x):
        return (net(x, *extra) * factor).sum()

    step = ms.grad(loss, 0, parameters)
    grad_input, grads = (ms.jit(step) if mode == "graph" else step)(Tensor(x.astype(np.float32)))
    direction = {torch_name(p.name): rng.standard_normal(p.shape) for p in parameters}
    towards, eps = rng.standard_normal(x.shape), 1e-6

    def moved(sign: int) -> float:
        there = {n: v + sign * eps * direction[n] if n in direction else v.astype(np.float64) for n, v in state.items()}
        return (judge(x + sign * eps * towards, there) * weight).sum()

    expected = (moved(1) - moved(-1)) / (2 * eps)
    actual = (grad_input.asnumpy() * towards).sum()
    actual += sum((g.asnumpy() * direction[torch_name(p.name)]).sum() for p, g in zip(parameters, grads))
    assert abs(actual - expected) < 1e-4 * abs(expected)


# -------------------------------------------------------------------------------------------------------- patchwise
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"dilation": 2}, {"attn_kernel_size": 3, "stride": 3, "conv_kernel_size": 5}],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (9, 8), (15, 10)], ids=str)
def test_patchwise_equals_reference_at_any_size(size, options):
    net = PatchwiseACmix(6, 16, **options)
    state = filled(net)
    x = np.random.default_rng(1).standard_normal((2, 6, *size)).astype(np.float32)
    expected = reference.patchwise_acmix(x, state, **options)
    output = net(Tensor(x))
    stride = options.get("stride", 1)
    assert output.shape == expected.shape == (2, 16, -(-size[0] // stride), -(-size[1] // stride))
    assert relative(output, expected) < TOLERANCE
    net.to_float(ms.float16)
    half = net(Tensor(x))
    assert half.dtype == ms.float16
    assert relative(half, expected) < 1e-2


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("shift", SHIFTS)
def test_patchwise_options_equal_reference(shift, mix):
    net = PatchwiseACmix(8, 16, rel_channels=8, share_channels=4, num_heads=2, shift=shift, mix=mix)
    state = filled(net)
    x = np.random.default_rng(1).standard_normal((2, 8, 9, 8)).astype(np.float32)
    assert relative(net(Tensor(x)), reference.patchwise_acmix(x, state, num_heads=2, mix=mix)) < TOLERANCE
    if mix != "attention" and shift == "fixed":
        assert np.array_equal(net.dep_conv.weight.asnumpy(), shift_kernels(16, 3))


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "dilation": 2}], ids=str)
def test_patchwise_gradients(options, mode):
    def judge(x, state):
        return reference.patchwise_acmix(x, state, attn_kernel_size=5, **options)

    x = np.random.default_rng(1).standard_normal((2, 6, 7, 9))
    check_gradients(PatchwiseACmix(6, 16, attn_kernel_size=5, **options), judge, x, mode=mode)


# ----------------------------------------------------------------------------------------------------------- global
@pytest.mark.parametrize("sr_ratio", [1, 2, 4])
@pytest.mark.parametrize("with_class", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 12), (7, 9)], ids=str)
def test_global_equals_reference_at_any_size(size, with_class, sr_ratio):
    if with_class and sr_ratio > 1:
        net = SpatialReductionACmix(16, 2, sr_ratio=sr_ratio)
        with pytest.raises(ValueError, match="class token .* sr_ratio=1"):
            net(Tensor(np.ones((1, size[0] * size[1] + 1, 16), np.float32)), *size)
        return
    net = SpatialReductionACmix(16, 2, sr_ratio=sr_ratio)
    state = filled(net)
    x = np.random.default_rng(1).standard_normal((2, size[0] * size[1] + with_class, 16)).astype(np.float32)
    expected = reference.global_acmix(x, state, *size, num_heads=2, sr_ratio=sr_ratio)
    assert relative(net(Tensor(x), *size), expected) < TOLERANCE
    net.to_float(ms.float16)
    half = net(Tensor(x), *size)
    assert half.dtype == ms.float16
    assert relative(half, expected) < 1e-2


def test_epsilon_of_the_norm_after_the_reduction():
    """PVT's code has 1e-5 there: where the reduced map hardly varies it is all that counts."""
    net = SpatialReductionACmix(16, 2, sr_ratio=2)
    filled(net)
    net.sr.bias.set_data(Tensor(np.zeros(16, np.float32)))
    state = {torch_name(p.name): p.asnumpy() for p in net.get_parameters()}
    x = 1e-3 * np.random.default_rng(1).standard_normal((2, 30, 16)).astype(np.float32)
    expected = reference.global_acmix(x, state, 5, 6, num_heads=2, sr_ratio=2)
    assert relative(net(Tensor(x), 5, 6), expected) < TOLERANCE


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("sr_ratio", [1, 3])
def test_global_options_equal_reference(sr_ratio, shift, mix):
    options = {"sr_ratio": sr_ratio, "conv_kernel_size": 5}
    net = SpatialReductionACmix(16, 4, qkv_bias=False, shift=shift, mix=mix, **options)
    state = filled(net)
    x = np.random.default_rng(1).standard_normal((2, 48, 16)).astype(np.float32)
    expected = reference.global_acmix(x, state, 6, 8, num_heads=4, mix=mix, **options)
    assert relative(net(Tensor(x), 6, 8), expected) < TOLERANCE


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("sr_ratio", [1, 2])
def test_global_gradients(sr_ratio, mode):
    def judge(x, state):
        return reference.global_acmix(x, state, 5, 6, num_heads=2, sr_ratio=sr_ratio)

    x = np.random.default_rng(1).standard_normal((2, 30 + (sr_ratio == 1), 8))
    check_gradients(SpatialReductionACmix(8, 2, sr_ratio=sr_ratio), judge, x, 5, 6, mode=mode)


def test_global_is_spatial_reduction_by_one():
    a, b = GlobalACmix(16, 2), SpatialReductionACmix(16, 2, sr_ratio=1)
    filled(a), filled(b)
    x = Tensor(np.random.default_rng(1).standard_normal((1, 21, 16)).astype(np.float32))
    assert np.array_equal(a(x, 4, 5).asnumpy(), b(x, 4, 5).asnumpy())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: PatchwiseACmix(8, 10), "out_channels=10 .* num_heads=4"),
        (lambda: PatchwiseACmix(8, 16, share_channels=5), "out_channels=16 .* share_channels=5"),
        (lambda: PatchwiseACmix(8, 16, rel_channels=3), "out_channels=16 .* rel_channels=3"),
        (lambda: PatchwiseACmix(8, 16, attn_kernel_size=6), "attn_kernel_size=6"),
        (lambda: PatchwiseACmix(8, 16, mix="x"), "mix='x'"),
        (lambda: SpatialReductionACmix(10, 4), "dim=10 .* num_heads=4"),
        (lambda: SpatialReductionACmix(16, 4, sr_ratio=0), "sr_ratio=0"),
        (lambda: GlobalACmix(16, 4, shift="x"), "shift='x'"),
        (lambda: GlobalACmix(16, 4)(Tensor(np.ones((1, 12, 16), np.float32)), 3, 5), "12 tokens.* 3x5"),
    ],
)
def test_bad_arguments_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
