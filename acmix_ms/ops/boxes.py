"""Boxes (x1, y1, x2, y2) in pixels as tensors of float32: deltas, overlaps and losses, as mmdetection defines them.

No side counts a pixel more than its length. Everything is computed in float32, whatever comes in, and nothing divides
by zero for boxes of no area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

# Largest logarithm of a side's change that is believed: of 16 pixels in 1000.
LARGEST_CHANGE = abs(math.log(16 / 1000))
SMALLEST_SIDE, SMALLEST_UNION = 1e-3, 1e-6


@ops.constexpr
def numbers(count: int) -> Tensor:
    """(count,) float32: 0, 1, ... `ops.arange` is not compiled everywhere: of a second one the dtype gets lost."""
    return Tensor(np.arange(count, dtype=np.float32))


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(..., 4) -> four of (...) float32."""
    # Not by indices, of which the compiler makes a hundred times as many graphs.
    first, second, third, fourth = ops.Split(x.ndim - 1, 4)(x.astype(ms.float32))
    squeeze = ops.Squeeze(-1)
    return squeeze(first), squeeze(second), squeeze(third), squeeze(fourth)


def _together(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The inverse of `_parts`, not by `ops.stack`, which becomes a sequence in ONNX."""
    return ops.cat((a.expand_dims(-1), b.expand_dims(-1), c.expand_dims(-1), d.expand_dims(-1)), -1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, centre y, width and height."""
    x1, y1, x2, y2 = _parts(boxes)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, x2 - x1, y2 - y1


def encode(priors: Tensor, boxes: Tensor, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """(..., 4), (..., 4) -> (..., 4): how the boxes lie to their priors, in ``stds``."""
    px, py, pw, ph = _centred(priors)
    x, y, w, h = _centred(boxes)
    pw, ph = ops.maximum(pw, SMALLEST_SIDE), ops.maximum(ph, SMALLEST_SIDE)
    w, h = ops.maximum(w, SMALLEST_SIDE), ops.maximum(h, SMALLEST_SIDE)
    deltas = _together((x - px) / pw, (y - py) / ph, ops.log(w / pw), ops.log(h / ph))
    return deltas / Tensor(stds, ms.float32)


def decode(priors: Tensor, deltas: Tensor, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """(..., 4), (..., 4) -> (..., 4): the inverse of `encode`, with changes of size limited to `LARGEST_CHANGE`."""
    dx, dy, dw, dh = _parts(deltas.astype(ms.float32) * Tensor(stds, ms.float32))
    px, py, pw, ph = _centred(priors)
    x, y = px + pw * dx, py + ph * dy
    w = pw * ops.exp(ops.clamp(dw, -LARGEST_CHANGE, LARGEST_CHANGE)) * 0.5
    h = ph * ops.exp(ops.clamp(dh, -LARGEST_CHANGE, LARGEST_CHANGE)) * 0.5
    return _together(x - w, y - h, x + w, y + h)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(B, ..., 4) to within images of (height, width) ``sizes`` (B, 2)."""
    shape = (-1,) + (1,) * (boxes.ndim - 2)
    height, width = sizes[:, 0].reshape(shape), sizes[:, 1].reshape(shape)
    x1, y1, x2, y2 = _parts(boxes)

    def within(value, largest):
        return ops.minimum(ops.maximum(value, 0.0), largest)

    return _together(within(x1, width), within(y1, height), within(x2, width), within(y2, height))


def has_area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...) bool: which boxes have both sides longer than nothing."""
    x1, y1, x2, y2 = _parts(boxes)
    return ops.logical_and(x2 > x1, y2 > y1)


def _overlap(a: tuple, b: tuple) -> tuple[Tensor, Tensor]:
    """Areas that boxes share and that they cover together, from four coordinates each, which are broadcast."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width = ops.maximum(ops.minimum(ax2, bx2) - ops.maximum(ax1, bx1), 0.0)
    height = ops.maximum(ops.minimum(ay2, by2) - ops.maximum(ay1, by1), 0.0)
    shared = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared, ops.maximum(union, SMALLEST_UNION)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M)."""
    # Tiled, because on CPU minimum and maximum with broadcasting take ten times as long as without.
    once = (1,) * (a.ndim - 2)
    rows = [ops.tile(part.expand_dims(-1), (*once, 1, b.shape[-2])) for part in _parts(a)]
    columns = [ops.tile(part.expand_dims(-2), (*once, a.shape[-2], 1)) for part in _parts(b)]
    shared, union = _overlap(rows, columns)
    return shared / union


def giou_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """(..., 4), (..., 4) -> (...): 1 - GIoU of pairs (Rezatofighi et al. 2019)."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b = _parts(found), _parts(wanted)
    shared, union = _overlap(a, b)
    hull_width = ops.maximum(ops.maximum(ax2, bx2) - ops.minimum(ax1, bx1), 0.0)
    hull_height = ops.maximum(ops.maximum(ay2, by2) - ops.minimum(ay1, by1), 0.0)
    hull = ops.maximum(hull_width * hull_height, SMALLEST_UNION)
    return 1 - (shared / union - (hull - union) / hull)


def cluster_nms(boxes: Tensor, threshold: float, rounds: int = 20, there: Tensor | None = None) -> Tensor:
    """Which of boxes, the best first, greedy suppression keeps: (..., N, 4) -> (..., N) bool, by plain operators.

    Each round takes the boxes that the last one kept, and drops what overlaps a better one of them by more than
    ``threshold`` (Zheng et al. 2022). After as many rounds as the longest chain of boxes that suppress each other has
    links, which is below ten in practice, that is what greedy suppression keeps, and further rounds change nothing.

    Args:
        there: (..., N) float32, 0 of boxes that are none; they suppress nothing, and are not kept.
    """
    *batch, count, _ = boxes.shape
    boxes = boxes.reshape(-1, count, 4)
    rows, columns = numbers(count).reshape(-1, 1), numbers(count).reshape(1, -1)
    better = ops.logical_and(iou(boxes, boxes) > threshold, rows < columns).astype(ms.float32)
    there = ops.ones((boxes.shape[0], 1, count), ms.float32) if there is None else there.reshape(-1, 1, count)
    kept = there
    for _ in range(rounds):  # (B, N, N): row suppresses column
        kept = (ops.BatchMatMul()(kept, better) < 0.5).astype(ms.float32) * there
    return kept.reshape(*batch, count) > 0.5


def free_of(boxes: Tensor, others: Tensor, there: Tensor, threshold: float) -> Tensor:
    """(B, N) float32: 1 of boxes (B, N, 4) that overlap no other (B, M, 4) by more than ``threshold``, else 0.

    Args:
        there: (B, M) float32, 0 of others that are none.
    """
    over = (iou(others, boxes) > threshold).astype(ms.float32)  # (B, M, N)
    hits = ops.BatchMatMul()(there.expand_dims(1), over)  # (B, 1, N)
    return (hits < 0.5).astype(ms.float32).reshape(-1, boxes.shape[1])


def apart(boxes: Tensor, groups: Tensor, largest: Tensor) -> Tensor:
    """(..., N, 4), (..., N) -> (..., N, 4): boxes of different groups (classes, levels) moved so that they do not
    overlap, by more than ``largest``, the largest coordinate of their image.
    """
    offset = groups.astype(ms.float32) * (largest + 1)
    return boxes + offset.expand_dims(-1)
