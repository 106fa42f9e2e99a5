"""The loss for hard and soft labels against NumPy in float64, in both modes, with its gradient."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from acmix_ms.engine.losses import cross_entropy

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((5, 7)) * 3
HARD = RANDOM.integers(0, 7, 5).astype(np.int32)
SOFT = RANDOM.dirichlet(np.ones(7), 5).astype(np.float32)


def expected(labels, smoothing):
    shares = np.eye(7)[labels] if labels.ndim == 1 else labels.astype(np.float64)
    shares = (1 - smoothing) * shares + smoothing / 7
    log_sum = np.log(np.exp(LOGITS).sum(1, keepdims=True))
    loss = -(shares * (LOGITS - log_sum)).sum(1).mean()
    return loss, (np.exp(LOGITS - log_sum) - shares) / len(LOGITS)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [HARD, SOFT, np.eye(7, dtype=np.float32)[HARD]], ids=["hard", "soft", "one-hot"])
def test_value_and_gradient(labels, smoothing, graph):
    def loss(logits, labels):
        return cross_entropy(logits, labels, smoothing)

    function = ms.value_and_grad(loss, 0)
    function = ms.jit(function) if graph else function
    value, gradient = function(ms.Tensor(LOGITS, ms.float32), ms.Tensor(labels))
    wanted, wanted_gradient = expected(labels, smoothing)
    assert value.dtype == ms.float32
    assert float(value.asnumpy()) == pytest.approx(wanted, rel=1e-5)
    assert np.abs(gradient.asnumpy() - wanted_gradient).max() < 1e-6


def test_half_precision_logits_lose_nothing_more():
    logits = ms.Tensor(LOGITS, ms.float16)
    rounded = ms.Tensor(LOGITS.astype(np.float16).astype(np.float32))
    for labels in (ms.Tensor(HARD), ms.Tensor(SOFT)):
        assert float(cross_entropy(logits, labels, 0.1)) == float(cross_entropy(rounded, labels, 0.1))


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"labels \(5, 6\)"):
        cross_entropy(ms.Tensor(LOGITS, ms.float32), ms.Tensor(SOFT[:, :6]))
