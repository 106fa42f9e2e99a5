"""Stage I and Stage II of ACmix as pure functions (paper Sections 3 and 4).

Letters in the shape comments: B batch, N heads, d channels per head (C = N*d), H x W the input map, Ho x Wo the
output map, k a kernel size, L tokens in a window. Channels are ordered head first (n*d + i) on the attention path
and head last (i*N + n) on the convolution path, as in the official code, because trained weights depend on it.

Everything that depends on sizes only (indices, masks, the position grid) is built with NumPy at compile time.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from acmix_ms.ops import kernels


# ---------------------------------------------------------------------------------------------- sizes -> constants
@ops.constexpr
def position_grid(height: int, width: int) -> Tensor:
    """`grid` as a constant of a graph: (1, 2, H, W) float32."""
    return Tensor(grid(height, width)[None].astype(np.float32))


def grid(height: int, width: int) -> np.ndarray:
    """Coordinates in [-1, 1]: (2, H, W), channel 0 along x and channel 1 along y."""
    x = np.broadcast_to(np.linspace(-1.0, 1.0, width)[None, :], (height, width))
    y = np.broadcast_to(np.linspace(-1.0, 1.0, height)[:, None], (height, width))
    return np.stack([x, y])


@ops.constexpr
def _subsample_index(size, stride):
    return Tensor(np.arange(0, size, stride).astype(np.int32))


@ops.constexpr
def _nearest_index(size, low):
    return Tensor((np.arange(size) * low // size).astype(np.int32))


def shift_kernels(out_channels: int, kernel_size: int) -> np.ndarray:
    """Group-conv weight (C, k*k, k, k) whose j-th input map is shifted by (j//k - k//2, j%k - k//2): eq. 15."""
    taps = kernel_size * kernel_size
    kernel = np.eye(taps, dtype=np.float32).reshape(taps, kernel_size, kernel_size)
    return np.tile(kernel, (out_channels, 1, 1, 1))


def relative_position_index(height: int, width: int) -> np.ndarray:
    """Row of the relative-position table for each pair of tokens in a window: (L, L) int32, as in Swin."""
    y, x = np.divmod(np.arange(height * width), width)
    dy = y[:, None] - y[None, :] + height - 1
    dx = x[:, None] - x[None, :] + width - 1
    return (dy * (2 * width - 1) + dx).astype(np.int32)


# ---------------------------------------------------------------------------------------------------------- Stage I
def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution in the dtype of x: (B, Cin, H, W) -> (B, Cout, H, W)."""
    return kernels.conv2d(x, weight, bias)


# ------------------------------------------------------------------------------------------------------------ maps
def subsample(x: Tensor, stride: int) -> Tensor:
    """Every stride-th row and column: (B, C, H, W) -> (B, C, ceil(H/stride), ceil(W/stride))."""
    if stride == 1:
        return x
    _, _, height, width = x.shape
    return ops.gather(ops.gather(x, _subsample_index(height, stride), 2), _subsample_index(width, stride), 3)


def upsample_nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Nearest interpolation: (B, C, h, w) -> (B, C, height, width)."""
    _, _, low_h, low_w = x.shape
    return ops.gather(ops.gather(x, _nearest_index(height, low_h), 2), _nearest_index(width, low_w), 3)


def repeat_channels(x: Tensor, copies: int) -> Tensor:
    """Each channel ``copies`` times, copies side by side: (B, C, H, W) -> (B, C*copies, H, W)."""
    _, channels, height, width = x.shape
    x = ops.tile(x.reshape(-1, channels, 1, height * width), (1, 1, copies, 1))
    return x.reshape(-1, channels * copies, height, width)


def pad_to_at_least(x: Tensor, size: int) -> Tensor:
    """Zeros below and to the right until neither side of (B, C, H, W) is smaller than ``size``."""
    x = kernels.zero_pad(x, 2, 0, max(size - x.shape[2], 0))
    return kernels.zero_pad(x, 3, 0, max(size - x.shape[3], 0))


def reduce_tokens(x: Tensor, height: int, width: int, sr_ratio: int, sr, norm):
    """Tokens of the map that the Cells ``sr`` (a convolution of stride R) and ``norm`` reduce: (B, H*W, C) ->
    (B, h*w, C), h, w.
    """
    channels = x.shape[2]
    x = ops.transpose(x, (0, 2, 1)).reshape(-1, channels, height, width)
    x = sr(pad_to_at_least(x, sr_ratio))
    low_h, low_w = x.shape[2], x.shape[3]
    return norm(ops.transpose(x.reshape(-1, channels, low_h * low_w), (0, 2, 1))), low_h, low_w


# ----------------------------------------------------------------------------------------- Stage II: attention path
def weighted_sum(logits: Tensor, v: Tensor, dropout) -> Tensor:
    """softmax(logits) v, the softmax and the `nn.Dropout` after it in float32.

    (..., L, M), (..., M, d) -> (..., L, d).
    """
    if dropout.p == 0.0 or not dropout.training:
        return kernels.softmax_product(logits, v)
    return ops.BatchMatMul()(dropout(ops.softmax(logits, -1)).astype(v.dtype), v)


def token_heads(x: Tensor, heads: int) -> Tensor:
    """Tokens (B, L, N*d) -> (B, N, L, d)."""
    return ops.transpose(x.reshape(-1, x.shape[1], heads, x.shape[2] // heads), (0, 2, 1, 3))


def merge_token_heads(x: Tensor) -> Tensor:
    """(B, N, L, d) -> tokens (B, L, N*d)."""
    return ops.transpose(x, (0, 2, 1, 3)).reshape(-1, x.shape[2], x.shape[1] * x.shape[3])


@ops.constexpr
def _window_rows(height: int, width: int, maps: int, window: tuple[int, int]):
    """Order of the rows of (H, W, M) as (nW, M, L), and the inverse."""
    rows = np.arange(height * width * maps).reshape(height // window[0], window[0], width // window[1], window[1], maps)
    order = rows.transpose(0, 2, 4, 1, 3).reshape(-1)
    return Tensor(order.astype(np.int32)), Tensor(np.argsort(order).astype(np.int32))


def window_heads(x: Tensor, maps: int, window: tuple[int, int]) -> Tensor:
    """Cut a map with M heads' worth of channels into windows: (B, H, W, M*d) -> (B*nW, M, L, d)."""
    _, height, width, channels = x.shape
    wh, ww = window
    dim = channels // maps
    if kernels.on_cpu():
        order, inverse = _window_rows(height, width, maps, window)
        x = kernels.permute_rows(x.reshape(-1, height * width * maps, dim), order, inverse)
        return x.reshape(-1, maps, wh * ww, dim)
    x = ops.transpose(x.reshape(-1, height // wh, wh, width // ww, ww, channels), (0, 1, 3, 2, 4, 5))
    return ops.transpose(x.reshape(-1, wh * ww, maps, dim), (0, 2, 1, 3))


def merge_heads(x: Tensor, window: tuple[int, int], height: int, width: int) -> Tensor:
    """Inverse of `window_heads`: (B*nW, M, L, d) -> (B, H, W, M*d)."""
    _, maps, length, dim = x.shape
    wh, ww = window
    if kernels.on_cpu():
        order, inverse = _window_rows(height, width, maps, window)
        x = kernels.permute_rows(x.reshape(-1, height * width * maps, dim), inverse, order)
        return x.reshape(-1, height, width, maps * dim)
    x = ops.transpose(x, (0, 2, 1, 3)).reshape(-1, height // wh, width // ww, wh, ww, maps * dim)
    return ops.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(-1, height, width, maps * dim)


def window_logits(q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """What the softmax of eq. 19 takes: (B*nW, N, L, L) float32.

    Args:
        q, k: (B*nW, N, L, d), q scaled already.
        bias: (N, L, L) relative-position bias.
        mask: (nW, L, L) added to the logits of each window, or None.
    """
    logits = ops.BatchMatMul(False, True)(q, k).astype(ms.float32)
    if mask is None:
        return kernels.add_rows(logits, bias)
    windows, length, _ = mask.shape
    heads = q.shape[1]
    # Bias and mask are summed first: they are small, and the logits are passed over once.
    bias = bias.astype(ms.float32) + mask.astype(ms.float32).reshape(windows, 1, length, length)  # (nW, N, L, L)
    logits = kernels.add_rows(logits.reshape(-1, windows, heads, length, length), bias)
    return logits.reshape(-1, heads, length, length)


# --------------------------------------------------------------------------------------- Stage II: convolution path
def mix_features(qkv: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The light fully connected layer of Fig. 2(c): 3N maps of every channel-in-head become k*k maps.

    (B, 3C, H, W), weight (k*k, 3N, 1, 1) -> (B, d*k*k, H, W), channel i*k*k + j. The layer is 3N -> k*k (the paper's
    3N -> k*k*N is an error that its authors confirmed). Fewer maps with their columns of the weight do as well: the
    layer is linear.
    """
    _, channels, height, width = qkv.shape
    taps, maps = weight.shape[0], weight.shape[1]
    dim = channels // maps
    f = project(qkv.reshape(-1, maps, dim, height * width), weight, bias)  # (B, k*k, d, H*W)
    return ops.transpose(f, (0, 2, 1, 3)).reshape(-1, dim * taps, height, width)


def mixing_projection(weight: Tensor, bias: Tensor | None, fc_weight: Tensor, fc_bias: Tensor | None):
    """The shared projection and the light layer after it as one: both are linear and 1x1.

    weight (3C, Cin), bias (3C,) or None, fc_weight (k*k, 3N, 1, 1), fc_bias (k*k,) or None -> (d*k*k, Cin), (d*k*k,),
    whose 1x1 convolution gives what `mix_features` gives: channel i*k*k + j.
    """
    taps, maps = fc_weight.shape[0], fc_weight.shape[1]
    dim, in_channels = weight.shape[0] // maps, weight.shape[1]
    fc = fc_weight.reshape(taps, maps)
    mixed = ops.MatMul()(fc, weight.reshape(maps, dim * in_channels)).reshape(taps, dim, in_channels)
    mixed = ops.transpose(mixed, (1, 0, 2)).reshape(dim * taps, in_channels)
    offset = ops.zeros((dim, taps), weight.dtype)
    if bias is not None:
        offset = ops.MatMul(True, True)(bias.reshape(maps, dim), fc)
    if fc_bias is not None:
        offset = offset + fc_bias
    return mixed, offset.reshape(-1)


def merged_shift(features: Tensor, offset: Tensor | None, weight: Tensor):
    """Linear maps of S channels to the k*k * d maps that a group convolution reads, and that convolution, as one, in
    float32.

    features (d*k*k, S), or (k*k, S) where they are alike for all groups; offset (d*k*k,) or (k*k,), or None; weight
    (C, k*k, k, k) -> (C, S, k, k), (C, 1, k, k) or None. The bias enters before the zero padding, so it is a
    convolution of a map of ones.
    """
    channels, taps, size, _ = weight.shape
    groups, given = features.shape[0] // taps, features.shape[1]
    shifts = weight.astype(ms.float32).reshape(groups, channels // groups, taps, size * size)
    shifts = ops.transpose(shifts, (0, 1, 3, 2))
    shifts = shifts.reshape(groups, -1, taps)  # (groups, C/groups*k*k, k*k): positions of the window, maps
    features = features.astype(ms.float32).reshape(groups, taps, given)
    kernel = ops.BatchMatMul()(shifts, features).reshape(channels, -1, given)
    kernel = ops.transpose(kernel, (0, 2, 1)).reshape(channels, given, size, size)
    if offset is None:
        return kernel, None
    offset = offset.astype(ms.float32).reshape(groups, taps, 1)
    return kernel, ops.BatchMatMul()(shifts, offset).reshape(channels, 1, size, size)


def merged_path(
    x: Tensor, features: Tensor, offset: Tensor | None, shift_weight: Tensor, stride: int, dilation: int
) -> Tensor:
    """What `merged_shift` makes, of x (B, S*groups, H, W) -> (B, C, Ho, Wo), in the dtype of x."""
    kernel, offset = merged_shift(features, offset, shift_weight)
    y = group_shift(x, kernel, x.shape[1] // features.shape[1], stride, dilation)
    if offset is None:
        return y
    ones = ops.ones((1, 1, x.shape[2], x.shape[3]), x.dtype)
    return kernels.add_rows(y, group_shift(ones, offset, 1, stride, dilation))


def dense_path(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    shift_weight: Tensor,
    stride: int = 1,
    dilation: int = 1,
) -> Tensor:
    """`group_shift` of `mix_features` of a projection of x as one dense convolution: the same linear map.

    (B, Cin, H, W), weight (3C, Cin), bias (3C,) or None -> (B, C, Ho, Wo).
    """
    weights = [None if value is None else value.astype(ms.float32) for value in (weight, bias, fc_weight, fc_bias)]
    return merged_path(x, *mixing_projection(*weights), shift_weight, stride, dilation)


def grouped_path(
    qkv: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    shift_weight: Tensor,
    stride: int = 1,
    dilation: int = 1,
) -> Tensor:
    """`group_shift` of `mix_features` as one group convolution over the maps themselves: the same linear map.

    (B, 3C, H, W) -> (B, C, Ho, Wo).
    """
    _, channels, height, width = qkv.shape
    taps, maps = fc_weight.shape[0], fc_weight.shape[1]
    x = ops.transpose(qkv.reshape(-1, maps, channels // maps, height * width), (0, 2, 1, 3))
    x = x.reshape(-1, channels, height, width)
    return merged_path(x, fc_weight.reshape(taps, maps), fc_bias, shift_weight, stride, dilation)


def group_shift(
    f: Tensor, weight: Tensor, groups: int, stride: int = 1, dilation: int = 1, bias: Tensor | None = None
) -> Tensor:
    """Shift and summation as one group convolution (eq. 16-17, Fig. 3c), zero padding; and a bias (C,).

    (B, d*k*k, H, W), weight (C, k*k, k, k), groups d -> (B, C, Ho, Wo), channel i*N + n.
    """
    padding = dilation * (weight.shape[-1] // 2)
    return kernels.conv2d(f, weight, bias, stride, padding, dilation, groups)


def _shift_axis(x: Tensor, axis: int, offset: int) -> Tensor:
    """Shift (eq. 4) along one axis of a 4-D map: out[i] = x[i + offset], zeros from outside."""
    size, distance = x.shape[axis], abs(offset)
    if distance >= size:
        return x * 0
    if axis == 2:
        x = x[:, :, distance:, :] if offset > 0 else x[:, :, : size - distance, :]
    else:
        x = x[:, :, :, distance:] if offset > 0 else x[:, :, :, : size - distance]
    return kernels.zero_pad(x, axis, max(-offset, 0), max(offset, 0))


def tensor_shift(f: Tensor, num_heads: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Shift and summation with slices and concatenation (eq. 4-8, Fig. 3a): what the fixed group conv computes.

    (B, d*k*k, H, W) -> (B, C, Ho, Wo), channel i*N + n (all n alike, as the fixed kernels are).
    """
    _, channels, height, width = f.shape
    taps = kernel_size * kernel_size
    maps = ops.transpose(f.reshape(-1, channels // taps, taps, height * width), (0, 2, 1, 3))  # (B, k*k, d, H*W)
    total = None
    for j in range(taps):
        moved = maps[:, j].reshape(-1, channels // taps, height, width)
        moved = _shift_axis(moved, 2, dilation * (j // kernel_size - kernel_size // 2))
        moved = _shift_axis(moved, 3, dilation * (j % kernel_size - kernel_size // 2))
        total = moved if total is None else total + moved
    return repeat_channels(subsample(total, stride), num_heads)
