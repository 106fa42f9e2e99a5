"""Normalizations, forward and backward."""

from __future__ import annotations

import numpy as np

from acmix_ms.deploy.ascend.meanings.registry import kernel, wide


def _channels(x: np.ndarray) -> np.ndarray:
    return wide(x).reshape(1, -1, 1, 1)


@kernel("BNInfer", "BatchNorm")
def _bn_infer(x, scale, offset, mean, variance, out, *others, epsilon, **_):
    normal = (wide(x) - _channels(mean)) / np.sqrt(_channels(variance) + epsilon)
    out[...] = normal * _channels(scale) + _channels(offset)


@kernel("BNTrainingReduce")
def _bn_reduce(x, total, squares, **_):
    total[...], squares[...] = wide(x).sum((0, 2, 3)), (wide(x) ** 2).sum((0, 2, 3))


@kernel("BNTrainingUpdate")
def _bn_update(x, total, squares, scale, offset, mean, variance, y, new_mean, new_variance, batch_mean, batch_variance,
               *, factor, epsilon):  # fmt: skip
    count = x.size // x.shape[1]
    found = wide(total) / count
    spread = wide(squares) / count - found**2
    y[...] = (wide(x) - _channels(found)) / np.sqrt(_channels(spread) + epsilon) * _channels(scale) + _channels(offset)
    new_mean[...] = mean * (1 - factor) + found * factor
    new_variance[...] = variance * (1 - factor) + spread * (count / max(count - 1, 1)) * factor
    batch_mean[...], batch_variance[...] = found, spread


@kernel("BNTrainingUpdateGrad")
def _bn_update_grad(gradient, x, mean, variance, scale_gradient, offset_gradient, *, epsilon):
    normal = (wide(x) - _channels(mean)) / np.sqrt(_channels(variance) + epsilon)
    scale_gradient[...] = (wide(gradient) * normal).sum((0, 2, 3))
    offset_gradient[...] = wide(gradient).sum((0, 2, 3))


@kernel("BNTrainingReduceGrad")
def _bn_reduce_grad(gradient, x, scale_gradient, offset_gradient, scale, mean, variance, out, *, epsilon):
    count, inverse = x.size // x.shape[1], 1 / np.sqrt(_channels(variance) + epsilon)
    normal = (wide(x) - _channels(mean)) * inverse
    rest = wide(gradient) - (_channels(offset_gradient) + normal * _channels(scale_gradient)) / count
    out[...] = _channels(scale) * inverse * rest


@kernel("LayerNorm")
def _layer_norm(x, gamma, beta, y, mean, variance, *, begin_norm_axis, epsilon, **_):
    axes = tuple(range(begin_norm_axis % x.ndim, x.ndim))
    found, spread = wide(x).mean(axes, keepdims=True), wide(x).var(axes, keepdims=True)
    y[...] = (wide(x) - found) / np.sqrt(spread + epsilon) * gamma + beta
    mean[...], variance[...] = found, spread


@kernel("LayerNormGrad")
def _layer_norm_grad(gradient, x, variance, mean, gamma, out, gamma_gradient, beta_gradient, **_):
    """The epsilon is no argument of this operator: CANN documents none; 1e-12 keeps it from dividing by zero."""
    axes = tuple(range(x.ndim - gamma.ndim, x.ndim))
    outer = tuple(range(x.ndim - gamma.ndim))
    inverse = 1 / np.sqrt(wide(variance) + 1e-12)
    normal, inner = (wide(x) - wide(mean)) * inverse, wide(gradient) * gamma
    out[...] = inverse * (
        inner - inner.mean(axes, keepdims=True) - normal * (inner * normal).mean(axes, keepdims=True)
    )
    gamma_gradient[...], beta_gradient[...] = (wide(gradient) * normal).sum(outer), wide(gradient).sum(outer)
