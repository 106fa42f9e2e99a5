"""Detectors whose answer is detections, in plain operators of fixed shapes: what is exported."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from acmix_ms.ops import boxes as geometry
from acmix_ms.ops import selection
from acmix_ms.postprocess import COUNT, IOU_THRESHOLD, PER_LEVEL, THRESHOLD

from . import rpn
from .base import Detector
from .retinanet import RetinaNet
from .roi_heads import of_class
from .roi_losses import refined
from .two_stage import DETECTED, TwoStage, with_images

PAIRS = 2000  # of RoI and class of an image that go into suppression


def end_to_end(net: Detector, canvas: tuple[int, int]) -> nn.Cell:
    """The Cell that gives detections in images (B, 3, H, W) which fill a canvas (H, W).

    Both find what `Detector.detections` finds, with all of the canvas as the image, and give ``(boxes (B, n, 4)
    float32, scores (B, n) float32, labels (B, n) int32)``, the best first, empty places with box 0, score 0 and label
    -1; nets with masks give ``masks (B, n, 28, 28)`` float32 as well, probabilities. Boxes and scores are made in
    float32, whatever the net computes in.
    """
    return (EndToEndRegions if isinstance(net, TwoStage) else EndToEnd)(net, canvas)


class EndToEnd(nn.Cell):
    """A RetinaNet that gives detections, see `end_to_end`.

    Args:
        net: in the forms that the file shall have.
        canvas: (H, W).
        threshold: scores above it count.
        per_level: so many pairs of anchor and class of each level go on.
        iou_threshold: above which the worse of two boxes of a class goes.
        count: n.
    """

    def __init__(
        self,
        net: RetinaNet,
        canvas: tuple[int, int],
        *,
        threshold: float = THRESHOLD,
        per_level: int = PER_LEVEL,
        iou_threshold: float = IOU_THRESHOLD,
        count: int = COUNT,
    ):
        super().__init__(auto_prefix=False)
        self.net, self.canvas = net, canvas
        self.threshold, self.per_level, self.iou_threshold, self.count = threshold, per_level, iou_threshold, count
        generator = net.bbox_head.anchors
        self.per_place = generator.per_place
        self.anchors = tuple(Tensor(level) for level in generator.levels(generator.sizes(*canvas)))
        self.size = Tensor(np.asarray([canvas], np.float32))  # (1, 2)

    def construct(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, deltas = self.net(images)
        boxes, scores, labels = (), (), ()
        for i, anchors in enumerate(self.anchors):
            best = self.of_level(logits[i], deltas[i], anchors)
            boxes, scores, labels = (*boxes, best[0]), (*scores, best[1]), (*labels, best[2])
        boxes, scores, labels, _ = selection.detections(
            ops.cat(boxes, 1), ops.cat(scores, 1), ops.cat(labels, 1), self.threshold, self.iou_threshold, self.count
        )
        return boxes, scores, labels

    def of_level(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, A*C, h, w), (B, A*4, h, w), (N, 4) -> of the best pairs boxes (B, n, 4), scores (B, n), labels (B, n)."""
        scores, which, labels = selection.best_pairs(logits, self.per_place, self.per_level)
        deltas = ops.transpose(deltas.astype(ms.float32), (0, 2, 3, 1)).reshape(-1, anchors.shape[0], 4)
        boxes = geometry.decode(ops.gather(anchors, which, 0), selection.take_rows(deltas, which))
        return geometry.clip(boxes, self.size), scores, labels


class EndToEndRegions(nn.Cell):
    """A Mask R-CNN or Cascade Mask R-CNN that gives detections and their masks, see `end_to_end`.

    Args:
        net: in the forms that the file shall have.
        canvas: (H, W).
        threshold: scores above it count.
        pairs: so many pairs of RoI and class of an image, the best, go into suppression.
        iou_threshold: above which the worse of two boxes of a class goes.
        count: n.
    """

    def __init__(
        self,
        net: TwoStage,
        canvas: tuple[int, int],
        *,
        threshold: float = THRESHOLD,
        pairs: int = PAIRS,
        iou_threshold: float = IOU_THRESHOLD,
        count: int = DETECTED,
    ):
        super().__init__(auto_prefix=False)
        self.net = net
        self.threshold, self.pairs, self.iou_threshold, self.count = threshold, pairs, iou_threshold, count
        self.size = Tensor(np.asarray([canvas], np.float32))  # (1, 2)

    def construct(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        net = self.net
        maps = net.maps(images)
        scores, deltas = net.rpn_head(maps)
        rois, there = rpn.proposals(scores, deltas, self.size, net.num_candidates[1], net.num_proposals)
        boxes, scores, labels = self.of_regions(maps, rois, there)
        boxes, scores, labels, _ = selection.detections(
            boxes, scores, labels, self.threshold, self.iou_threshold, self.count
        )
        return boxes, scores, labels, self.masks(maps, boxes, labels)

    def of_regions(self, maps, rois: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 4), (B, N) bool -> boxes (B, n, 4), scores and labels (B, n) of the best pairs of RoI and class."""
        net, classes, total = self.net, self.net.num_classes, 0
        batch, count = rois.shape[:2]
        last = net.num_stages - 1
        logits, deltas = net.box_head(0, net.boxes_of(maps, with_images(rois)))
        for i in range(last):
            total = total + logits.astype(ms.float32)
            any_class = ops.full((batch * count,), classes, dtype=ms.int32)
            rois = refined(rois, logits, deltas, any_class, self.size, net.stds[i])
            logits, deltas = net.box_head(i + 1, net.boxes_of(maps, with_images(rois)))
        mean = (total + logits.astype(ms.float32)) * (1 / net.num_stages)
        shares = ops.softmax(mean, -1)[:, :classes].reshape(batch, count, classes)
        shares = (shares * there.astype(ms.float32).expand_dims(-1)).reshape(batch, count * classes)
        scores, which = ops.topk(shares, min(self.pairs, count * classes))
        row = which // classes
        deltas = selection.take_rows(deltas.astype(ms.float32).reshape(batch, count * classes, 4), which)
        boxes = geometry.decode(selection.take_rows(rois, row), deltas, net.stds[last])
        return geometry.clip(boxes, self.size), scores, which - row * classes

    def masks(self, maps, boxes: Tensor, labels: Tensor) -> Tensor:
        """(B, n, 4), (B, n) -> (B, n, 28, 28): the mean of what all stages say; zeros in empty places."""
        net, total = self.net, 0
        flat = labels.reshape(-1)
        x = net.masks_of(maps, with_images(boxes))
        for i in range(net.num_stages):
            drawn = of_class(net.mask_head(i, x).astype(ms.float32), ops.maximum(flat, 0))
            total = total + ops.sigmoid(drawn)
        there = (flat >= 0).astype(ms.float32).reshape(-1, 1, 1) * (1 / net.num_stages)
        total = total * there
        return total.reshape(*labels.shape, *total.shape[1:])
