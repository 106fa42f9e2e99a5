"""RoIAlign (He et al. 2017): what maps hold in boxes, with the half pixel that Detectron2 put right (aligned=True).

Each bin of a box is the mean over points between the places of the map. Released configurations take as many points as
the box is large (``samples=0``); devices train and run with 2 x 2 of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P

from acmix_ms.ops import boxes as geometry
from acmix_ms.ops import kernels

FINEST = 56.0  # boxes of this side, and smaller than twice that, are looked for in the finest map
LARGEST = 2**26  # values of rows of maps that are in memory at once, in the form that takes any number of points


def levels_of(rois: Tensor, count: int) -> Tensor:
    """RoIs (N, 5) float32 -> (N,) int32: which of ``count`` maps they are looked for in, the larger the coarser."""
    _, x1, y1, x2, y2 = _columns(rois, 5)
    area = (x2 - x1) * (y2 - y1)
    side = ops.sqrt(ops.maximum(area, 0.0)) / FINEST + 1e-6
    level = ops.zeros_like(side)
    for i in range(1, count):  # floor(log2(side)) within 0 and count - 1
        level = level + (side >= float(2**i)).astype(ms.float32)
    return level.astype(ms.int32)


def shares(start: Tensor, side: Tensor, bins: int, length: Tensor | int, rows: int, samples: int = 0) -> Tensor:
    """How much of each row of a map is in each bin, along one axis: (N,), (N,) -> (N, bins, rows) float32.

    The mean over a bin's points of the weights that interpolation gives to the rows. A point that lies further than a
    row outside counts as zero, one that lies less far as the border.

    Args:
        start: where boxes begin, in rows from the centre of the first one.
        side: of the boxes, in rows.
        bins: into which a side is divided.
        length: rows of the map, or (N, 1, 1) of the map of each box.
        rows: that are wanted; those beyond the map are zero.
        samples: points in a bin; 0 for at most a row between them.
    """
    step = (side / bins).reshape(-1, 1, 1)  # of bins
    first = start.reshape(-1, 1, 1) + geometry.numbers(bins).reshape(1, -1, 1) * step  # (N, bins, 1)
    row = geometry.numbers(rows).reshape(1, 1, -1)
    if samples:
        count, tried, nearest = ops.full_like(step, float(samples)), samples, ops.zeros_like(first - row)
    else:
        # Points are more than half a row apart, or there is but one: at most five touch a row.
        count, tried = ops.ceil(step), 6
        apart = ops.maximum(step / ops.maximum(count, 1.0), 1e-9)
        nearest = ops.maximum(ops.floor((row - 1 - first) / apart - 0.5), 0.0)
    total = ops.zeros_like(first - row)
    divisor = ops.maximum(count, 1.0)
    for i in range(tried):
        number = nearest + float(i)
        point = first + (number + 0.5) * step / divisor
        counts = ops.logical_and(number < count, ops.logical_and(point >= -1.0, point <= length))
        point = ops.minimum(ops.maximum(point, 0.0), length - 1.0)
        total = total + ops.relu(1 - ops.abs(row - point)) * counts.astype(ms.float32)
    return total / divisor


def align_any(
    maps: Sequence[Tensor], rois: Tensor, level: Tensor, strides: Sequence[int], size: int, samples: int = 0
) -> Tensor:
    """Maps (B, C, h, w) and RoIs (N, 5) [image, x1, y1, x2, y2] -> (N, C, size, size) with any number of points.

    As points lie on a grid, interpolation and mean are one matrix for the rows and one for the columns. Meant for
    comparisons: each box is multiplied with whole maps.

    Args:
        level: (N,) int32, from which map each RoI is taken.
        strides: of the maps.
        samples: points along each side of a bin, 0 for as many as the box is large.
    """
    batch, channels = maps[0].shape[:2]
    total = rois.shape[0]
    stride, heights, widths = ops.zeros_like(rois[:, 0]), ops.zeros_like(rois[:, 0]), ops.zeros_like(rois[:, 0])
    for i, x in enumerate(maps):
        own = (level == i).astype(ms.float32)
        stride, heights, widths = stride + own * strides[i], heights + own * x.shape[2], widths + own * x.shape[3]
    boxes = rois[:, 1:] / stride.expand_dims(1)
    start, sides = boxes[:, :2] - 0.5, boxes[:, 2:] - boxes[:, :2]
    start, sides = ops.transpose(start, (1, 0)).reshape(-1), ops.transpose(sides, (1, 0)).reshape(-1)
    length = ops.concat((widths, heights), 0).reshape(-1, 1, 1)
    longest = max([max(x.shape[2:]) for x in maps])
    both = shares(start, sides, size, length, longest, samples)  # (2N, size, longest): columns, then rows
    columns, rows = ops.transpose(both[:total], (0, 2, 1)), both[total:]
    found = 0
    for i, x in enumerate(maps):
        height, width = x.shape[2:]
        together = max(1, LARGEST // (size * channels * width))
        of_level = ()
        for first in range(0, total, together):
            count = min(together, total - first)
            part = 0
            for image in range(batch):
                own = ops.logical_and(level == i, rois[:, 0] == image)[first : first + count]
                own = own.astype(ms.float32).reshape(-1, 1, 1)
                weight = (rows[first : first + count, :, :height] * own).reshape(count * size, height)
                flat = ops.transpose(x[image], (1, 0, 2)).reshape(height, channels * width)
                part = part + ops.MatMul()(weight, flat).reshape(count, size * channels, width)
            of_level += (ops.BatchMatMul()(part, columns[first : first + count, :width]),)
        found = found + ops.concat(of_level, 0)
    return ops.transpose(found.reshape(total, size, channels, size), (0, 2, 1, 3))


def align_points(
    maps: Sequence[Tensor], rois: Tensor, level: Tensor, strides: Sequence[int], size: int, samples: int = 2
) -> Tensor:
    """What `align` finds, each RoI in the map of its level, in plain operators: for files without such a kernel.

    All maps become one table with a row for each place, and each point takes the four rows around it.

    Args:
        maps, rois, level, strides, size: see `align_any`.
        samples: points along each side of a bin.
    """
    batch, channels = maps[0].shape[:2]
    total, side = rois.shape[0], size * samples
    image, *corners = _columns(rois, 5)
    stride, width, height, base = 0.0, 0.0, 0.0, 0.0
    table, rows = (), 0
    for i, x in enumerate(maps):
        own = (level == i).astype(ms.float32)
        stride, height, width = stride + own * strides[i], height + own * x.shape[2], width + own * x.shape[3]
        base = base + own * rows
        table += (ops.transpose(x, (0, 2, 3, 1)).reshape(-1, channels),)
        rows += batch * x.shape[2] * x.shape[3]
    x1, y1, x2, y2 = corners
    left, right, at_left = _neighbours(x1 / stride - 0.5, (x2 - x1) / stride, side, width)
    above, below, at_top = _neighbours(y1 / stride - 0.5, (y2 - y1) / stride, side, height)
    table = ops.concat(table, 0)
    first, per_row = (base + image * height * width).reshape(-1, 1, 1), width.reshape(-1, 1, 1)
    found = 0
    for row, row_share in ((above, at_top[0]), (below, at_top[1])):
        for column, column_share in ((left, at_left[0]), (right, at_left[1])):
            place = first + row.expand_dims(2) * per_row + column.expand_dims(1)  # (N, side, side)
            values = ops.gather(table, place.astype(ms.int32).reshape(-1), 0)
            share = row_share.expand_dims(2) * column_share.expand_dims(1)
            found = found + values * share.reshape(-1, 1)
    found = found.reshape(total * size, samples, size, samples * channels).sum(1)
    found = found.reshape(total * size * size, samples, channels).sum(1) * (1 / samples**2)
    return ops.transpose(found.reshape(total, size * size, channels), (0, 2, 1)).reshape(total, channels, size, size)


def _neighbours(start: Tensor, length: Tensor, count: int, limit: Tensor) -> tuple[Tensor, Tensor, tuple]:
    """Of ``count`` points on each line (N,): the places before and behind them and the shares of both, (N, count).

    Args:
        start, length: of the lines, in places from the middle of the first one.
        limit: (N,) float32, so many places there are.
    """
    points = start.expand_dims(1) + (geometry.numbers(count) + 0.5).expand_dims(0) * (length / count).expand_dims(1)
    limit = limit.expand_dims(1)
    inside = ops.logical_and(points >= -1.0, points <= limit).astype(ms.float32)
    points = ops.minimum(ops.maximum(points, 0.0), limit - 1.0)
    before = ops.floor(points)
    behind = ops.minimum(before + 1.0, limit - 1.0)
    part = points - before
    return before, behind, ((1 - part) * inside, part * inside)


def _columns(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """(N, count) -> of each column (N,)."""
    columns = ()
    for column in ops.Split(1, count)(x):
        columns += (column.reshape(-1),)
    return columns


def align(x: Tensor, rois: Tensor, stride: int, size: int, samples: int = 2) -> Tensor:
    """A map (B, C, H, W), RoIs (N, 5) -> (N, C, size, size), ``samples`` x ``samples`` points, by MindSpore's kernel.

    That knows nothing of the half pixel and takes the last pixel as inside, which the coordinates make good.
    """
    half = stride / 2
    image, x1, y1, x2, y2 = rois[:, 0], rois[:, 1], rois[:, 2], rois[:, 3], rois[:, 4]
    moved = ops.stack((image, x1 - half, y1 - half, x2 - half - 1, y2 - half - 1), 1)
    return P.ROIAlign(size, size, 1 / stride, samples, 1)(x, moved)


class RoIExtractor(nn.Cell):
    """Maps of a pyramid, the finest first, and RoIs (N, 5) -> (N, C, size, size), each from the map of its level.

    Args:
        strides: of the maps.
        size: bins along each side.
        samples: points along each side of a bin, 0 for as many as the box is large.
    """

    def __init__(self, strides: Sequence[int], size: int, samples: int = 2):
        super().__init__()
        self.strides, self.size, self.samples = tuple(strides), size, samples

    def construct(self, maps: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        rois = ops.stop_gradient(rois.astype(ms.float32))
        level = levels_of(rois, len(self.strides))
        if not self.samples or kernels.for_onnx():  # which has no kernel for it
            inputs = ()
            for i in range(len(self.strides)):
                inputs += (maps[i].astype(ms.float32),)
            form = align_points if self.samples else align_any
            return form(inputs, rois, level, self.strides, self.size, self.samples).astype(maps[0].dtype)
        level, total = level.reshape(-1, 1, 1, 1), 0
        for i, stride in enumerate(self.strides):
            found = align(maps[i].astype(ms.float32), rois, stride, self.size, self.samples)
            total = ops.where(level == i, found, ops.zeros_like(found)) + total
        return total.astype(maps[0].dtype)
