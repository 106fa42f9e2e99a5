"""Optimizers beside their published formulas, schedules, groups of parameters, the length of a run."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from acmix_ms import runtime
from acmix_ms.config import OptimConfig
from acmix_ms.engine import precision
from acmix_ms.engine.optim import (
    AdamW,
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    total_steps,
)
from acmix_ms.errors import UserError
from tests.helpers.tiny import TinyNet


def test_schedule_values():
    cfg = OptimConfig(lr=0.4, min_lr=0.02, epochs=10, warmup_epochs=2, warmup_start=0.25)

    def rate(step):
        return learning_rate(step, cfg, steps_per_epoch=5, global_batch=64)

    assert rate(0) == pytest.approx(0.1)
    assert rate(5) == pytest.approx(0.25)  # half of the warm-up
    assert rate(10) == pytest.approx(0.4)
    assert rate(30) == pytest.approx(0.21)  # half of the cosine
    assert rate(50) == pytest.approx(0.02)
    assert rate(11) == pytest.approx(0.02 + 0.38 * (1 + math.cos(math.pi / 40)) / 2)


def test_rate_scales_with_the_global_batch():
    cfg = OptimConfig(lr=5e-4, lr_reference_batch=512, epochs=1)
    assert learning_rate(0, cfg, steps_per_epoch=10, global_batch=1024) == pytest.approx(1e-3)


def rates(config, steps, steps_per_epoch=5):
    return [learning_rate(step, config, steps_per_epoch, global_batch=64) for step in steps]


def test_steps_fall_at_the_milestones_in_the_unit_of_the_length():
    cfg = OptimConfig(lr=1.0, epochs=12, schedule="step", milestones=[8, 11], gamma=0.1, warmup_iterations=4)
    assert rates(cfg, [0, 2, 4, 39, 40, 54, 55, 59]) == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01])
    cfg = OptimConfig(lr=1.0, iterations=12, schedule="step", milestones=[8, 11], min_lr=0.05)
    assert rates(cfg, [7, 8, 10, 11]) == pytest.approx([1, 0.1, 0.1, 0.05])


def test_poly_and_cosine_end_with_the_iterations():
    cfg = OptimConfig(lr=1.0, min_lr=0.1, iterations=44, schedule="poly", power=0.9, warmup_epochs=0.8)
    assert rates(cfg, [4, 14, 44, 50]) == pytest.approx([1, 0.1 + 0.9 * 0.75**0.9, 0.1, 0.1])
    cfg = OptimConfig(lr=1.0, iterations=40)
    assert rates(cfg, [0, 20, 40]) == pytest.approx([1, 0.5, 0])


def test_length_of_a_run():
    assert total_steps(OptimConfig(epochs=3), 11) == 33
    assert total_steps(OptimConfig(epochs=3, iterations=7), 11) == 7
    with pytest.raises(UserError, match="optim.warmup_iterations=34: longer than the 33 steps of the run"):
        total_steps(OptimConfig(epochs=3, warmup_iterations=34), 11)
    with pytest.raises(UserError, match="optim.warmup_epochs=2.0: longer than the 7 steps"):
        total_steps(OptimConfig(iterations=7, warmup_epochs=2.0), 11)


def test_the_last_rate_scales_with_the_global_batch():
    cfg = OptimConfig(lr=5e-4, min_lr=1e-5, lr_reference_batch=512, epochs=1, warmup_epochs=0)
    assert learning_rate(10, cfg, steps_per_epoch=10, global_batch=1024) == pytest.approx(2e-5)


def test_no_decay_for_norms_biases_and_rates():
    decayed, free = ({p.name for p in group["params"]} for group in parameter_groups(TinyNet(), 0.1))
    assert decayed == {"body.0.weight", "body.3.weight", "fc.weight"}
    assert {"rate1", "fc.bias", "body.0.bias", "body.1.gamma", "body.1.beta"} <= free


def test_no_decay_for_position_tables():
    net = TinyNet()
    net.relative_position_bias_table = ms.Parameter(ms.Tensor(np.zeros((9, 2), np.float32)))
    decayed, _ = ({p.name for p in group["params"]} for group in parameter_groups(net, 0.1))
    assert "relative_position_bias_table" not in decayed


def follow_the_formula(name, mode, rates, *, factor=lambda key: 1.0, masked=False, **options):
    """Steps of an optimizer beside the published update rules in NumPy; ``factor`` of the rate of each parameter.

    ``masked``: in the form without a condition, with a step before each that overflowed and must change nothing.
    """
    runtime.start(mode=mode)
    net, random = TinyNet(), np.random.default_rng(0)
    cfg = OptimConfig(name=name, lr=0.1, weight_decay=0.2, momentum=0.8, betas=[0.7, 0.95], eps=1e-3, **options)
    optimizer = build_optimizer(net, cfg)
    expected = {p.name: p.asnumpy().astype(np.float64) for p in optimizer.parameters}
    assert len(expected) == 10
    first = {key: np.zeros_like(value) for key, value in expected.items()}
    second = {key: np.zeros_like(value) for key, value in expected.items()}
    if masked:
        step_of = ms.jit(optimizer.masked) if mode == "graph" else optimizer.masked
        lost = tuple(ms.Tensor(np.full(p.shape, np.nan, np.float32)) for p in optimizer.parameters)

        def update(gradients):
            step_of(lost, ms.Tensor(False))
            step_of(gradients, ms.Tensor(True))
    else:
        update = ms.jit(optimizer) if mode == "graph" else optimizer
    for step, lr in enumerate(rates, start=1):
        gradients = [random.standard_normal(p.shape).astype(np.float32) for p in optimizer.parameters]
        set_learning_rate(optimizer, lr)
        update(tuple(ms.Tensor(gradient) for gradient in gradients))
        for parameter, g in zip(optimizer.parameters, gradients):
            key = parameter.name
            rate = lr * factor(key)
            w, decay = expected[key], 0.2 if g.ndim > 1 else 0.0
            if name == "sgd":
                first[key] = 0.8 * first[key] + g + decay * w
                expected[key] = w - rate * first[key]
            else:
                first[key] = 0.7 * first[key] + 0.3 * g
                second[key] = 0.95 * second[key] + 0.05 * g * g
                corrected = np.sqrt(second[key] / (1 - 0.95**step)) + 1e-3
                expected[key] = w - rate * decay * w - rate * first[key] / (1 - 0.7**step) / corrected
    for parameter in optimizer.parameters:
        assert np.abs(parameter.asnumpy() - expected[parameter.name]).max() < 1e-5, parameter.name


@pytest.mark.parametrize("mode", ["graph", "pynative"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("masked", [False, True])
def test_two_steps_match_the_formula(name, mode, masked):
    """With the rate changed in between, as the schedule does; a warm-up begins with 0."""
    follow_the_formula(name, mode, (0.0, 0.1, 0.03), masked=masked)


def test_a_thousand_parameters_can_be_compiled():
    """The largest PVTs have 1,100; MindSpore unrolls loops over them, a call deep each, and ends at 1,000."""
    runtime.start("CPU", "graph")

    class Many(nn.Cell):
        def __init__(self):
            super().__init__()
            self.all = ms.ParameterTuple([ms.Parameter(ms.Tensor([1.0]), name=f"layers.{i}") for i in range(1100)])

    net = Many()
    factors = [1.0, 0.5] * 550
    groups = [{"params": [one], "weight_decay": 0.0, "rate_factor": factor} for one, factor in zip(net.all, factors)]
    optimizer = AdamW(groups, 0.1, (0.9, 0.999), 1e-8)

    @runtime.compiled
    def step(gradients):
        finite = precision.all_finite(gradients)
        return ops.depend(finite, optimizer(gradients))

    assert step(tuple([ms.Tensor([1.0])] * 1100)).asnumpy()
    assert np.allclose([weight.asnumpy()[0] for weight in net.all[:4]], [0.9, 0.95, 0.9, 0.95])
    assert not step(tuple([ms.Tensor([1.0])] * 1099 + [ms.Tensor([np.inf])])).asnumpy()
