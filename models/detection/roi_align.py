"""RoIAlign (He et al. 2017): what maps hold in boxes, with the half pixel that Detectron2 put right (aligned=True).

Each bin of a box is the mean over points between the places of the map. Released configurations take as many points as
the box is large (``samples=0``); devices train and run with 2 x 2 of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P

FINEST = 56.0  # boxes of this side, and smaller than twice that, are looked for in the finest map
TOGETHER = 64  # boxes whose parts of the map are in memory at once, in the form that takes any number of points


def levels_of(boxes: Tensor, count: int) -> Tensor:
    """(N, 4) -> (N,) int32: which of ``count`` maps boxes are looked for in, the larger the coarser."""
    boxes = boxes.astype(ms.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    side = ops.sqrt(ops.maximum(area, 0.0)) / FINEST + 1e-6
    level = ops.zeros_like(side)
    for i in range(1, count):  # floor(log2(side)) within 0 and count - 1
        level = level + (side >= float(2**i)).astype(ms.float32)
    return level.astype(ms.int32)


def shares(start: Tensor, side: Tensor, bins: int, length: int, samples: int = 0, rows: int = 0) -> Tensor:
    """How much of each row of a map is in each bin, along one axis: (N,), (N,) -> (N, bins, rows) float32.

    The mean over a bin's points of the weights that interpolation gives to the rows. A point that lies further than a
    row outside counts as zero, one that lies less far as the border.

    Args:
        start: where boxes begin, in rows from the centre of the first one.
        side: of the boxes, in rows.
        bins: into which a side is divided.
        length: rows of the map.
        samples: points in a bin; 0 for at most a row between them.
        rows: that are wanted, those beyond the map are zero; 0 for ``length``.
    """
    step = (side / bins).reshape(-1, 1, 1)  # of bins
    first = start.reshape(-1, 1, 1) + ops.arange(bins).astype(ms.float32).reshape(1, -1, 1) * step  # (N, bins, 1)
    row = ops.arange(rows or length).astype(ms.float32).reshape(1, 1, -1)
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
        counts = ops.logical_and(number < count, ops.logical_and(point >= -1.0, point <= float(length)))
        point = ops.minimum(ops.maximum(point, 0.0), float(length - 1))
        total = total + ops.relu(1 - ops.abs(row - point)) * counts.astype(ms.float32)
    return total / divisor


def align_any(x: Tensor, rois: Tensor, stride: int, size: int, samples: int = 0) -> Tensor:
    """(B, C, H, W), (N, 5) [image, x1, y1, x2, y2] -> (N, C, size, size) with any number of points, by matrix products.

    As points lie on a grid, interpolation and mean are one matrix for the rows and one for the columns. Meant for
    comparisons: each box is multiplied with its whole map.
    """
    batch, channels, height, width = x.shape
    boxes = rois[:, 1:] / float(stride)
    start, sides = boxes[:, :2] - 0.5, boxes[:, 2:] - boxes[:, :2]
    columns = shares(start[:, 0], sides[:, 0], size, width, samples)  # (N, size, W)
    rows = shares(start[:, 1], sides[:, 1], size, height, samples)  # (N, size, H)
    columns = ops.transpose(columns, (0, 2, 1))
    found = ()
    for first in range(0, rois.shape[0], TOGETHER):
        count = min(TOGETHER, rois.shape[0] - first)
        part = 0
        for image in range(batch):
            of_image = (rois[first : first + count, 0] == image).astype(ms.float32).reshape(-1, 1, 1)
            weight = (rows[first : first + count] * of_image).reshape(count * size, height)
            flat = ops.transpose(x[image], (1, 0, 2)).reshape(height, channels * width)
            part = part + ops.matmul(weight, flat).reshape(count, size * channels, width)
        part = ops.matmul(part, columns[first : first + count]).reshape(count, size, channels, size)
        found += (ops.transpose(part, (0, 2, 1, 3)),)
    return ops.concat(found, 0)


def align(x: Tensor, rois: Tensor, stride: int, size: int, samples: int = 2) -> Tensor:
    """As `align_any` with ``samples`` x ``samples`` points, by MindSpore's kernel.

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
        level = levels_of(rois[:, 1:], len(self.strides)).reshape(-1, 1, 1, 1)
        total = 0
        for i, stride in enumerate(self.strides):
            x = maps[i].astype(ms.float32)
            if self.samples:
                found = align(x, rois, stride, self.size, self.samples)
            else:
                found = align_any(x, rois, stride, self.size)
            total = ops.where(level == i, found, ops.zeros_like(found)) + total
        return total.astype(maps[0].dtype)
