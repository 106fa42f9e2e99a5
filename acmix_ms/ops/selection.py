"""The best of many, by plain operators of fixed shapes: what a file needs that gives detections and no maps.

Places that stay empty are there all the same, and say so. Everything takes a batch of images, and exports as MINDIR and
ONNX.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from acmix_ms.ops import kernels
from acmix_ms.ops.boxes import apart, cluster_nms, free_of, has_area

BLOCK = 500  # boxes that are compared with each other at once: comparing all costs the square of their number


def take(values: Tensor, index: Tensor) -> Tensor:
    """(B, N), (B, n) int32 -> (B, n)."""
    return ops.gather_elements(values, 1, index)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, d), (B, n) int32 -> (B, n, d)."""
    if kernels.for_onnx():  # MindSpore's exporter loses the batch of a gather
        return ops.gather_elements(x, 1, ops.tile(index.expand_dims(-1), (1, 1, x.shape[2])))
    return ops.gather(x, index, 1, 1)


def best_pairs(logits: Tensor, per_place: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of anchor and class with the largest sigmoid in a map (B, A*C, h, w), channel a*C + c: exactly these.

    In two stages, since sorting millions takes longer than what made them: each of the best pairs belongs to one of as
    many anchors whose best class is best.

    Returns:
        Of pairs, the best first, scores (B, n) float32, and anchors and classes (B, n) int32.
    """
    channels, places = logits.shape[1], logits.shape[2] * logits.shape[3]
    classes, total = channels // per_place, per_place * places
    logits = logits.astype(ms.float32)
    # Not `max`, which on an Ascend tells places as well, in 64 bits.
    best = ops.ReduceMax()(logits.reshape(-1, per_place, classes, places), 2)  # (B, A, h*w)
    best = ops.transpose(best, (0, 2, 1)).reshape(-1, total)  # (B, N), as anchors are numbered
    candidates = min(count, total)
    anchors = ops.topk(ops.sigmoid(best), candidates)[1]  # (B, k)
    place = anchors // per_place
    first = (anchors - place * per_place) * (classes * places) + place  # in the map, of class 0
    index = first.expand_dims(-1) + ops.arange(classes).astype(ms.int32) * places  # (B, k, C)
    found = take(logits.reshape(-1, channels * places), index.reshape(-1, candidates * classes))
    scores, which = ops.topk(ops.sigmoid(found), min(count, candidates * classes))  # (B, n)
    row = which // classes
    return scores, take(anchors, row), which - row * classes


def first_kept(boxes: Tensor, there: Tensor, threshold: float, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` boxes that greedy suppression keeps of a list, the best first.

    The list is gone through in blocks, and those behind see only the first ``count`` that were kept, which is enough.

    Args:
        boxes: (B, N, 4) float32.
        there: (B, N) float32, 0 of boxes that are none, else 1.
        threshold: IoU above which a box goes.

    Returns:
        (B, n) int32, where they are in the list, and (B, n) float32, 1 where there is one, else 0.
    """
    # None are kept at first: a list without conditions is compiled sooner.
    chosen, kept = ops.zeros((boxes.shape[0], 1, 4), ms.float32), ops.zeros((boxes.shape[0], 1), ms.float32)
    where = kept.astype(ms.int32)
    start = 0
    for part, here in zip(ops.split(boxes, BLOCK, 1), ops.split(there, BLOCK, 1)):
        here = here * free_of(part, chosen, kept, threshold)
        here = cluster_nms(part, threshold, there=here).astype(ms.float32)
        place = ops.zeros_like(here).astype(ms.int32) + ops.arange(start, start + part.shape[1]).astype(ms.int32)
        part, here, place = ops.cat((chosen, part), 1), ops.cat((kept, here), 1), ops.cat((where, place), 1)
        start += BLOCK
        size = part.shape[1]
        order, index = ops.topk(here * ops.arange(size, 0, -1).astype(ms.float32), min(count, size))
        kept = (order > 0.5).astype(ms.float32)
        chosen, where = take_rows(part, index), take(place, index)
    return where, kept


def detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, iou: float, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is left of candidates that have a score above ``threshold`` and an area, after suppression class by class.

    Args:
        boxes: (B, N, 4) float32.
        scores: (B, N) float32, above 0.
        labels: (B, N) int32.
        iou: above which a box goes for a better one of its class.
        count: so many at most.

    Returns:
        The best first: boxes (B, n, 4) float32, scores (B, n) float32, labels (B, n) int32, and where each was of those
        given, (B, n) int32; empty places have box and score 0 and label -1. No named tuple, which Python would make
        while the graph runs: a graph with such a part may never be compiled.
    """
    there = ops.logical_and(scores > threshold, has_area(boxes)).astype(ms.float32)
    scores, order = ops.topk(scores * there, scores.shape[1])
    there = (scores > 0).astype(ms.float32)
    boxes = take_rows(boxes, order) * there.expand_dims(-1)
    labels = take(labels, order)
    largest = ops.ReduceMax(True)(boxes.reshape(-1, boxes.shape[1] * 4), 1)  # (B, 1)
    where, kept = first_kept(apart(boxes, labels, largest), there, iou, count)
    labels = take(labels, where)
    number = kept.astype(ms.int32)
    return (
        take_rows(boxes, where) * kept.expand_dims(-1),
        take(scores, where) * kept,
        labels * number + (number - 1),
        take(order, where),
    )
