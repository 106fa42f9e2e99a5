"""RetinaNet (Lin et al. 2017) with mmdetection's settings and names of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Constant, Normal, initializer

from acmix_ms.backbone import Backbone
from acmix_ms.objects import Objects
from acmix_ms.postprocess import Detections, dense_detections, encode

from ..necks.fpn import FPN, ConvModule
from . import losses
from .anchors import AnchorGenerator, padded
from .base import Detector
from .matching import Assigner

ANCHORS = AnchorGenerator((8, 16, 32, 64, 128), tuple(4 * 2 ** (i / 3) for i in range(3)), (0.5, 1.0, 2.0))
PRIOR = 0.01  # probability of each class that an untrained net gives


class RetinaHead(nn.Cell):
    """Maps (B, C, h, w) of all levels, through the same convolutions -> class scores (logits) and box deltas.

    Args:
        num_classes: of objects; there is no background.
        in_channels, channels: of the maps and of the convolutions.
        stacked: convolutions before each output.
        anchors: their generator.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        channels: int = 256,
        stacked: int = 4,
        anchors: AnchorGenerator = ANCHORS,
    ):
        super().__init__()
        self.num_classes, self.anchors = num_classes, anchors

        def tower():
            widths = [in_channels] + [channels] * stacked
            return nn.CellList([ConvModule(a, b, 3, weight_init=Normal(0.01)) for a, b in zip(widths, widths[1:])])

        def output(per_anchor):
            made = anchors.per_place * per_anchor
            return nn.Conv2d(
                channels, made, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=Normal(0.01), bias_init="zeros"
            )

        self.cls_convs, self.reg_convs = tower(), tower()
        self.retina_cls, self.retina_reg = output(num_classes), output(4)
        bias = self.retina_cls.bias
        bias.set_data(initializer(Constant(-math.log((1 - PRIOR) / PRIOR)), bias.shape, bias.dtype))
        self.relu = nn.ReLU()

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """``(cls_scores, bbox_preds)`` by level: (B, A*num_classes, h, w), channel a*num_classes + c, and (B, A*4, h,
        w), channel a*4 + j.
        """
        scores, deltas = (), ()
        for x in maps:
            scores += (self.retina_cls(self.tower(x, self.cls_convs)),)
            deltas += (self.retina_reg(self.tower(x, self.reg_convs)),)
        return scores, deltas

    def tower(self, x: Tensor, convs: nn.CellList) -> Tensor:
        for conv in convs:
            x = self.relu(conv(x))
        return x


ASSIGNER = Assigner(positive=0.5, negative=0.4)


class Targets(NamedTuple):
    """What a head should give for one image, for N anchors of all levels.

    Attributes:
        labels: (N,) int32: a class, `num_classes` for background, -1 for what does not count.
        deltas: (N, 4) float32, of anchors with a class.
    """

    labels: np.ndarray
    deltas: np.ndarray


def targets_of(
    boxes: np.ndarray, labels: np.ndarray, canvas: tuple[int, int], size: tuple[int, int], num_classes: int
) -> Targets:
    """The `Targets` of an image with objects (G, 4) and (G,), of a padded ``size`` (height, width) on a canvas."""
    sizes = ANCHORS.sizes(*canvas)
    anchors, inside = ANCHORS.all(sizes), ANCHORS.inside(sizes, *size)
    found = np.full(len(anchors), -1, np.int32)
    objects = ASSIGNER(anchors[inside], boxes.astype(np.float32)).objects
    found[inside] = objects
    positive = np.flatnonzero(found > 0)
    number = found[positive] - 1
    wanted = np.where(found == 0, num_classes, -1).astype(np.int32)
    wanted[positive] = labels[number]
    deltas = np.zeros((len(anchors), 4), np.float32)
    deltas[positive] = encode(anchors[positive], boxes[number].astype(np.float32))
    return Targets(wanted, deltas)


def losses_by_level(
    scores: tuple[Tensor, ...], deltas: tuple[Tensor, ...], labels: Tensor, wanted: Tensor, num_classes: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Focal loss of the classes and L1 loss of the boxes, one of each for every level; their sum is minimised.

    Args:
        scores, deltas: what `RetinaHead` gives.
        labels: (B, N) int32, see `Targets`; wanted: (B, N, 4).
    """
    batch = labels.shape[0]
    positive = ops.logical_and(labels >= 0, labels < num_classes)
    count = ops.maximum(positive.astype(ms.float32).sum(1), 1.0).sum() + losses.SMALL
    first, of_classes, of_boxes = 0, (), ()
    for score, delta in zip(scores, deltas):
        score = ops.transpose(score, (0, 2, 3, 1)).reshape(batch, -1, num_classes)
        delta = ops.transpose(delta, (0, 2, 3, 1)).reshape(batch, -1, 4)
        last = first + delta.shape[1]
        level = labels[:, first:last]
        counts = (level >= 0).astype(ms.float32).expand_dims(-1)
        of_classes += ((losses.sigmoid_focal(score, level) * counts).sum() / count,)
        taken = positive[:, first:last].astype(ms.float32).expand_dims(-1)
        of_boxes += ((losses.l1(delta, wanted[:, first:last]) * taken).sum() / count,)
        first = last
    return of_classes, of_boxes


class RetinaNet(Detector):
    """Images (B, 3, H, W) -> ``(cls_scores, bbox_preds)``, see `RetinaHead`; with targets the losses.

    Args:
        backbone: with ``features_only``; its maps of strides 8, 16 and 32 are used.
        num_classes: of objects.
        channels: of the pyramid and the head.
        stacked: convolutions before each output of the head.
    """

    terms = ("loss_cls", "loss_bbox")
    in_half = ("backbone", "neck", "bbox_head")
    head_names = ("bbox_head.retina_cls",)

    def __init__(self, backbone: Backbone, num_classes: int = 80, *, channels: int = 256, stacked: int = 4):
        super().__init__(num_classes)
        first = backbone.feature_strides.index(ANCHORS.strides[0])
        self.backbone = backbone
        self.neck = FPN(backbone.feature_channels, channels, num_outs=5, start_level=first, extra="conv")
        self.bbox_head = RetinaHead(num_classes, channels, channels, stacked)

    def construct(self, x: Tensor, *targets: Tensor):
        maps = self.bbox_head(self.neck(self.backbone(x)))
        if not targets:
            return maps
        of_classes, of_boxes = losses_by_level(*maps, *targets, self.num_classes)
        return sum(of_classes), sum(of_boxes)

    def prepare(
        self, objects: Objects, canvas: tuple[int, int], size: tuple[int, int], random: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        """See `Detector`: ``labels`` and ``deltas`` of `Targets`."""
        return tuple(targets_of(objects.boxes, objects.labels, canvas, padded(size), self.num_classes))

    def found(self, maps, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image in what `construct` gives, as arrays."""
        scores, deltas = maps
        anchors = self.anchors(scores)
        return [
            dense_detections([level[i] for level in scores], [level[i] for level in deltas], anchors, size)
            for i, size in enumerate(sizes)
        ]

    def detections(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """See `Detector`."""
        return self.found([[level.asnumpy() for level in levels] for levels in self(images)], sizes)

    def anchors(self, scores: Sequence[Tensor | np.ndarray]) -> list[np.ndarray]:
        """Of each level (h * w * A, 4), in the order of its ``cls_scores``."""
        return self.bbox_head.anchors.levels([tuple(score.shape[-2:]) for score in scores])
