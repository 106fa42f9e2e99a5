"""The region proposal network (Ren et al. 2015): where objects may be, of whatever class, as mmdetection has it."""

from __future__ import annotations

from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from acmix_ms.ops import boxes as geometry
from acmix_ms.ops.selection import take_rows
from acmix_ms.postprocess import encode

from . import losses
from .anchors import AnchorGenerator, padded
from .matching import Assigner

ANCHORS = AnchorGenerator((4, 8, 16, 32, 64), (8.0,), (0.5, 1.0, 2.0))
ASSIGNER = Assigner(positive=0.7, negative=0.3, least=0.3)
OBJECT, NOTHING, UNUSED = 1, 0, -1


class RPNHead(nn.Cell):
    """Maps (B, C, h, w) of all levels -> ``(scores, deltas)`` by level: logits (B, A, h, w) and (B, A*4, h, w).

    Args:
        in_channels, channels: of the maps and of the convolution.
        per_place: anchors at each place.
    """

    def __init__(self, in_channels: int = 256, channels: int = 256, per_place: int = ANCHORS.per_place):
        super().__init__()

        def conv(given, made, kernel_size):
            return nn.Conv2d(
                given, made, kernel_size, pad_mode="pad", padding=kernel_size // 2, has_bias=True,
                weight_init=Normal(0.01), bias_init="zeros",
            )  # fmt: skip

        self.rpn_conv = conv(in_channels, channels, 3)
        self.rpn_cls = conv(channels, per_place, 1)
        self.rpn_reg = conv(channels, per_place * 4, 1)
        self.relu = nn.ReLU()

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        scores, deltas = (), ()
        for x in maps:
            x = self.relu(self.rpn_conv(x))
            scores += (self.rpn_cls(x),)
            deltas += (self.rpn_reg(x),)
        return scores, deltas


class Sampled(NamedTuple):
    """The anchors of one image that count, K of those of all levels.

    Attributes:
        anchors: (K,) int32, their numbers.
        labels: (K,) int32, `OBJECT`, `NOTHING`, or `UNUSED` for the rest of the places.
        deltas: (K, 4) float32, of anchors with an object.
    """

    anchors: np.ndarray
    labels: np.ndarray
    deltas: np.ndarray


def targets_of(anchors: np.ndarray, positive: np.ndarray, negative: np.ndarray, objects: np.ndarray, count: int):
    """`Sampled` of anchors with the numbers ``positive``, each with its object (x1, y1, x2, y2), and ``negative``."""
    chosen = np.concatenate([positive, negative])
    numbers, labels = np.zeros(count, np.int32), np.full(count, UNUSED, np.int32)
    numbers[: len(chosen)] = chosen
    labels[: len(positive)] = OBJECT
    labels[len(positive) : len(chosen)] = NOTHING
    deltas = np.zeros((count, 4), np.float32)
    deltas[: len(positive)] = encode(anchors[positive], objects.astype(np.float32))
    return Sampled(numbers, labels, deltas)


def allowed(canvas: tuple[int, int], size: tuple[int, int], border: int = -1) -> np.ndarray:
    """(N,) bool: the anchors that may be used for an image of ``size`` (height, width) on a canvas.

    Args:
        border: so far anchors may reach out of the image; negative for no limit.
    """
    sizes = ANCHORS.sizes(*canvas)
    found = ANCHORS.inside(sizes, *padded(size))
    if border >= 0:
        anchors, (height, width) = ANCHORS.all(sizes), size
        found &= (anchors[:, :2] >= -border).all(1)
        found &= (anchors[:, 2] < width + border) & (anchors[:, 3] < height + border)
    return found


def sampled_targets(
    boxes: np.ndarray,
    canvas: tuple[int, int],
    size: tuple[int, int],
    random: np.random.Generator,
    *,
    count: int = 256,
    share: float = 0.5,
    border: int = -1,
) -> Sampled:
    """Anchors chosen at random for an image with objects (G, 4): at most ``share`` of ``count`` with an object."""
    anchors = ANCHORS.all(ANCHORS.sizes(*canvas))
    usable = np.flatnonzero(allowed(canvas, size, border))
    objects = ASSIGNER(anchors[usable], boxes.astype(np.float32)).objects
    positive = _some(np.flatnonzero(objects > 0), int(count * share), random)
    negative = _some(np.flatnonzero(objects == 0), count - len(positive), random)
    return targets_of(anchors, usable[positive], usable[negative], boxes[objects[positive] - 1], count)


def _some(numbers: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    return random.permutation(numbers)[:count]


def _rows(maps: tuple[Tensor, ...], values: int) -> tuple[Tensor, ...]:
    """Of each level (B, A*values, h, w) -> (B, h*w*A, values) float32."""
    rows = ()
    for x in maps:
        rows += (ops.transpose(x, (0, 2, 3, 1)).reshape(x.shape[0], -1, values).astype(ms.float32),)
    return rows


def sampled_losses(
    scores: tuple[Tensor, ...],
    deltas: tuple[Tensor, ...],
    anchors: Tensor,
    labels: Tensor,
    wanted: Tensor,
    beta: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Losses of scores and of boxes.

    Args:
        scores, deltas: what `RPNHead` gives.
        anchors, labels, wanted: `Sampled` of each image, (B, K), (B, K) and (B, K, 4).
        beta: of the smooth L1 loss; 0 for the L1 loss.
    """
    scores = ops.gather(ops.concat(_rows(scores, 1), 1), anchors, 1, 1).reshape(labels.shape)
    deltas = ops.gather(ops.concat(_rows(deltas, 4), 1), anchors, 1, 1)
    positive, negative = (labels == OBJECT).astype(ms.float32), (labels == NOTHING).astype(ms.float32)
    count = (ops.maximum(positive.sum(1), 1.0) + ops.maximum(negative.sum(1), 1.0)).sum() + losses.SMALL
    of_scores = (losses.binary_cross_entropy(scores, positive) * (positive + negative)).sum() / count
    apart = losses.smooth_l1(deltas, wanted, beta) if beta else losses.l1(deltas, wanted)
    return of_scores, (apart * positive.expand_dims(-1)).sum() / count


@ops.constexpr
def _anchors(level: int, height: int, width: int) -> Tensor:
    sizes = ((0, 0),) * level + ((height, width),)
    return Tensor(ANCHORS.levels(sizes)[level])


def proposals(
    scores: tuple[Tensor, ...],
    deltas: tuple[Tensor, ...],
    sizes: Tensor,
    per_level: int = 2000,
    count: int = 1000,
    threshold: float = 0.7,
) -> tuple[Tensor, Tensor]:
    """What `acmix_ms.postprocess.proposals` finds, in a graph: boxes (B, count, 4) and which are some (B, count) bool.

    Args:
        scores, deltas: what `RPNHead` gives; no gradient comes back.
        sizes: (height, width) of the images, (B, 2) float32.
        per_level, count, threshold: so many anchors of each level go on, so many boxes are found, IoU of suppression.
    """
    batch, levels = scores[0].shape[0], len(scores)
    boxes, values = (), ()
    for level in range(levels):
        height, width = scores[level].shape[2:]
        score = _rows((ops.stop_gradient(scores[level]),), 1)[0].squeeze(-1)
        delta = _rows((ops.stop_gradient(deltas[level]),), 4)[0]
        value, best = ops.topk(ops.sigmoid(score), min(per_level, score.shape[1]))
        priors = ops.gather(_anchors(level, height, width), best, 0)
        found = geometry.decode(priors, take_rows(delta, best))
        found, value = _filled_up(found, value, per_level)
        boxes += (found,)
        values += (value,)
    # All levels at once, as a batch: a fifth of the kernels.
    boxes, values = geometry.clip(_stacked(boxes), sizes), _stacked(values)  # (B, L, K, 4), (B, L, K)
    kept = ops.logical_and(geometry.cluster_nms(boxes, threshold), geometry.has_area(boxes))
    values = ops.select(kept, values, ops.full_like(values, -1.0)).reshape(batch, -1)
    boxes, values = _filled_up(boxes.reshape(batch, -1, 4), values, count)
    value, best = ops.topk(values, count)
    return ops.stop_gradient(take_rows(boxes, best)), value >= 0


def _stacked(parts: tuple[Tensor, ...]) -> Tensor:
    """(B, ...) of each level -> (B, L, ...), not by `ops.stack`, which becomes a sequence in ONNX."""
    rows = ()
    for part in parts:
        rows += (part.expand_dims(1),)
    return ops.concat(rows, 1)


def _filled_up(boxes: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, K, 4) and (B, K) with at least ``count`` places, those added without a box."""
    missing = count - values.shape[1]
    if missing <= 0:
        return boxes, values
    nothing = ops.zeros((boxes.shape[0], missing, 4), ms.float32)
    no_value = ops.full((boxes.shape[0], missing), -1.0, dtype=ms.float32)
    return ops.concat((boxes, nothing), 1), ops.concat((values, no_value), 1)
