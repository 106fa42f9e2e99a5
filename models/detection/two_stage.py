"""What Mask R-CNN and Cascade Mask R-CNN share: proposals, then boxes in one stage or several, and masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from acmix_ms import postprocess
from acmix_ms.backbone import Backbone
from acmix_ms.objects import Objects
from acmix_ms.ops import boxes as geometry
from acmix_ms.postprocess import Detections

from ..necks.fpn import FPN
from . import roi_losses, rpn, sampling
from .base import Detector
from .roi_align import RoIExtractor
from .roi_heads import RoIHead

BOX_SIZE, MASK_SIZE = 7, 14  # bins of a RoI along each side
DETECTED = 100  # so many of an image at most
OF_RPN = ("loss_rpn_cls", "loss_rpn_bbox")
OF_STAGE = ("loss_cls", "loss_bbox", "loss_mask")


class Stage(NamedTuple):
    """How boxes are trained in a stage.

    Attributes:
        positive: from this IoU on a RoI stands for an object.
        stds: of the deltas.
        weight: of the stage's losses.
    """

    positive: float
    stds: tuple[float, float, float, float]
    weight: float = 1.0


class TwoStage(Detector):
    """Images (B, 3, H, W) -> ``(rpn_scores, rpn_deltas)`` by level, see `rpn.RPNHead`; with targets the losses.

    Args:
        backbone: with ``features_only``; its four maps of strides 4 to 32 are used.
        num_classes: of objects.
        channels: of the pyramid, and of the RoIs.
        head: the second stage.
        stages: of boxes.
        low_quality: see `sampling.assign`.
        giou: the loss of boxes is that of GIoU; else L1 of deltas.
        rpn_border: so far anchors may reach out of the image to be trained; negative for no limit.
        rpn_beta: of the smooth L1 loss of the proposals' boxes; 0 for L1.
        num_proposals: boxes of an image that reach the second stage.
        num_candidates: anchors of each level that become proposals if nothing better is near, while training and else.
        num_anchors, num_sampled: so many anchors and RoIs of an image are trained with.
        max_objects: in a training image; more than that are left to the first stage.
        samples: points along each side of a RoI's bin; 0 for as many as it is large, as released configurations have
            it, which is slow, and for comparisons.
    """

    in_half = ("backbone", "neck", "rpn_head", "roi_head")
    with_masks = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        channels: int,
        head: RoIHead,
        stages: Sequence[Stage],
        *,
        low_quality: bool = False,
        giou: bool = False,
        rpn_border: int = -1,
        rpn_beta: float = 0.0,
        num_proposals: int,
        num_candidates: tuple[int, int],
        num_anchors: int,
        num_sampled: int,
        max_objects: int,
        samples: int,
    ):
        super().__init__(num_classes)
        strides = rpn.ANCHORS.strides
        if tuple(backbone.feature_strides) != strides[:4]:
            raise ValueError(f"backbone: has maps of strides {backbone.feature_strides}; must be {strides[:4]}")
        self.backbone = backbone
        self.neck = FPN(backbone.feature_channels, channels, num_outs=5)
        self.rpn_head = rpn.RPNHead(channels, channels)
        self.roi_head = head
        self.boxes_of = RoIExtractor(strides[:4], BOX_SIZE, samples)
        self.masks_of = RoIExtractor(strides[:4], MASK_SIZE, samples)
        self.num_stages = len(stages)
        self.positive = tuple(stage.positive for stage in stages)
        self.stds = tuple(stage.stds for stage in stages)
        self.weights = tuple(stage.weight for stage in stages)
        self.low_quality, self.giou, self.rpn_border, self.rpn_beta = low_quality, giou, rpn_border, rpn_beta
        self.num_proposals, self.num_candidates = num_proposals, num_candidates
        self.num_anchors, self.num_sampled, self.num_positive = num_anchors, num_sampled, num_sampled // 4
        self.max_objects = max_objects

    @abstractmethod
    def box_head(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The answer of one stage, see `roi_heads.BoxHead`."""

    @abstractmethod
    def mask_head(self, stage: int, x: Tensor) -> Tensor:
        """The answer of one stage, see `roi_heads.MaskHead`."""

    # ------------------------------------------------------------------------------------------------ parts of the net
    def construct(self, x: Tensor, *targets: Tensor):
        maps = self.maps(x)
        scores, deltas = self.rpn_head(maps)
        if not targets:
            return scores, deltas
        return self.losses(x.shape[3], maps, scores, deltas, targets)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The five maps of the pyramid, strides 4 to 64."""
        return self.neck(self.backbone(x))

    def maps_of(self, x: Tensor) -> tuple[Tensor, ...]:
        """`maps`, for what is no part of a graph: a Cell that is called from Python takes the Tensors of a tuple for
        constants and is compiled anew for each, unless it is told otherwise.
        """
        return ms.mutable(self.neck(ms.mutable(self.backbone(x))))

    def rpn_maps(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """``(rpn_scores, rpn_deltas)`` by level."""
        return self.rpn_head(self.maps_of(x))

    def boxes_by_stage(self, maps: tuple[Tensor, ...], rois: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """What each stage says of the same RoIs (N, 5)."""
        x, found = self.boxes_of(maps, rois), ()
        for i in range(self.num_stages):
            found += (self.box_head(i, x),)
        return found

    def masks_by_stage(self, maps: tuple[Tensor, ...], rois: Tensor) -> tuple[Tensor, ...]:
        """Logits (N, num_classes, 28, 28) of each stage for the same RoIs (N, 5)."""
        x, found = self.masks_of(maps, rois), ()
        for i in range(self.num_stages):
            found += (self.mask_head(i, x),)
        return found

    # -------------------------------------------------------------------------------------------------------- training
    def prepare(
        self, objects: Objects, canvas: tuple[int, int], size: tuple[int, int], random: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        """See `Detector`: the three of `rpn.Sampled`; boxes (G, 4), classes (G,), -1 where there is no object, and
        masks (G, H, W/8) uint8, their rows packed by `numpy.packbits`; ``size`` (2,); for each stage the order in which
        its RoIs are chosen, a permutation.
        """
        if objects.masks is None:
            raise ValueError("objects.masks=None: this detector is trained with masks")
        sampled = rpn.sampled_targets(
            objects.boxes, canvas, size, random, count=self.num_anchors, border=self.rpn_border
        )
        count = min(len(objects.boxes), self.max_objects)
        boxes = np.zeros((self.max_objects, 4), np.float32)
        classes = np.full(self.max_objects, -1, np.int32)
        masks = np.zeros((self.max_objects, canvas[0], -(-canvas[1] // sampling.BITS)), np.uint8)
        boxes[:count], classes[:count] = objects.boxes[:count], objects.labels[:count]
        masks[:count] = np.packbits(objects.masks[:count], 2)
        given = [self.num_proposals] + [self.num_sampled] * (self.num_stages - 1)
        orders = [random.permutation(self.max_objects + boxes).astype(np.int32) for boxes in given]
        return (*sampled, boxes, classes, masks, np.asarray(size, np.float32), *orders)

    def losses(self, width: int, maps, scores, deltas, targets) -> tuple[Tensor, ...]:
        """As ``terms`` names them; targets are those of `prepare`, of all images."""
        anchors, labels, wanted, objects, classes, bits, sizes = targets[:7]
        found = rpn.sampled_losses(scores, deltas, anchors, labels, wanted, self.rpn_beta)
        boxes, there = rpn.proposals(scores, deltas, sizes, self.num_candidates[0], self.num_proposals)
        present = classes >= 0
        for i in range(self.num_stages):
            assigned = sampling.assign(boxes, there, objects, present, self.positive[i], self.low_quality)
            boxes, numbers, counts, given = sampling.sample(
                boxes, assigned, objects, present, targets[7 + i], self.num_sampled, self.num_positive
            )
            of_object = ops.maximum(numbers - 1, 0)
            background = ops.full_like(numbers, self.num_classes)
            labels = ops.select(numbers > 0, ops.gather_elements(classes, 1, of_object), background)
            wanted = ops.gather(objects, of_object, 1, 1)
            most = self.num_positive
            masks = sampling.mask_targets(bits, width, boxes[:, :most], numbers[:, :most])
            terms, logits, deltas = self.stage_losses(i, maps, boxes, labels, wanted, counts, masks)
            found += terms
            if i + 1 < self.num_stages:
                boxes = roi_losses.refined(boxes, logits, deltas, labels.reshape(-1), sizes, self.stds[i])
                there = ops.logical_and(counts, ops.logical_not(given))
        return found

    def stage_losses(
        self, stage: int, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor, wanted: Tensor, counts: Tensor, masks
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Losses of classes, boxes and masks of one stage, with its weight; and its logits and deltas.

        Args:
            boxes, labels, wanted: RoIs (B, S, 4), positives first, their classes (B, S), ``num_classes`` for
                background, and the boxes of their objects (B, S, 4).
            counts: (B, S) bool, which of them count.
            masks: (B, P, 28, 28) float32, of the first P, among which are all positive ones.
        """
        most = masks.shape[1]
        logits, deltas = self.box_head(stage, self.boxes_of(maps, with_images(boxes)))
        shares = counts.astype(ms.float32)
        flat, flat_shares = labels.reshape(-1), shares.reshape(-1)
        of_classes = roi_losses.class_loss(logits, flat, flat_shares)
        of_boxes = roi_losses.box_loss(
            deltas, flat, flat_shares, boxes.reshape(-1, 4), wanted.reshape(-1, 4), self.stds[stage], self.giou
        )
        drawn = self.mask_head(stage, self.masks_of(maps, with_images(boxes[:, :most])))
        of_masks = roi_losses.mask_loss(
            drawn, labels[:, :most].reshape(-1), shares[:, :most].reshape(-1), masks.reshape(-1, *masks.shape[2:])
        )
        weight = self.weights[stage]
        return (of_classes * weight, of_boxes * weight, of_masks * weight), logits, deltas

    # ------------------------------------------------------------------------------------------------------- detecting
    def detections(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """See `Detector`."""
        maps = self.maps_of(images)
        found = self.boxes_found(maps, self.proposals(self.rpn_head(maps), sizes), sizes)
        return self.with_masks_found(maps, found)

    def boxes_found(
        self,
        maps: tuple[Tensor, ...],
        rois: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        threshold: float = 0.05,
    ) -> list[Detections]:
        """Detections without masks, of each image from RoIs (n, 4), n at most `num_proposals`.

        The classes come from the mean of all stages' logits, the boxes from the last stage; each begins where the one
        before has moved the likeliest class.
        """
        logits = []
        for i in range(self.num_stages):
            padded = _padded(rois, self.num_proposals)
            answers = self.box_head(i, self.boxes_of(maps, with_images(Tensor(padded))))
            of_stage, deltas = [a.asnumpy().reshape(*padded.shape[:2], -1).astype(np.float32) for a in answers]
            logits.append(of_stage)
            boxes, moved = [], []
            for j, (of_image, size) in enumerate(zip(rois, sizes)):
                count = len(of_image)
                boxes.append(postprocess.decode_classes(of_image, deltas[j, :count], size, self.stds[i]))
                moved.append(boxes[j][np.arange(count), of_stage[j, :count, :-1].argmax(1)])
            rois = moved
        mean = sum(logits) / np.float32(len(logits))
        found = []
        for j, of_image in enumerate(boxes):
            shares = postprocess.softmax(mean[j, : len(of_image)])
            found.append(postprocess.region_detections(of_image, shares, threshold=threshold, count=DETECTED))
        return found

    def proposals(self, maps, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Of each image boxes (n, 4), n at most `num_proposals`, by mmdetection's rules, in what `rpn_maps` gives."""
        scores, deltas = [[level.asnumpy() for level in levels] for levels in maps]
        anchors = rpn.ANCHORS.levels([level.shape[2:] for level in scores])
        found = []
        for i, size in enumerate(sizes):
            of_image = [[level[i] for level in levels] for levels in (scores, deltas)]
            boxes, _ = postprocess.proposals(
                *of_image, anchors, size, per_level=self.num_candidates[1], count=self.num_proposals
            )
            found.append(boxes)
        return found

    def with_masks_found(self, maps: tuple[Tensor, ...], found: Sequence[Detections]) -> list[Detections]:
        """The detections with masks, the mean of what all stages say."""
        padded = _padded([of_image.boxes for of_image in found], DETECTED)
        drawn = [logits.asnumpy() for logits in self.masks_by_stage(maps, with_images(Tensor(padded)))]
        results = []
        for j, of_image in enumerate(found):
            rows = j * DETECTED + np.arange(len(of_image.labels))
            shares = [postprocess.sigmoid(logits[rows, of_image.labels]) for logits in drawn]
            results.append(of_image._replace(masks=sum(shares) / np.float32(len(shares))))
        return results


def with_images(boxes: Tensor) -> Tensor:
    """(B, S, 4) -> RoIs (B*S, 5), each with the number of its image."""
    batch, count = boxes.shape[:2]
    images = geometry.numbers(batch).reshape(batch, 1, 1)
    images = ops.broadcast_to(images, (batch, count, 1))
    return ops.concat((images, boxes.astype(ms.float32)), 2).reshape(-1, 5)


def _padded(boxes: Sequence[np.ndarray], count: int) -> np.ndarray:
    """(B, count, 4): of images with fewer boxes, zeros behind them."""
    padded = np.zeros((len(boxes), count, 4), np.float32)
    for row, of_image in zip(padded, boxes):
        row[: len(of_image)] = of_image
    return padded
