"""Detectors whose answer is detections, in plain operators of fixed shapes: what is exported."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from acmix_ms.ops import boxes as geometry
from acmix_ms.ops import selection
from acmix_ms.postprocess import COUNT, IOU_THRESHOLD, PER_LEVEL, THRESHOLD

from .retinanet import RetinaNet


class EndToEnd(nn.Cell):
    """Images (B, 3, H, W) that fill a canvas of one size -> ``(boxes (B, n, 4) float32, scores (B, n) float32, labels
    (B, n) int32)``, the best first; empty places have box 0, score 0 and label -1.

    What `RetinaNet.detections` finds, with all of the canvas as the image. Boxes and scores are made in float32,
    whatever the net computes in.

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
