"""The matrix unit: products and convolutions; and pooling, which goes over the same windows."""

from __future__ import annotations

import functools

import numpy as np

from acmix_ms.deploy.ascend.meanings.registry import NoMeaningError, kernel, wide


@kernel("aclnnMatmul", "aclnnMm", "aclnnBatchMatMul")
def _matmul(x, y, out, cube_math_type):
    out[...] = _half_if(cube_math_type, x) @ _half_if(cube_math_type, y)


@kernel("MatMul", "MatMulV2")
def _matmul_op(x, y, *rest, transpose_x1, transpose_x2, **_):
    *bias, out = rest
    _batch_matmul(x, y, out, adj_x1=transpose_x1, adj_x2=transpose_x2)
    if bias:
        out += bias[0]


@kernel("BatchMatMul", "BatchMatMulV2")
def _batch_matmul(x, y, out, *, adj_x1, adj_x2, **_):
    x, y = (np.swapaxes(wide(value), -1, -2) if swap else wide(value) for value, swap in ((x, adj_x1), (y, adj_x2)))
    out[...] = x @ y


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
        raise NoMeaningError(f"Conv2D of {data_format}")
    rows = _grouped(_windows(_padded(x, pads), weight.shape[2:], strides, dilations), groups)
    result = rows @ wide(weight).reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)  # (g, B*h*w, o)
    batch, channels, height, width = out.shape
    result = result.reshape(groups, batch, height, width, -1).transpose(1, 0, 4, 2, 3).reshape(out.shape)
    out[...] = result + bias[0].reshape(1, -1, 1, 1) if bias else result


@kernel("aclnnConvolution")
def _convolution(x, weight, bias, strides, pads, dilations, transposed, output_pads, groups, out, cube_math_type):
    if transposed & 1:
        raise NoMeaningError("aclnnConvolution, transposed")
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
        raise NoMeaningError("aclnnConvolutionBackward, transposed")
    (top, left), half = pads, functools.partial(_half_if, cube_math_type)
    options = {"strides": [1, 1, *strides], "dilations": [1, 1, *dilations], "pads": [top, top, left, left]}
    if wanted[0]:
        _conv_input_gradient(None, half(weight), half(gradient), x_gradient, groups=groups, **options)
    if wanted[1]:
        _conv_filter_gradient(half(x), None, half(gradient), weight_gradient, groups=groups, **options)
    if wanted[2]:
        bias_gradient[...] = wide(gradient).sum((0, 2, 3))


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
