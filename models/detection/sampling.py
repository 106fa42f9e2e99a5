"""Which RoIs a second stage is trained with, and what their masks should be: in the graph, with fixed shapes."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from acmix_ms.ops import boxes as geometry

from .roi_align import shares

BITS = 8


def assign(
    boxes: Tensor, there: Tensor, objects: Tensor, present: Tensor, positive: float, low_quality: bool = False
) -> Tensor:
    """The object of each box: (B, M) int32, its number plus 1, 0 for background, -1 where no box is.

    As `matching.Assigner` with ``positive`` for all of its limits.

    Args:
        boxes: (B, M, 4), and which of them ``there`` are (B, M) bool.
        objects: (B, G, 4), and which of them are ``present`` (B, G) bool.
        positive: from this IoU on a box stands for the object that it overlaps most.
        low_quality: whether then an object gets the boxes that overlap it most, if that much.
    """
    overlaps = geometry.iou(objects, boxes)  # (B, G, M)
    known = ops.logical_and(present.expand_dims(2), there.expand_dims(1))
    overlaps = ops.select(known, overlaps, ops.full_like(overlaps, -1.0))
    last = geometry.numbers(objects.shape[1]).reshape(1, -1, 1) + 1  # (1, G, 1)
    highest = objects.shape[1] + 1
    largest = ops.amax(overlaps, 1, keepdims=True)
    of_all = highest - ops.amax((overlaps == largest).astype(ms.float32) * (highest - last), 1)  # the first of equals
    found = ops.where(largest.squeeze(1) >= positive, of_all, 0.0)
    if low_quality:
        best = ops.amax(overlaps, 2, keepdims=True)
        taken = ops.logical_and(overlaps == best, best >= positive).astype(ms.float32)
        of_best = ops.amax(taken * last, 1)  # the last of equals
        found = ops.where(of_best > 0, of_best, found)
    return ops.where(there, found, -1.0).astype(ms.int32)


def sample(
    boxes: Tensor, found: Tensor, objects: Tensor, present: Tensor, order: Tensor, slots: int, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RoIs chosen at random among proposals and objects: in S slots, positives first.

    Returns:
        Their boxes (B, S, 4) float32; their objects (B, S) int32, numbers plus 1, 0 for background; which slots count
        (B, S) bool, those too many repeat others; and which are objects that were added to the boxes (B, S) bool.

    Args:
        boxes, found: (B, M, 4) and what `assign` gives for them (B, M).
        objects, present: (B, G, 4) and (B, G) bool; they are added to the boxes as their own.
        order: (B, G + M) int32, a permutation for each image, objects first: who comes last is chosen first.
        slots, most: so many RoIs and at most so many positive ones of an image.
    """
    count = order.shape[1]
    numbers = geometry.numbers(objects.shape[1]).astype(ms.int32).reshape(1, -1) + 1
    own = ops.where(present, numbers, ops.full_like(numbers, -1))
    boxes, found = ops.concat((objects, boxes), 1), ops.concat((own, found), 1)
    order = order.astype(ms.float32)
    nothing = ops.full_like(order, -1.0)
    chosen, _ = ops.topk(ops.select(found > 0, order, nothing), min(most, count))
    positive = ops.logical_and(found > 0, order >= chosen[:, -1:])  # orders differ: exactly those
    # Positives, background, positives too many, what is no box; each in its order.
    key = ops.select(found == 0, order, order - 2.0 * count)
    key = ops.select(positive, order + 2.0 * count, key)
    key = ops.select(found < 0, order - 4.0 * count, key)
    value, best = ops.topk(key, min(slots, count))
    filled = (value >= 0).astype(ms.float32).sum(1, keepdims=True).astype(ms.int32)  # sums of integers have 64 bits
    slot = geometry.numbers(slots).astype(ms.int32).reshape(1, -1)
    # What is not filled repeats what is, so that BatchNorm sees nothing else.
    turn = slot - ops.maximum(filled, 1) * ops.floor_divide(slot, ops.maximum(filled, 1))
    best = ops.gather_elements(best.astype(ms.int32), 1, turn)
    return (
        ops.stop_gradient(ops.gather(boxes, best, 1, 1)),
        ops.maximum(ops.gather_elements(found, 1, best), 0),
        slot < filled,
        best < objects.shape[1],
    )


def mask_targets(bits: Tensor, width: int, boxes: Tensor, objects: Tensor, size: int = 28) -> Tensor:
    """What the masks of boxes should be: (B, P, size, size) float32, 0 and 1, as mmdetection makes them of bitmaps.

    RoIAlign of each object's mask in its box, with as many points as that is large; where at least a half of a bin is
    covered, it is 1.

    Args:
        bits: (B, G, H, W/8) uint8, masks of objects as `numpy.packbits` packs their rows.
        width: of the masks.
        boxes, objects: (B, P, 4) and (B, P) int32, numbers of objects plus 1.
    """
    batch, count = objects.shape
    height, packed = bits.shape[2:]
    masks = ops.gather(bits, ops.maximum(objects - 1, 0), 1, 1).reshape(batch * count, height, packed)
    masks = masks.astype(ms.float32)
    boxes = boxes.reshape(-1, 4)
    start, sides = boxes[:, :2] - 0.5, boxes[:, 2:] - boxes[:, :2]
    columns = shares(start[:, 0], sides[:, 0], size, width, packed * BITS)
    columns = columns.reshape(batch * count, size, packed, BITS)
    rows = shares(start[:, 1], sides[:, 1], size, height, height)  # (B*P, size, H)
    total = 0
    for bit in range(BITS):  # the first column of eight is the highest bit
        place = 2.0 ** (BITS - 1 - bit)
        plane = ops.floor(masks / place) - 2 * ops.floor(masks / (2 * place))
        part = ops.BatchMatMul()(rows, plane)  # (B*P, size, W/8)
        total = total + ops.BatchMatMul(transpose_b=True)(part, columns[:, :, :, bit])
    return ops.stop_gradient((total >= 0.5).astype(ms.float32)).reshape(batch, count, size, size)
