"""Kernels that go along axes: sums, means, softmax."""

from __future__ import annotations

import numpy as np

from acmix_ms.deploy.ascend.meanings.registry import kernel, wide


def _axes(axes, rank: int) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.ravel(axes)) or tuple(range(rank))


@kernel("aclnnReduceSum")
def _reduce_sum(x, axes, keep, dtype, out):
    out[...] = wide(x).sum(_axes(axes, x.ndim), keepdims=bool(keep & 1))


@kernel("aclnnMean")
def _mean(x, axes, keep, dtype, out):
    out[...] = wide(x).mean(_axes(axes, x.ndim), keepdims=bool(keep & 1))


@kernel("ReduceMean")
def _reduce_mean(x, axes, out, *, keep_dims, **_):
    out[...] = wide(x).mean(_axes(axes, x.ndim), keepdims=keep_dims)


@kernel("ReduceSum")
def _reduce_sum_op(x, axes, out, *, keep_dims, **_):
    out[...] = wide(x).sum(_axes(axes, x.ndim), keepdims=keep_dims)


@kernel("aclnnAmax")
def _amax(x, axes, keep, out):
    out[...] = x.max(_axes(axes, x.ndim), keepdims=bool(keep & 1))


@kernel("aclnnAll")
def _all(x, axes, keep, out):
    out[...] = x.all(_axes(axes, x.ndim), keepdims=bool(keep & 1))


@kernel("aclnnSoftmax")
def _softmax(x, axis, out):
    powers = np.exp(wide(x) - wide(x).max(axis, keepdims=True))
    out[...] = powers / powers.sum(axis, keepdims=True)


@kernel("SoftmaxV2")
def _softmax_op(x, out, *, axes, **_):
    (axis,) = axes
    _softmax(x, axis, out)


@kernel("aclnnSoftmaxBackward")
def _softmax_backward(gradient, y, axis, out):
    gradient, y = wide(gradient), wide(y)
    out[...] = (gradient - (gradient * y).sum(axis, keepdims=True)) * y
