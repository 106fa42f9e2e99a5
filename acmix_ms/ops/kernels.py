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
from mindspore import Tensor, mint, nn, ops

# Stands for erf in a graph that becomes ONNX: MindSpore's exporter knows this operator, which no net here uses, but
# not erf, which ONNX has. `acmix_ms.deploy.onnx` puts erf in its place.
ERF_STAND_IN = "Softsign"

_native_only = _for_onnx = False


@contextlib.contextmanager
def native(*, onnx: bool = False) -> Iterator[None]:
    """Graphs compiled in this context use every device's own operators: for files that other machines will run.

    Args:
        onnx: only what MindSpore can write as ONNX; such a graph is for exporting, it cannot be run (`ERF_STAND_IN`).
    """
    global _native_only, _for_onnx
    before = _native_only, _for_onnx
    _native_only, _for_onnx = True, onnx
    try:
        yield
    finally:
        _native_only, _for_onnx = before


def _device() -> str:
    return "" if _native_only else ms.get_context("device_target")


@ops.constexpr(reuse_result=False)
def device() -> str:
    """By whose costs to choose: of the device that is there, or "" for a file. Asked when a graph is compiled."""
    return _device()


@ops.constexpr(reuse_result=False)
def on_cpu() -> bool:
    """Whether to choose by the costs of the CPU kernels. Asked when a graph is compiled."""
    return _device() == "CPU"


@ops.constexpr(reuse_result=False)
def on_ascend() -> bool:
    """Whether the graph is compiled to run on the Ascend that is there, not for a file."""
    return _device() == "Ascend"


@ops.constexpr(reuse_result=False)
def for_onnx() -> bool:
    """Whether this graph will be written as ONNX. Asked when a graph is compiled."""
    return _for_onnx


# ----------------------------------------------------------------------------------------------------- permutations
def swap_last(x: Tensor) -> Tensor:
    """(R, a, b) -> (R, b, a), contiguous.

    On CPU as a product with the identity, which is exact: it costs what a transposition costs, but the kernel of
    that keeps twelve bytes for each element for as long as the graph lives. Only for short a.
    """
    short = x.shape[1]
    if on_cpu() and x.dtype == ms.float32 and short <= 32:
        identity = ops.tile(ops.eye(short, short, ms.float32).reshape(1, short, short), (x.shape[0], 1, 1))
        return ops.BatchMatMul(True, False)(x, identity)
    return ops.transpose(x, (0, 2, 1))


def swap_back(x: Tensor) -> Tensor:
    """(R, b, a) -> (R, a, b): `swap_last` for a short last axis."""
    short = x.shape[2]
    if on_cpu() and x.dtype == ms.float32 and short <= 32:
        identity = ops.tile(ops.eye(short, short, ms.float32).reshape(1, short, short), (x.shape[0], 1, 1))
        return ops.BatchMatMul(False, True)(identity, x)
    return ops.transpose(x, (0, 2, 1))


class _PermuteRows(nn.Cell):
    """A gather whose gradient is a gather as well, because nothing is taken twice."""

    def construct(self, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return ops.gather(x, order, 1)

    def bprop(self, x: Tensor, order: Tensor, inverse: Tensor, out, dout):
        return ops.gather(dout, inverse, 1), ops.zeros_like(order), ops.zeros_like(inverse)


def permute_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Rows of (B, R, d) in another order: out[:, i] = x[:, order[i]]; ``inverse`` undoes it.

    For moves of whole rows that would take several transpositions.
    """
    return _PermuteRows()(x, order, inverse)


class _TakeRows(nn.Cell):
    """A gather whose gradient is a gather as well, of all the places that a row went to, and their sum."""

    def construct(self, x: Tensor, index: Tensor, places: Tensor) -> Tensor:
        return ops.gather(x, index, 1)

    def bprop(self, x: Tensor, index: Tensor, places: Tensor, out, dout):
        rows, times = places.shape
        nothing = ops.zeros((dout.shape[0], 1, dout.shape[2]), dout.dtype)
        found = ops.gather(ops.cat((dout, nothing), 1), places.reshape(-1), 1)  # (B, R*m, d)
        gradient = found.reshape(-1, rows, times, dout.shape[2]).sum(2)
        return gradient.astype(x.dtype), ops.zeros_like(index), ops.zeros_like(places)


def take_rows(x: Tensor, index: Tensor, places: Tensor) -> Tensor:
    """Rows of (B, R, d), some several times: out[:, i] = x[:, index[i]].

    The gradient of `gather` adds rows, on an Ascend in whatever order and in the format that they have. There
    ``places`` (R, m) is used instead: the positions of each row in ``index``, filled up with the length of that.
    """
    return ops.gather(x, index, 1) if on_cpu() else _TakeRows()(x, index, places)


# ------------------------------------------------------------------------------------------------------------ zeros
@ops.constexpr
def _paddings(rank: int, axis: int, before: int, after: int) -> tuple[tuple[int, int], ...]:
    return tuple((before, after) if i == axis else (0, 0) for i in range(rank))


def zero_pad(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Zeros in front of and behind x along one axis.

    By concatenation, whose kernel is many times faster on CPU than that of `Pad`; ONNX files have `Pad`, which works
    for any batch, and on an Ascend it is one kernel.
    """
    if before == 0 and after == 0:
        return x
    if for_onnx() or on_ascend():
        return ops.Pad(_paddings(x.ndim, axis, before, after))(x)
    if before > 0:
        x = ops.cat((ops.zeros(x.shape[:axis] + (before,) + x.shape[axis + 1 :], x.dtype), x), axis)
    if after > 0:
        x = ops.cat((x, ops.zeros(x.shape[:axis] + (after,) + x.shape[axis + 1 :], x.dtype)), axis)
    return x


# --------------------------------------------------------------------------------------------------------- resizing
@ops.constexpr
def _nearest(given: int, wanted: int) -> Tensor:
    return Tensor([place * given // wanted for place in range(wanted)], ms.int32)


def resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) -> (B, C, height, width): of each place the value at floor(place * h / height), as in PyTorch."""
    if for_onnx():  # MindSpore's exporter does not know the operator
        rows = ops.gather(x, _nearest(x.shape[2], height), 2)
        return ops.gather(rows, _nearest(x.shape[3], width), 3)
    return ops.interpolate(x, size=(height, width), mode="nearest")


# ----------------------------------------------------------------------------------------------------------- biases
def _column_sums(x: Tensor) -> Tensor:
    """Sums over the rows, as a matrix product: (R, C) -> (C,)."""
    return ops.MatMul()(ops.ones((1, x.shape[0]), x.dtype), x).reshape(-1)


class _AddRow(nn.Cell):
    """x (R, C) + row (C,), with a faster gradient of the row than BiasAdd has."""

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        return ops.BiasAdd()(x, row)

    def bprop(self, x: Tensor, row: Tensor, out, dout):
        return dout, _column_sums(dout)


class _ScaleRow(nn.Cell):
    """x (R, C) * row (C,), with a faster gradient of the row than Mul has."""

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        return x * row

    def bprop(self, x: Tensor, row: Tensor, out, dout):
        return dout * row, _column_sums(dout * x)


class _Scale(nn.Cell):
    """x times the single value of rate (1,), with a faster gradient of the rate than Mul has."""

    def construct(self, x: Tensor, rate: Tensor) -> Tensor:
        return x * rate

    def bprop(self, x: Tensor, rate: Tensor, out, dout):
        # In two steps: one dot product would add up the rounding of all its terms.
        columns = _column_sums((dout * x).reshape(-1, x.shape[-1]))
        return dout * rate, columns.sum().reshape(rate.shape)


def scale(x: Tensor, rate: Tensor) -> Tensor:
    """x times the single value of rate (1,), in the dtype of x."""
    rate = rate.astype(x.dtype)
    return _Scale()(x, rate) if on_cpu() else x * rate


@ops.constexpr
def _number(value: float, dtype) -> Tensor:
    return Tensor(value, dtype)


def times(x: Tensor, factor: float) -> Tensor:
    """x times a number, in the dtype of x.

    Off the CPU as `ops.Mul`: of ``x * factor`` MindSpore makes Muls, which CANN's graph engine does not have, so that
    no AIR file could hold it.
    """
    return x * factor if on_cpu() else ops.Mul()(x, _number(factor, x.dtype))


class Dense(nn.Dense):
    """`nn.Dense` without activation: (..., Cin) -> (..., Cout)."""

    def construct(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias if self.has_bias else None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear layer in the dtype of x: (..., Cin), weight (Cout, Cin) -> (..., Cout)."""
    y = ops.MatMul(False, True)(x.reshape(-1, x.shape[-1]), weight.astype(x.dtype))
    if bias is not None:
        y = add_channels(y, bias)
    return y.reshape(-1, *x.shape[1:-1], weight.shape[0])


def add_channels(x: Tensor, bias: Tensor) -> Tensor:
    """x (B, C) or (B, C, H, W) + bias (C,), in the dtype of x."""
    bias = bias.astype(x.dtype)
    if on_cpu():
        return _AddRow()(x, bias) if x.ndim == 2 else ops.BiasAdd()(x, bias)
    return x + (bias.reshape(1, -1, 1, 1) if x.ndim == 4 else bias)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution in the dtype of x, with zeros around: (B, Cin, H, W) -> (B, Cout, Ho, Wo).

    On an Ascend the kernel adds the bias as well. In files that is left to CANN's compiler, which knows the two
    operators, while it has no adapter for this one.
    """
    weight = weight.astype(x.dtype)
    if bias is not None and on_ascend():
        return mint.nn.functional.conv2d(x, weight, bias.astype(x.dtype), stride, padding, dilation, groups)
    y = ops.conv2d(x, weight, None, stride, "pad", padding, dilation, groups)
    return y if bias is None else add_channels(y, bias)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` of a deploy form, see `conv2d`."""

    def construct(self, x: Tensor) -> Tensor:
        padded = self.pad_mode == "pad" and isinstance(self.padding, int)
        if on_ascend() and self.has_bias and (padded or self.pad_mode == "valid" or self.kernel_size == (1, 1)):
            padding = self.padding if padded else 0
            return conv2d(x, self.weight, self.bias, self.stride[0], padding, self.dilation[0], self.group)
        return super().construct(x)


def scale_channels(x: Tensor, gain: Tensor) -> Tensor:
    """x (B, C, H, W) * gain (C,), in the dtype of x; without a gradient of the gain."""
    if on_cpu() and x.dtype == ms.float32:  # a BatchNorm in evaluation, with statistics that change nothing
        zero, one = ops.zeros_like(gain), ops.ones_like(gain)
        return ops.BatchNorm(is_training=False, epsilon=1e-8)(x, gain, zero, zero, one)[0]
    return x * gain.astype(x.dtype).reshape(1, -1, 1, 1)


def scale_and_add(x: Tensor, gain: Tensor, y: Tensor) -> Tensor:
    """x (B, C, H, W) * gain (C,) + y, in the dtype of x; one kernel on an Ascend. Without a gradient of the gain."""
    if on_ascend():
        return ops.addcmul(y, x, gain.astype(x.dtype).reshape(1, -1, 1, 1))
    return scale_channels(x, gain) + y


def add_rows(x: Tensor, row: Tensor) -> Tensor:
    """x (..., *s) + row (*s) or (1, *s), in the dtype of x."""
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
    if for_onnx():
        # Written as PyTorch exports it: ONNX Runtime and MindSpore Lite recognise these operators as one GELU.
        return x * (ops.Softsign()(x / math.sqrt(2)) + 1) * 0.5
    if on_ascend():
        return mint.nn.functional.gelu(x)  # one kernel; of `ops.gelu` MindSpore makes four
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
        if for_onnx():
            # Written as PyTorch exports it, which runtimes recognise. MindSpore's own way has a ReduceSumSquare, which
            # MindSpore Lite 2.0.0 computes in place and so destroys what is read once more.
            centred = x - x.mean(-1, keep_dims=True)
            deviation = ops.sqrt((centred**2).mean(-1, keep_dims=True) + self.epsilon)
            return centred / deviation * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)
        if not on_cpu() or x.dtype != ms.float32:
            return super().construct(x)
        shape = x.shape
        y = _ScaleRow()(standardize(x.reshape(-1, shape[-1]), self.epsilon), self.gamma)
        return add_channels(y, self.beta).reshape(shape)


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
