"""Kernels of an Ascend in NumPy: what the stand-in launches is computed in the memory that it was given.

The meanings are those that CANN documents (the header of each aclnn function, the prototypes of its operators); inputs
are read in their number format, sums are taken in float32 or wider, results are rounded to the format of the output.
What has no meaning here is not computed, and named in `Computer.unknown`.
"""

from __future__ import annotations

import ctypes
import functools
import json
import struct
import traceback
from collections.abc import Callable

import numpy as np

from acmix_ms.deploy.ascend.launches import Launch, Operand, launch_of

KERNELS: dict[str, Callable] = {}
FAILURES = (ArithmeticError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)
VERDICTS = ("aclnnAllFinite", "NPUGetFloatStatusV2", "NPUClearFloatStatusV2")  # 0: all numbers are finite
SMALL = 4096  # bytes: so much of a dry run is computed always, because control flow depends on flags


class Computer:
    """Computes launches.

    Attributes:
        everything: whether all are computed, or only those of a few numbers.
        callback: for ``stand_in_on_launch``.
        unknown: kernels that were to be computed and have no meaning here, or could not be.
    """

    def __init__(self):
        self.everything = False
        self.unknown: set[str] = set()
        self.callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._launched)

    def _launched(self, record: bytes) -> None:
        launch = launch_of(json.loads(record))
        if not self.everything:
            if launch.name in VERDICTS:  # of numbers that were not computed
                view(launch.operands[-1])[...] = 0
                return
            if launch.bytes > SMALL:
                return
        kernel = KERNELS.get(launch.name)
        if kernel is None:
            self.unknown.add(launch.name)
            return
        try:
            kernel(launch)
        except FAILURES:  # they would vanish in the C++ code that called
            self.unknown.add(f"{launch}: {traceback.format_exc(limit=-1)}")


def view(operand: Operand) -> np.ndarray:
    """The tensor in the memory of the device, as it lies there."""
    dtype = np.dtype(operand.dtype)
    if operand.address == 0:
        raise ValueError(f"{operand} has no memory")
    at = operand.address + operand.offset * dtype.itemsize
    if 0 in operand.shape:
        return np.empty(operand.shape, dtype)
    last = sum((size - 1) * stride for size, stride in zip(operand.shape, operand.strides))
    memory = np.frombuffer((ctypes.c_char * ((last + 1) * dtype.itemsize)).from_address(at), dtype)
    strides = [stride * dtype.itemsize for stride in operand.strides]
    return np.lib.stride_tricks.as_strided(memory, operand.shape, strides)


def scalar(value: dict) -> float:
    """The number in an aclScalar."""
    if value["scalar"] is None:
        bits = struct.pack("<H", value["bits"])
        return float(np.frombuffer(bits, np.float16)[0])
    return value["scalar"]


def wide(x: np.ndarray) -> np.ndarray:
    """In the format that sums are taken in."""
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def kernel(*names: str):
    """Register a function of a launch's arguments and outputs under the names that CANN has for it.

    Of aclnn it gets its arguments in their order, tensors as arrays in the device's memory; of aclop inputs and
    outputs, and the attributes as keywords.
    """

    def register(function):
        def run(launch: Launch) -> None:
            arguments, outputs = _arrays(launch.arguments), _arrays(launch.outputs)
            with np.errstate(all="ignore"):
                function(*arguments, *outputs, **launch.attributes)

        for name in names:
            KERNELS[name] = run
        return function

    return register


def _arrays(values: tuple) -> tuple:
    def array(value):
        if isinstance(value, tuple):
            return _arrays(value)
        if isinstance(value, dict):
            return scalar(value)
        return view(value) if isinstance(value, Operand) else value

    return tuple(map(array, values))


# ------------------------------------------------------------------------------------------------- one number at a time
def _erf(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return erf(wide(x))


ONE = {
    "aclnnRelu": lambda x: np.maximum(x, 0),
    "aclnnNeg": np.negative,
    "aclnnExp": lambda x: np.exp(wide(x)),
    "aclnnLog": lambda x: np.log(wide(x)),
    "aclnnErf": _erf,
    "aclnnTanh": lambda x: np.tanh(wide(x)),
    "aclnnSigmoid": lambda x: 1 / (1 + np.exp(-wide(x))),
    "aclnnSqrt": lambda x: np.sqrt(wide(x)),
    "aclnnRsqrt": lambda x: 1 / np.sqrt(wide(x)),
    "aclnnReciprocal": lambda x: 1 / x,
    "aclnnAbs": np.abs,
    "aclnnLogicalNot": np.logical_not,
    "aclnnIsFinite": np.isfinite,
}
TWO = {
    "aclnnMul": np.multiply,
    "aclnnMuls": np.multiply,
    "aclnnDiv": np.divide,
    "aclnnDivs": np.divide,
    "RealDiv": np.divide,
    "aclnnMaximum": np.maximum,
    "aclnnMinimum": np.minimum,
    "aclnnEqTensor": np.equal,
    "aclnnEqScalar": np.equal,
    "aclnnLtTensor": np.less,
    "aclnnLtScalar": np.less,
    "aclnnLeTensor": np.less_equal,
    "aclnnLeScalar": np.less_equal,
    "aclnnGtTensor": np.greater,
    "aclnnGtScalar": np.greater,
    "aclnnGeTensor": np.greater_equal,
    "aclnnLogicalAnd": np.logical_and,
    "aclnnPowTensorScalar": np.power,
    "aclnnPowTensorTensor": np.power,
    "aclnnRemainderTensorScalar": np.mod,
}


def _elementwise() -> None:
    def one(function):
        def run(x, out):
            out[...] = function(x)

        return run

    def two(function):
        def run(x, y, out, **_):
            y = np.asarray(y, x.dtype) if isinstance(y, (int, float)) and x.dtype.kind == "f" else y
            out[...] = function(x, y)

        return run

    for name, function in ONE.items():
        kernel(name)(one(function))
    for name, function in TWO.items():
        kernel(name)(two(function))


_elementwise()


@kernel("aclnnAdd", "aclnnAdds")
def _add(x, y, alpha, out):
    out[...] = x + np.asarray(y, x.dtype) * np.asarray(alpha, x.dtype)


@kernel("aclnnSub", "aclnnSubs")
def _sub(x, y, alpha, out):
    out[...] = x - np.asarray(y, x.dtype) * np.asarray(alpha, x.dtype)


@kernel("Addcmul")
def _addcmul(x, y, z, value, out, **_):
    out[...] = wide(x) + wide(y) * wide(z) * value


@kernel("AddN")
def _add_n(*tensors, N):
    *given, out = tensors
    out[...] = sum(map(wide, given))


@kernel("aclnnSWhere")
def _where(condition, x, y, out):
    out[...] = np.where(condition, x, y)


@kernel("aclnnGeluV2")
def _gelu(x, approximate, out):
    if approximate:
        raise NotImplementedError("aclnnGeluV2 by tanh")
    out[...] = wide(x) * 0.5 * (1 + _erf(wide(x) / np.sqrt(2)))


@kernel("aclnnGeluBackwardV2")
def _gelu_backward(gradient, x, approximate, out):
    """``approximate`` is a string here, which the record does not hold: "none", as the forward call says."""
    x = wide(x)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    out[...] = wide(gradient) * (0.5 * (1 + _erf(x / np.sqrt(2))) + x * density)


@kernel("aclnnThresholdBackward")
def _threshold_backward(gradient, x, threshold, out):
    out[...] = np.where(x > threshold, gradient, 0)


@kernel("aclnnCast")
def _cast(x, dtype, out):
    out[...] = x


@kernel("aclnnAllFinite")
def _all_finite(x, found):
    """MindSpore's own operator, which tells in spite of its name whether there is an infinity or nan."""
    found[...] = found | (not np.isfinite(x).all())


@kernel("NPUGetFloatStatusV2", "NPUClearFloatStatusV2")
def _float_status(*operands, **_):
    """The register of overflows of a 910A: nothing here saturates, so it stays empty."""
    for operand in operands[-1:]:
        operand[...] = 0


# ------------------------------------------------------------------------------------------------------------- in place
@kernel("aclnnInplaceCopy")
def _copy(target, x):
    target[...] = x


@kernel("aclnnInplaceZero")
def _zero(target):
    target[...] = 0


@kernel("aclnnInplaceOne")
def _one(target):
    target[...] = 1


@kernel("aclnnInplaceFillScalar")
def _fill(target, value):
    target[...] = value


@kernel("aclnnInplaceMaskedFillTensor")
def _masked_fill(target, mask, value):
    np.copyto(target, value, where=mask)


@kernel("Assign")
def _assign(target, x, out, **_):
    target[...] = x
    out[...] = x


@kernel("AssignAdd")
def _assign_add(target, x, out, **_):
    target[...] += x
    out[...] = target


@kernel("TensorMove", "Identity")
def _move(x, out, **_):
    out[...] = x


@kernel("ApplyMomentum", "ApplyMomentumD")
def _momentum(weight, velocity, rate, gradient, momentum, *outs, use_nesterov=False, use_locking=False, **_):
    velocity[...] = wide(velocity) * momentum + gradient
    step = wide(gradient) + wide(velocity) * momentum if use_nesterov else wide(velocity)
    weight[...] = wide(weight) - step * rate
    for out, value in zip(outs, (weight, velocity)):
        out[...] = value


@kernel("AdamApplyOneWithDecayAssign", "AdamApplyOneWithDecay")
def _adam_with_decay(gradient, second, first, weight, rate, keep1, new1, keep2, new2, decay, epsilon, *outs, **_):
    """CANN names its inputs (input0.., mul0_x.., add2_y) but does not say what it computes; this is the subgraph that
    MindSpore's pass of the same name puts it in the place of.
    """
    found = wide(first) * keep1 + wide(gradient) * new1
    squares = wide(second) * keep2 + wide(gradient) ** 2 * new2
    stepped = wide(weight) - (found / (np.sqrt(squares) + epsilon) + wide(weight) * decay) * rate
    for out, value in zip(outs, (squares, found, stepped)):
        out[...] = value


# ----------------------------------------------------------------------------------------------------- moving numbers
@kernel("aclnnPermute")
def _permute(x, axes, out):
    out[...] = x.transpose(axes)


@kernel("aclnnRepeat")
def _repeat(x, times, out):
    out[...] = np.tile(x, times)


@kernel("aclnnCat")
def _cat(tensors, axis, out):
    out[...] = np.concatenate(tensors, axis)


@kernel("aclnnSplitWithSize")
def _split_with_size(x, sizes, axis, outs):
    for out, part in zip(outs, np.split(x, np.cumsum(sizes)[:-1], axis)):
        out[...] = part


@kernel("Split", "SplitD")
def _split(axis, x, *outs, num_split):
    for out, part in zip(outs, np.split(x, num_split, int(axis))):
        out[...] = part


@kernel("GatherV2")
def _gather_rows(x, indices, axis, out, *, batch_dims, negative_index_support=False):
    if batch_dims:
        raise NotImplementedError("GatherV2 with batch_dims")
    out[...] = np.take(x, indices, int(axis))


@kernel("aclnnGather")
def _gather(x, axis, indices, out):
    out[...] = np.take_along_axis(x, indices.astype(np.int64), axis)


@kernel("aclnnScatterAdd")
def _scatter_add(x, axis, indices, source, out):
    result, places = wide(x).copy(), list(np.indices(indices.shape))
    places[axis] = indices
    np.add.at(result, tuple(places), wide(source))
    out[...] = result


@kernel("UnsortedSegmentSum")
def _segment_sum(x, segments, count, out, **_):
    result = np.zeros(out.shape, np.float64)
    inside = segments >= 0
    np.add.at(result, segments[inside], wide(x)[inside])
    out[...] = result


def _slices(rank: int, begin, end, strides, masks: dict) -> tuple:
    if masks.get("ellipsis_mask") or masks.get("new_axis_mask"):
        raise NotImplementedError("StridedSlice with an ellipsis or a new axis")
    found: list = []
    for i, (first, last, step) in enumerate(zip(begin.tolist(), end.tolist(), strides.tolist())):
        if masks.get("shrink_axis_mask", 0) >> i & 1:
            found.append(first)
        else:
            open_at = [masks.get(key, 0) >> i & 1 for key in ("begin_mask", "end_mask")]
            found.append(slice(None if open_at[0] else first, None if open_at[1] else last, step))
    return tuple(found)


@kernel("StridedSlice")
def _strided_slice(x, begin, end, strides, out, **masks):
    out[...] = x[_slices(x.ndim, begin, end, strides, masks)]


@kernel("Slice")
def _slice(x, offsets, sizes, out, **_):
    found = zip(offsets.tolist(), sizes.tolist(), x.shape)
    out[...] = x[tuple(slice(begin, length if size < 0 else begin + size) for begin, size, length in found)]


@kernel("StridedSliceGrad")
def _strided_slice_grad(shape, begin, end, strides, gradient, out, **masks):
    out[...] = 0
    out[_slices(out.ndim, begin, end, strides, masks)] = gradient


@kernel("Pad", "PadD")
def _pad(x, paddings, out, **_):
    out[...] = np.pad(x, paddings.reshape(-1, 2).tolist())


# ----------------------------------------------------------------------------------------------------------------- sums
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


@kernel("aclnnSoftmaxBackward")
def _softmax_backward(gradient, y, axis, out):
    gradient, y = wide(gradient), wide(y)
    out[...] = (gradient - (gradient * y).sum(axis, keepdims=True)) * y


# ------------------------------------------------------------------------------------------------------ the matrix unit
@kernel("aclnnMatmul", "aclnnMm", "aclnnBatchMatMul")
def _matmul(x, y, out, cube_math_type):
    out[...] = _half_if(cube_math_type, x) @ _half_if(cube_math_type, y)


def _half_if(cube_math_type: int, x: np.ndarray) -> np.ndarray:
    """float32 rounded to float16 where the call says that it may be: ALLOW_FP32_DOWN_PRECISION, USE_FP16."""
    return x.astype(np.float16).astype(np.float32) if cube_math_type in (1, 2) and x.dtype == np.float32 else wide(x)


@kernel("BiasAdd")
def _bias_add(x, bias, out, *, data_format):
    out[...] = x + (bias.reshape(-1, *[1] * (x.ndim - 2)) if data_format == "NCHW" else bias)


@kernel("BiasAddGrad")
def _bias_add_grad(gradient, out, *, data_format):
    axis = 1 if data_format == "NCHW" else gradient.ndim - 1
    out[...] = wide(gradient).sum(tuple(i for i in range(gradient.ndim) if i != axis))


def _windows(x: np.ndarray, kernel: tuple[int, int], strides, dilations) -> np.ndarray:
    """(B, C, H, W), padded, to (B, C, h, w, kh, kw)."""
    (kh, kw), (sh, sw), (dh, dw) = kernel, strides[2:], dilations[2:]
    view = np.lib.stride_tricks.sliding_window_view(x, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), (2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def _padded(x: np.ndarray, pads) -> np.ndarray:
    top, bottom, left, right = pads
    return np.pad(wide(x), ((0, 0), (0, 0), (top, bottom), (left, right)))


def _grouped(windows: np.ndarray, groups: int) -> np.ndarray:
    """(B, C, h, w, kh, kw) to (groups, B*h*w, C/groups*kh*kw)."""
    batch, channels, height, width, kh, kw = windows.shape
    windows = windows.reshape(batch, groups, channels // groups, height, width, kh, kw)
    return windows.transpose(1, 0, 3, 4, 2, 5, 6).reshape(groups, batch * height * width, -1)


@kernel("Conv2D")
def _conv(x, weight, *rest, strides, pads, groups, dilations, data_format, **_):
    *bias, out = rest
    if data_format != "NCHW":
        raise NotImplementedError(f"Conv2D of {data_format}")
    rows = _grouped(_windows(_padded(x, pads), weight.shape[2:], strides, dilations), groups)
    result = rows @ wide(weight).reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)  # (g, B*h*w, o)
    batch, channels, height, width = out.shape
    result = result.reshape(groups, batch, height, width, -1).transpose(1, 0, 4, 2, 3).reshape(out.shape)
    out[...] = result + bias[0].reshape(1, -1, 1, 1) if bias else result


@kernel("aclnnConvolution")
def _convolution(x, weight, bias, strides, pads, dilations, transposed, output_pads, groups, out, cube_math_type):
    if transposed & 1:
        raise NotImplementedError("aclnnConvolution, transposed")
    x, weight = _half_if(cube_math_type, x), _half_if(cube_math_type, weight)
    (top, left), bias = pads, [] if isinstance(bias, int) else [bias]
    options = {"strides": [1, 1, *strides], "dilations": [1, 1, *dilations], "pads": [top, top, left, left]}
    _conv(x, weight, *bias, out, groups=groups, data_format="NCHW", **options)


def _gradient_rows(gradient: np.ndarray, groups: int) -> np.ndarray:
    """(B, O, h, w) to (groups, B*h*w, O/groups)."""
    batch, channels, height, width = gradient.shape
    rows = wide(gradient).reshape(batch, groups, channels // groups, height, width)
    return rows.transpose(1, 0, 3, 4, 2).reshape(groups, batch * height * width, -1)


@kernel("Conv2DBackpropFilter")
def _conv_filter_gradient(x, size, gradient, out, *, strides, pads, groups, dilations, **_):
    windows = _windows(_padded(x, pads), out.shape[2:], strides, dilations)
    windows = windows[:, :, : gradient.shape[2], : gradient.shape[3]]
    rows = _grouped(windows, groups)
    result = _gradient_rows(gradient, groups).transpose(0, 2, 1) @ rows  # (groups, O/groups, C/groups*kh*kw)
    out[...] = result.reshape(out.shape)


@kernel("Conv2DBackpropInput")
def _conv_input_gradient(size, weight, gradient, out, *, strides, pads, groups, dilations, **_):
    batch, channels, height, width = out.shape
    top, bottom, left, right = pads
    padded = np.zeros((batch, channels, height + top + bottom, width + left + right))
    rows = _gradient_rows(gradient, groups) @ wide(weight).reshape(groups, weight.shape[0] // groups, -1)
    kh, kw = weight.shape[2:]
    shape = (groups, batch, *gradient.shape[2:], channels // groups, kh, kw)
    rows = rows.reshape(shape).transpose(1, 0, 4, 2, 3, 5, 6).reshape(batch, channels, *gradient.shape[2:], kh, kw)
    (sh, sw), (dh, dw), (h, w) = strides[2:], dilations[2:], gradient.shape[2:]
    for i in range(kh):
        for j in range(kw):
            padded[:, :, i * dh : i * dh + sh * h : sh, j * dw : j * dw + sw * w : sw][:, :, :h, :w] += rows[..., i, j]
    out[...] = padded[:, :, top : top + height, left : left + width]


@kernel("aclnnConvolutionBackward")
def _convolution_backward(gradient, x, weight, bias_sizes, strides, pads, dilations, transposed, output_pads, groups,
                          wanted, cube_math_type, x_gradient, weight_gradient, bias_gradient):  # fmt: skip
    if transposed & 1:
        raise NotImplementedError("aclnnConvolutionBackward, transposed")
    (top, left), half = pads, functools.partial(_half_if, cube_math_type)
    options = {"strides": [1, 1, *strides], "dilations": [1, 1, *dilations], "pads": [top, top, left, left]}
    if wanted[0]:
        _conv_input_gradient(None, half(weight), half(gradient), x_gradient, groups=groups, **options)
    if wanted[1]:
        _conv_filter_gradient(half(x), None, half(gradient), weight_gradient, groups=groups, **options)
    if wanted[2]:
        bias_gradient[...] = wide(gradient).sum((0, 2, 3))


# ------------------------------------------------------------------------------------------------------ normalizations
def _channels(x: np.ndarray) -> np.ndarray:
    return wide(x).reshape(1, -1, 1, 1)


@kernel("BNInfer")
def _bn_infer(x, scale, offset, mean, variance, out, *, epsilon):
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


# ------------------------------------------------------------------------------------------------------------- pooling
def _pool_edges(x: np.ndarray, ksize, strides, padding: str) -> list[tuple[int, int]]:
    """What padding="SAME" adds before and behind height and width."""
    sizes = zip(x.shape[2:], ksize[2:], strides[2:])
    missing = [max((-(-n // s) - 1) * s + k - n, 0) if padding == "SAME" else 0 for n, k, s in sizes]
    return [(m // 2, m - m // 2) for m in missing]


@kernel("MaxPool")
def _max_pool(x, out, *, ksize, strides, padding, data_format, **_):
    around = [(0, 0), (0, 0), *_pool_edges(x, ksize, strides, padding)]
    filled = np.pad(wide(x), around, constant_values=-np.inf)
    out[...] = _windows(filled, ksize[2:], strides, (1, 1, 1, 1)).max((-2, -1))


@kernel("MaxPoolGrad")
def _max_pool_grad(x, y, gradient, out, *, ksize, strides, padding, data_format, **_):
    """To the first of the largest in each window."""
    (top, bottom), (left, right) = _pool_edges(x, ksize, strides, padding)
    filled = np.pad(wide(x), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    found = _windows(filled, ksize[2:], strides, (1, 1, 1, 1))
    place = found.reshape(*found.shape[:4], -1).argmax(-1)  # (B, C, h, w)
    result = np.zeros(filled.shape)
    b, c, i, j = np.indices(place.shape)
    np.add.at(result, (b, c, i * strides[2] + place // ksize[3], j * strides[3] + place % ksize[3]), wide(gradient))
    out[...] = result[:, :, top : top + x.shape[2], left : left + x.shape[3]]
