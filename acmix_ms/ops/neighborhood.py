"""Attention over a k x k neighbourhood with reflected borders, without unfolding the keys (eq. 9-10).

The map is cut into blocks of queries; each block meets the halo of keys around it in one batched matmul, and a
constant bias removes what lies outside a query's own window. Letters as in `functional`; bq queries in a block, s
keys in its halo, nb blocks.
"""

from __future__ import annotations

import functools

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from acmix_ms.ops import kernels

# Added to logits that must vanish: exp() of it is 0 in fp32 and it still fits fp16.
MASKED = -1e4
# Target side of a query block. Side 7 makes 49 x 169 tiles for the paper's k = 7: large enough for a matrix unit.
BLOCK = 7


# ---------------------------------------------------------------------------------------------- sizes -> constants
def reflect_index(index: np.ndarray, size: int) -> np.ndarray:
    """Mirror any integers into 0..size-1 as ``np.pad(mode="reflect")`` does, again and again; size 1 repeats."""
    period = max(2 * (size - 1), 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


def _taps(size: int, kernel_size: int, stride: int, dilation: int) -> np.ndarray:
    """Unmirrored source positions of every output position along one axis: (ceil(size/stride), k)."""
    centres = np.arange(0, size, stride)
    return centres[:, None] + dilation * (np.arange(kernel_size) - kernel_size // 2)


@functools.lru_cache(maxsize=256)
def _unfold_index(height: int, width: int, kernel_size: int, stride: int, dilation: int) -> np.ndarray:
    """Flat source index of each neighbour of each output pixel: (Ho*Wo, k*k)."""
    rows = reflect_index(_taps(height, kernel_size, stride, dilation), height)
    cols = reflect_index(_taps(width, kernel_size, stride, dilation), width)
    index = rows[:, None, :, None] * width + cols[None, :, None, :]  # (Ho, Wo, k, k)
    return index.reshape(-1, kernel_size * kernel_size).astype(np.int32)


def _axis_blocks(size: int, kernel_size: int, stride: int, dilation: int):
    """Cut one axis into blocks of queries.

    Returns (queries (nb, b): source position of each query, halo (nb, s): mirrored source positions that block
    needs, inside (b, s): whether a halo position is a tap of that query).
    """
    out = -(-size // stride)
    num_blocks = -(-out // BLOCK)
    block = -(-out // num_blocks)
    reach = dilation * (kernel_size // 2)
    span = stride * (block - 1) + 2 * reach + 1
    first = np.arange(num_blocks)[:, None] * block * stride
    # Queries past the edge repeat the last one; nobody reads their result.
    queries = np.minimum(first + stride * np.arange(block), (out - 1) * stride)
    halo = reflect_index(first - reach + np.arange(span), size)
    offset = np.arange(span) - stride * np.arange(block)[:, None]  # distance from the first tap
    inside = (offset >= 0) & (offset <= 2 * reach) & (offset % dilation == 0)
    return queries, halo, inside


@functools.lru_cache(maxsize=256)
def _halo_plan(height: int, width: int, kernel_size: int, stride: int, dilation: int):
    """Index arrays of the halo-block form.

    Returns (number of blocks nb, queries (nb*bq,) or None, keys (nb*s,) or None, bias (bq, s) float32,
    outputs (Ho*Wo,) or None). None means: the identity, no gather needed.
    """
    out_h, out_w = -(-height // stride), -(-width // stride)
    if out_h <= BLOCK and out_w <= BLOCK:
        # One block sees the whole map. A source pixel that mirroring makes a tap m times counts m-fold in the
        # softmax, which is the same as adding log(m) to its logit.
        index = _unfold_index(height, width, kernel_size, stride, dilation)
        count = np.zeros((out_h * out_w, height * width))
        np.add.at(count, (np.arange(out_h * out_w)[:, None], index), 1)
        bias = np.where(count > 0, np.log(np.maximum(count, 1)), MASKED).astype(np.float32)
        queries = np.arange(height * width).reshape(height, width)[::stride, ::stride].reshape(-1)
        return 1, None if stride == 1 else queries.astype(np.int32), None, bias, None

    rows_q, rows_halo, rows_in = _axis_blocks(height, kernel_size, stride, dilation)
    cols_q, cols_halo, cols_in = _axis_blocks(width, kernel_size, stride, dilation)
    num_blocks = len(rows_q) * len(cols_q)

    def flat(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:  # (nbh, p), (nbw, q) -> (nbh*nbw*p*q,)
        return (rows[:, None, :, None] * width + cols[None, :, None, :]).reshape(-1).astype(np.int32)

    inside = rows_in[:, None, :, None] & cols_in[None, :, None, :]  # (bh, bw, sh, sw)
    block_h, block_w = rows_q.shape[1], cols_q.shape[1]
    bias = np.where(inside, 0.0, MASKED).astype(np.float32).reshape(block_h * block_w, -1)
    i, j = np.arange(out_h)[:, None], np.arange(out_w)[None, :]
    outputs = ((i // block_h) * len(cols_q) + j // block_w) * block_h * block_w + i % block_h * block_w + j % block_w
    return num_blocks, flat(rows_q, cols_q), flat(rows_halo, cols_halo), bias, outputs.reshape(-1).astype(np.int32)


def places(index: np.ndarray, rows: int) -> np.ndarray:
    """(rows, m) int32: at which positions of ``index`` each row stands, filled up with the length of ``index``."""
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index, minlength=rows)
    table = np.full((rows, counts.max()), len(index), np.int32)
    table[np.arange(counts.max()) < counts[:, None]] = order
    return table


@ops.constexpr
def _halo_constants(height, width, kernel_size, stride, dilation):
    """As `_halo_plan`, with `places` beside each index."""
    num_blocks, queries, keys, bias, outputs = _halo_plan(height, width, kernel_size, stride, dilation)

    def pair(index, rows):
        return None if index is None else (Tensor(index), Tensor(places(index, rows)))

    pixels = height * width
    return num_blocks, pair(queries, pixels), pair(keys, pixels), Tensor(bias), pair(outputs, num_blocks * len(bias))


@ops.constexpr
def _unfold_constants(height, width, kernel_size, stride, dilation):
    centres = np.arange(height * width).reshape(height, width)[::stride, ::stride].reshape(-1)
    return Tensor(centres.astype(np.int32)), Tensor(_unfold_index(height, width, kernel_size, stride, dilation))


@ops.constexpr
def _tap_constants(size, kernel_size, stride, dilation):
    return Tensor(reflect_index(_taps(size, kernel_size, stride, dilation), size).T.reshape(-1).astype(np.int32))


# -------------------------------------------------------------------------------------------------------- attention
def _attend_halo(q, k, v, height, width, kernel_size, stride, dilation):
    """Blocks of queries against their halo of keys: two batched matmuls, no k*k-fold expanded tensor."""
    num_blocks, queries, keys, bias, outputs = _halo_constants(height, width, kernel_size, stride, dilation)
    dim = q.shape[2]
    if queries is not None:
        q = kernels.take_rows(q, *queries)
    if keys is not None:
        k, v = kernels.take_rows(k, *keys), kernels.take_rows(v, *keys)
    q = q.reshape(-1, bias.shape[0], dim)  # (B*N*nb, bq, d)
    k = k.reshape(-1, bias.shape[1], dim)  # (B*N*nb, s, d)
    v = v.reshape(-1, bias.shape[1], dim)
    logits = kernels.add_rows(ops.BatchMatMul(False, True)(q, k).astype(ms.float32), bias)  # (B*N*nb, bq, s)
    out = kernels.softmax_product(logits, v).reshape(-1, num_blocks * bias.shape[0], dim)
    return out if outputs is None else kernels.take_rows(out, *outputs)  # (B*N, Ho*Wo, d)


def _attend_unfold(q, k, v, height, width, kernel_size, stride, dilation):
    """The plain form of eq. 9-10: every query with its k*k neighbours spelled out. For comparison; slow and large."""
    centres, index = _unfold_constants(height, width, kernel_size, stride, dilation)
    dim = q.shape[2]
    taps = index.shape[1]
    q = ops.gather(q, centres, 1).reshape(-1, 1, dim)  # (B*N*Ho*Wo, 1, d)
    k = ops.gather(k, index.reshape(-1), 1).reshape(-1, taps, dim)  # (B*N*Ho*Wo, k*k, d)
    v = ops.gather(v, index.reshape(-1), 1).reshape(-1, taps, dim)
    logits = ops.BatchMatMul(False, True)(q, k).astype(ms.float32)
    return kernels.softmax_product(logits, v).reshape(-1, index.shape[0], dim)  # (B*N, Ho*Wo, d)


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    num_heads: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    backend: str = "halo",
) -> Tensor:
    """Sliding-window attention with reflected borders (eq. 9-10 and the position term of the official code).

    The official logit is q . (k(x+t) + pe(x) - pe(x+t)). The q . pe(x) term is the same for every tap t and cancels
    in the softmax, so the position encoding is simply subtracted from the keys: exact, and nothing to unfold.

    Args:
        q, k, v: (B, C, H, W), channels head first.
        position: (1, d, H, W) position encoding, shared by the heads.
        num_heads: N; d = C / N.
        kernel_size: k, odd.
        stride: output size is ceil(n / stride); queries sit at 0, stride, 2*stride, ...
        dilation: distance between taps.
        backend: ``"halo"`` (blocks of queries, matmuls) or ``"unfold"`` (plain form).

    Returns:
        (B, C, Ho, Wo) in the dtype of v.
    """
    _, channels, height, width = q.shape
    dim = channels // num_heads

    def rows(x):  # (B, C, H, W) -> (B*N, H*W, d)
        return kernels.swap_last(x.reshape(-1, dim, height * width))

    q = rows(kernels.times(q, dim**-0.5))
    position = ops.tile(position.reshape(dim, height, width), (num_heads, 1, 1))  # (C, H, W)
    k = rows(kernels.add_rows(k, -position))
    v = rows(v)
    return attend(q, k, v, num_heads, (height, width), kernel_size, stride, dilation, backend)


def attend(q, k, v, num_heads, size, kernel_size, stride=1, dilation=1, backend="halo") -> Tensor:
    """The attention of `neighborhood_attention` for rows (B*N, H*W, d) of a map of ``size`` (H, W): q scaled, the
    position in k.
    """
    height, width = size
    form = _attend_halo if backend == "halo" else _attend_unfold
    out = form(q, k, v, height, width, kernel_size, stride, dilation)
    out_h, out_w = (height + stride - 1) // stride, (width + stride - 1) // stride
    return kernels.swap_back(out).reshape(-1, num_heads * q.shape[2], out_h, out_w)


# -------------------------------------------------------------------------------------------------------- patchwise
def unfold(x: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """The k*k neighbours of each pixel as channels: (B, C, H, W) -> (B, C*k*k, Ho, Wo), channel i*k*k + tap."""
    _, channels, height, width = x.shape
    rows, cols = (
        _tap_constants(height, kernel_size, stride, dilation),
        _tap_constants(width, kernel_size, stride, dilation),
    )
    taps = kernel_size * kernel_size
    out_h, out_w = rows.shape[0] // kernel_size, cols.shape[0] // kernel_size
    x = ops.gather(x, rows, 2).reshape(-1, channels * kernel_size, out_h, width)  # (B, C*ky, Ho, W)
    x = ops.gather(x, cols, 3).reshape(-1, channels * kernel_size, out_h, kernel_size, out_w)
    return ops.transpose(x, (0, 1, 3, 2, 4)).reshape(-1, channels * taps, out_h, out_w)


def aggregate(v: Tensor, weights: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Sum of each pixel's neighbours with weights of its own, shared by channels (SAN's aggregation).

    v (B, m, H, W), weights (B, s*k*k, Ho, Wo), channel j*k*k + tap -> (B, m, Ho, Wo):
    out[c](x) = sum_t weights[c mod s, t](x) * v[c](x + t), borders mirrored.
    """
    _, channels, height, width = v.shape
    _, _, out_h, out_w = weights.shape
    taps = kernel_size * kernel_size
    groups = weights.shape[1] // taps
    share = channels // groups
    _, index = _unfold_constants(height, width, kernel_size, stride, dilation)
    # Channels with the same weights become rows of one small matrix: (B*s, H*W, share).
    v = ops.transpose(v.reshape(-1, share, groups, height * width), (0, 2, 3, 1)).reshape(-1, height * width, share)
    v = ops.gather(v, index.reshape(-1), 1).reshape(-1, taps, share)  # (B*s*Ho*Wo, k*k, share)
    w = ops.transpose(weights.reshape(-1, taps, out_h * out_w), (0, 2, 1)).reshape(-1, 1, taps)
    out = ops.BatchMatMul()(w, v).reshape(-1, groups, out_h * out_w, share)
    return ops.transpose(out, (0, 3, 1, 2)).reshape(-1, channels, out_h, out_w)
