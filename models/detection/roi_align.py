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

FINEST = 56.0  # boxes of this side, and smaller than twice that, are looked for in the finest map
LARGEST = 2**26  # values of rows of maps that are in memory at once, in the form that takes any number of points


def levels_of(boxes: Tensor, count: int) -> Tensor:
    """(N, 4) -> (N,) int32: which of ``count`` maps boxes are looked for in, the larger the coarser."""
    boxes = boxes.astype(ms.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
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
        level = levels_of(rois[:, 1:], len(self.strides))
        if not self.samples:
            inputs = ()
            for i in range(len(self.strides)):
                inputs += (maps[i].astype(ms.float32),)
            return align_any(inputs, rois, level, self.strides, self.size).astype(maps[0].dtype)
        level, total = level.reshape(-1, 1, 1, 1), 0
        for i, stride in enumerate(self.strides):
            found = align(maps[i].astype(ms.float32), rois, stride, self.size, self.samples)
            total = ops.where(level == i, found, ops.zeros_like(found)) + total
        return total.astype(maps[0].dtype)
