"""The same mathematics from the kernels that are fast: the one home of choices that depend on the device.

On CPU MindSpore's kernels differ by an order of magnitude in cost per element (docs/performance.md has the
measurements): adding with broadcasting is slow and keeps an index for every element, LayerNorm and the gradients of
GELU and softmax are slow, BiasAdd, BatchNorm and matrix products are fast. Elsewhere, and in everything exported, the
native operators are used (`native`). Results agree to rounding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import mindspore as ms
from mindspore import Tensor, nn, ops

_native_only = False


@contextlib.contextmanager
def native() -> Iterator[None]:
    """Graphs compiled in this context use every device's own operators: for files that other machines will run."""
    global _native_only
    before, _native_only = _native_only, True
    try:
        yield
    finally:
        _native_only = before


@ops.constexpr(reuse_result=False)
def on_cpu() -> bool:
    """Whether to choose by the costs of the CPU kernels. Asked when a graph is compiled."""
    return not _native_only and ms.get_context("device_target") == "CPU"


# ----------------------------------------------------------------------------------------------------------- biases
def add_channels(x: Tensor, bias: Tensor) -> Tensor:
    """x (B, C) or (B, C, H, W) + bias (C,), in the dtype of x."""
    bias = bias.astype(x.dtype)
    if on_cpu():
        return ops.BiasAdd()(x, bias)
    return x + (bias.reshape(1, -1, 1, 1) if x.ndim == 4 else bias)


def add_rows(x: Tensor, row: Tensor) -> Tensor:
    """x (..., *s) + row (*s), in the dtype of x."""
    row = row.astype(x.dtype)
    if on_cpu():
        return ops.BiasAdd()(x.reshape(-1, row.size), row.reshape(-1)).reshape(x.shape)
    return x + row


# ------------------------------------------------------------------------------------------------------------- GELU
class _Gelu(nn.Cell):
    """Exact GELU, x * Phi(x), whose gradient Phi(x) + x * phi(x) takes one exponential instead of a power."""

    def construct(self, x: Tensor):
        cdf = ops.erf(x * math.sqrt(0.5)) * 0.5 + 0.5
        return x * cdf, cdf

    def bprop(self, x: Tensor, out, dout):
        cdf = out[1]
        density = ops.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return (dout[0] * (density * x + cdf),)


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU in the dtype of x."""
    if on_cpu() and x.dtype == ms.float32:
        return _Gelu()(x)[0]
    return ops.gelu(x)


# -------------------------------------------------------------------------------------------------------- LayerNorm
def standardize(x: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) over the last axis: (R, C) float32 -> (R, C), as a BatchNorm of R channels."""
    rows, width = x.shape
    one, zero = ops.ones((rows,), x.dtype), ops.zeros((rows,), x.dtype)
    # Without momentum the kernel leaves the running statistics, which nobody reads, as they are.
    norm = ops.BatchNorm(is_training=True, epsilon=epsilon, momentum=0.0)
    normed = norm(x.reshape(1, rows, width, 1), one, zero, zero, one)[0]
    return normed.reshape(rows, width)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis, with epsilon 1e-5 unless told otherwise."""

    def __init__(self, dim: int, epsilon: float = 1e-5):
        super().__init__((dim,), epsilon=epsilon)

    def construct(self, x: Tensor) -> Tensor:
        if not on_cpu() or x.dtype != ms.float32:
            return super().construct(x)
        shape = x.shape
        y = standardize(x.reshape(-1, shape[-1]), self.epsilon) * self.gamma
        return add_rows(y, self.beta).reshape(shape)


# ---------------------------------------------------------------------------------------------------------- softmax
class _SoftmaxProduct(nn.Cell):
    """softmax(logits) v with a gradient made of matrix products.

    With P the weights, O = P v and a gradient G of O, the gradient of the logits is P * (G v' - sum(G * O)): the sum
    over a row of P, which is long, has become one over the channels, which are few, and joins the product as one more
    channel.
    """

    def construct(self, logits: Tensor, v: Tensor):
        weights = ops.softmax(logits, -1)
        return ops.BatchMatMul()(weights, v), weights

    def bprop(self, logits: Tensor, v: Tensor, out, dout):
        result, weights = out
        gradient = dout[0]
        channels = result.shape[-1]
        total = ops.MatMul()((gradient * result).reshape(-1, channels), ops.ones((channels, 1), v.dtype))
        total = total.reshape(*result.shape[:-1], 1)
        left = ops.cat((gradient, -total), -1)
        right = ops.cat((v, ops.ones_like(v[..., :1])), -1)
        dlogits = weights * ops.BatchMatMul(False, True)(left, right)
        return dlogits, ops.BatchMatMul(True, False)(weights, gradient)


def softmax_product(logits: Tensor, v: Tensor) -> Tensor:
    """softmax(logits) v: float32 (..., L, M), (..., M, d) -> (..., L, d) in the dtype of v."""
    # The saved passes are M long, the added ones d: worth it for wide neighbourhoods, not for Swin's windows.
    if on_cpu() and v.dtype == ms.float32 and logits.shape[-1] >= 3 * v.shape[-1]:
        return _SoftmaxProduct()(logits, v)[0]
    return ops.BatchMatMul()(ops.softmax(logits, -1).astype(v.dtype), v)
