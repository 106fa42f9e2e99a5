"""From what detectors give to detections, in NumPy: for evaluation, pictures and exported files without these parts.

Boxes are (x1, y1, x2, y2) in pixels. The order of decisions is mmdetection's, and every sort is stable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LARGEST_CHANGE = abs(np.log(16 / 1000))
SMALLEST_UNION = 1e-6
# Of a test: the smallest score that counts, the IoU above which a box goes, pairs of each level, detections.
THRESHOLD, IOU_THRESHOLD, PER_LEVEL, COUNT = 0.05, 0.5, 1000, 100
RUN_BY_CLASS = 10_000  # so many boxes are not compared all at once


class Detections(NamedTuple):
    """Of one image, the best first.

    Attributes:
        boxes: (n, 4) float32.
        scores: (n,) float32.
        labels: (n,) int64.
        masks: (n, 28, 28) float32, the probability that a part of the box is the object; None of nets without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


def detections_in(outputs: Mapping[str, np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
    """Those of each image in what an exported detector gives: ``boxes``, ``scores``, ``labels`` and perhaps ``masks``,
    with label -1 in places that are empty; boxes are clipped to the (height, width) of the image.
    """
    found = []
    for number, (height, width) in enumerate(sizes):
        there = outputs["labels"][number] >= 0
        boxes = np.clip(outputs["boxes"][number][there], 0, np.asarray([width, height] * 2, np.float32))
        labels = outputs["labels"][number][there].astype(np.int64)
        masks = outputs["masks"][number][there] if "masks" in outputs else None
        found.append(Detections(boxes, outputs["scores"][number][there], labels, masks))
    return found


def decode(
    priors: np.ndarray,
    deltas: np.ndarray,
    size: tuple[float, float] | None = None,
    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> np.ndarray:
    """(n, 4), (n, 4) -> (n, 4) float32, within an image of ``size`` (height, width) if that is given."""
    deltas = deltas.astype(np.float32) * np.asarray(stds, np.float32)
    sides = priors[:, 2:] - priors[:, :2]
    centres = (priors[:, :2] + priors[:, 2:]) * np.float32(0.5) + sides * deltas[:, :2]
    limit = np.float32(LARGEST_CHANGE)
    half = sides * np.exp(np.clip(deltas[:, 2:], -limit, limit)) * np.float32(0.5)
    boxes = np.concatenate([centres - half, centres + half], 1).astype(np.float32)
    if size is not None:
        boxes = np.clip(boxes, 0, np.asarray([size[1], size[0]] * 2, np.float32))
    return boxes


def encode(priors: np.ndarray, boxes: np.ndarray, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> np.ndarray:
    """(n, 4), (n, 4) -> (n, 4) float32: the inverse of `decode`."""
    sides, wanted = priors[:, 2:] - priors[:, :2], boxes[:, 2:] - boxes[:, :2]
    moved = (boxes[:, :2] + boxes[:, 2:] - priors[:, :2] - priors[:, 2:]) * np.float32(0.5) / sides
    return (np.concatenate([moved, np.log(wanted / sides)], 1) / np.asarray(stds, np.float32)).astype(np.float32)


def areas(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) -> (N, M): areas that are shared."""
    upper_left = np.maximum(a[:, None, :2], b[None, :, :2])
    lower_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.clip(lower_right - upper_left, 0, None)
    return sides[..., 0] * sides[..., 1]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) -> (N, M), in the dtype of the boxes."""
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None] - shared
    return shared / np.maximum(union, np.asarray(SMALLEST_UNION, shared.dtype))


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which boxes are kept, the best first: greedy, a box goes where its IoU with a kept one is above ``threshold``."""
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    gone, kept = np.zeros(len(boxes), bool), []
    for i in range(len(boxes)):
        if gone[i]:
            continue
        kept.append(i)
        gone[i + 1 :] |= iou(boxes[i : i + 1], boxes[i + 1 :])[0] > threshold
    return order[kept]


def batched_nms(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float) -> np.ndarray:
    """`nms` within groups (classes or levels), the best of all first.

    Boxes of different groups are moved apart, in float32, which is where mmdetection rounds as well.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    apart = boxes + (groups * (boxes.max() + 1)).astype(np.float32)[:, None]
    if len(boxes) < RUN_BY_CLASS:
        return nms(apart, scores, threshold)
    kept = [members[nms(apart[members], scores[members], threshold)] for members in _members(groups)]
    found = np.concatenate(kept)
    return found[np.argsort(-scores[found], kind="stable")]


def _members(groups: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """float32."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x.astype(np.float32)))).astype(np.float32)


def dense_detections(
    scores: Sequence[np.ndarray],
    deltas: Sequence[np.ndarray],
    anchors: Sequence[np.ndarray],
    size: tuple[float, float],
    *,
    threshold: float = THRESHOLD,
    per_level: int = PER_LEVEL,
    iou_threshold: float = IOU_THRESHOLD,
    count: int = COUNT,
) -> Detections:
    """What RetinaNet finds in one image.

    Args:
        scores, deltas: of each level (A*classes, h, w) logits and (A*4, h, w).
        anchors: of each level (h*w*A, 4).
        size: (height, width) of the image on its canvas.
        threshold: smallest score of a pair of anchor and class.
        per_level: so many pairs of each level go on.
        iou_threshold: of `nms`.
        count: so many detections at most.
    """
    boxes, values, labels = [], [], []
    for score, delta, priors in zip(scores, deltas, anchors):
        height, width = score.shape[1:]
        per_anchor = score.shape[0] * height * width // len(priors)
        shares = sigmoid(score.transpose(1, 2, 0).reshape(-1, per_anchor))
        places, classes = np.nonzero(shares > threshold)
        found = shares[places, classes]
        best = np.argsort(-found, kind="stable")[:per_level]
        places = places[best]
        boxes.append(decode(priors[places], delta.transpose(1, 2, 0).reshape(-1, 4)[places], size))
        values.append(found[best])
        labels.append(classes[best])
    return _selected(np.concatenate(boxes), np.concatenate(values), np.concatenate(labels), iou_threshold, count)


def proposals(
    scores: Sequence[np.ndarray],
    deltas: Sequence[np.ndarray],
    anchors: Sequence[np.ndarray],
    size: tuple[float, float],
    *,
    per_level: int = 1000,
    iou_threshold: float = 0.7,
    count: int = 1000,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) and scores (n,) that a region proposal network gives for one image, the best first.

    Args:
        scores, deltas: of each level (A, h, w) logits and (A*4, h, w).
        anchors: of each level (h*w*A, 4).
        size: (height, width) of the image on its canvas.
        per_level: so many anchors of each level go on.
        iou_threshold: of `nms`, within a level.
        count: so many at most.
    """
    boxes, values, levels = [], [], []
    for level, (score, delta, priors) in enumerate(zip(scores, deltas, anchors)):
        found = sigmoid(score.transpose(1, 2, 0).reshape(-1))
        best = np.argsort(-found, kind="stable")[:per_level] if len(found) > per_level else np.arange(len(found))
        boxes.append(decode(priors[best], delta.transpose(1, 2, 0).reshape(-1, 4)[best], size))
        values.append(found[best])
        levels.append(np.full(len(best), level))
    found = _selected(np.concatenate(boxes), np.concatenate(values), np.concatenate(levels), iou_threshold, count)
    return found.boxes, found.scores


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, float32."""
    x = x.astype(np.float32)
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def decode_classes(
    rois: np.ndarray,
    deltas: np.ndarray,
    size: tuple[float, float] | None = None,
    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> np.ndarray:
    """`decode` for each class: RoIs (n, 4) and deltas (n, classes*4) -> (n, classes, 4)."""
    classes = deltas.shape[1] // 4
    boxes = decode(np.repeat(rois, classes, 0), deltas.reshape(-1, 4), size, stds)
    return boxes.reshape(len(rois), classes, 4)


def region_detections(
    boxes: np.ndarray, shares: np.ndarray, *, threshold: float = 0.05, iou_threshold: float = 0.5, count: int = 100
) -> Detections:
    """What a net with a second stage finds in one image.

    Args:
        boxes: (n, classes, 4), a box of each class for each RoI.
        shares: (n, classes + 1), the probabilities of classes and, last, of background.
        threshold: smallest probability.
        iou_threshold: of `nms`, within a class.
        count: so many detections at most.
    """
    places, classes = np.nonzero(shares[:, :-1] > threshold)
    boxes, scores = boxes[places, classes], shares[places, classes]
    kept = batched_nms(boxes, scores, classes, iou_threshold)[:count]
    return Detections(boxes[kept], scores[kept], classes[kept])


def _selected(boxes, scores, labels, iou_threshold: float, count: int) -> Detections:
    """Without boxes that clipping has emptied, and after `batched_nms`."""
    there = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    boxes, scores, labels = boxes[there], scores[there], labels[there]
    kept = batched_nms(boxes, scores, labels, iou_threshold)[:count]
    return Detections(boxes[kept], scores[kept], labels[kept])


def paste_masks(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """Masks of boxes in their picture: (n, 28, 28) probabilities, (n, 4) boxes -> (n, height, width) bool."""
    found = np.zeros((len(masks), height, width), bool)
    for target, mask, box in zip(found, masks, boxes):
        target[:] = paste_mask(mask, box, height, width, threshold)
    return found


def paste_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """One of `paste_masks`: (28, 28), (4,) -> (height, width) bool, column after column in memory as COCO encodes it.

    mmdetection's rule: the mask is stretched over its box, with zeros around it, read bilinearly at the middles of the
    pixels, and what reaches ``threshold`` belongs to the object. A box without an area has no pixels.
    """
    found = np.zeros((width, height), bool)
    x1, y1, x2, y2 = map(float, box)
    if not (x2 > x1 and y2 > y1):
        return found.T
    rows, down = _stretch(y1, y2, mask.shape[0], height)
    columns, across = _stretch(x1, x2, mask.shape[1], width)
    found[columns, rows] = across @ mask.astype(np.float32).T @ down.T >= threshold
    return found.T


def _stretch(start: float, end: float, cells: int, pixels: int) -> tuple[slice, np.ndarray]:
    """Which pixels of a row of ``pixels`` a mask's row of ``cells`` reaches when it is stretched from start to end, and
    how much of each cell is in them, (reached, cells) float32.
    """
    fade = (end - start) / (2 * cells)  # so far beyond its box the last cell counts, ever less
    first = min(max(int(np.floor(start - fade)), 0), pixels)
    reached = slice(first, max(first, min(int(np.ceil(end + fade)), pixels)))
    middles = np.arange(reached.start, reached.stop) + 0.5
    places = (middles - start) / (end - start) * cells - 0.5
    weights = np.clip(1 - np.abs(places[:, None] - np.arange(cells)), 0, None)
    return reached, weights.astype(np.float32)
