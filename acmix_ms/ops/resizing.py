"""Maps in another size: bilinear interpolation as PyTorch has it without aligned corners, and adaptive averages."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from acmix_ms.maps import average_weights, bilinear_weights
from acmix_ms.ops.kernels import for_onnx


@ops.constexpr
def bilinear_matrix(size: int, low: int) -> Tensor:
    """`bilinear_weights` as float32, for use in a graph."""
    return Tensor(bilinear_weights(size, low).astype(np.float32))


def resize_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) -> (B, C, height, width), in the dtype of x."""
    _, channels, low_h, low_w = x.shape
    if (low_h, low_w) == (height, width):
        return x
    if not for_onnx():
        # In float32: CPU has no other kernel, and a sum of four products loses nothing by it.
        return ops.interpolate(x.astype(ms.float32), size=(height, width), mode="bilinear").astype(x.dtype)
    # Two products of plain matrices: MindSpore's exporter does not know the operator.
    x = ops.MatMul(False, True)(x.reshape(-1, low_w), bilinear_matrix(width, low_w).astype(x.dtype))  # (B*C*h, W)
    x = ops.transpose(x.reshape(-1, low_h, width), (0, 2, 1)).reshape(-1, low_h)  # (B*C*W, h)
    x = ops.MatMul(False, True)(x, bilinear_matrix(height, low_h).astype(x.dtype))  # (B*C*W, H)
    return ops.transpose(x.reshape(-1, channels, width, height), (0, 1, 3, 2))


@ops.constexpr
def _average_matrix(low: int, height: int, width: int) -> Tensor:
    matrix = np.kron(average_weights(low, height), average_weights(low, width))  # (low*low, H*W)
    return Tensor(matrix.astype(np.float32))


def average_pool(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): means of so many parts of each axis, in the dtype of x.

    As one matrix product, which trains and is exported everywhere, for any H and W.
    """
    _, channels, height, width = x.shape
    matrix = _average_matrix(side, height, width).astype(x.dtype)
    return ops.MatMul(False, True)(x.reshape(-1, height * width), matrix).reshape(-1, channels, side, side)
