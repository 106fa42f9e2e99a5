"""Kernels that put numbers elsewhere."""

from __future__ import annotations

import numpy as np

from acmix_ms.deploy.ascend.meanings.registry import NoMeaningError, kernel, wide


@kernel("aclnnPermute", "Transpose")
def _permute(x, axes, out):
    out[...] = x.transpose(axes)


@kernel("Reshape")
def _reshape(x, shape, out, **_):
    out[...] = x.reshape(out.shape)


@kernel("aclnnRepeat", "Tile")
def _repeat(x, times, out):
    out[...] = np.tile(x, times)


@kernel("Concat")
def _concat(axis, *tensors, **_):
    """Of its attribute N, how many there are, MindSpore leaves the default."""
    tensors[-1][...] = np.concatenate(tensors[:-1], int(axis))


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
        raise NoMeaningError("GatherV2 with batch_dims")
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
        raise NoMeaningError("StridedSlice with an ellipsis or a new axis")
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
