"""Losses of a second stage, and what follows from its answers for the next one, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, ops

from acmix_ms.ops import boxes as geometry

from . import losses
from .roi_heads import of_class

GIOU_WEIGHT = 10.0


def class_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of logits (N, C), mean over the RoIs with ``counts`` (N,) float32."""
    logits = logits.astype(ms.float32)
    each = -of_class(ops.log_softmax(logits, -1), labels)
    return (each * counts).sum() / (ops.maximum(counts.sum(), 1.0) + losses.SMALL)


def box_loss(
    deltas: Tensor,
    labels: Tensor,
    counts: Tensor,
    rois: Tensor,
    wanted: Tensor,
    stds: Sequence[float],
    giou: bool = False,
) -> Tensor:
    """L1 loss of deltas, or 10 times the GIoU loss of boxes, over the number of *all* RoIs, as mmdetection has it.

    Args:
        deltas: (N, classes*4).
        labels: (N,) int32, the number of classes for background.
        counts: (N,) float32.
        rois, wanted: (N, 4).
        stds: of deltas.
    """
    classes = deltas.shape[1] // 4
    positive = counts * (labels < classes).astype(ms.float32)
    chosen = of_class(deltas.astype(ms.float32).reshape(-1, classes, 4), ops.minimum(labels, classes - 1))
    if giou:
        # What does not count is decoded as zeros: its gradient would be zero times something.
        chosen = chosen * positive.expand_dims(-1)
        each = GIOU_WEIGHT * geometry.giou_loss(geometry.decode(rois, chosen, stds), wanted)
    else:
        each = losses.l1(chosen, geometry.encode(rois, wanted, stds)).sum(-1)
    return (each * positive).sum() / (counts.sum() + losses.SMALL)


def mask_loss(logits: Tensor, labels: Tensor, counts: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the masks of the RoIs' own classes, mean over positive RoIs and places.

    Args:
        logits: (N, classes, 28, 28).
        labels: (N,) int32, the number of classes for background.
        counts: (N,) float32.
        wanted: (N, 28, 28).
    """
    classes = logits.shape[1]
    positive = counts * (labels < classes).astype(ms.float32)
    each = losses.binary_cross_entropy(of_class(logits, ops.minimum(labels, classes - 1)), wanted)
    return (each.mean((1, 2)) * positive).sum() / ops.maximum(positive.sum(), 1.0)


def refined(
    rois: Tensor, logits: Tensor, deltas: Tensor, labels: Tensor, sizes: Tensor, stds: Sequence[float]
) -> Tensor:
    """RoIs (B, S, 4) of the next stage, within images of ``sizes`` (B, 2), without a gradient.

    Those with an object are moved as its class says, those without as the class says that seems the likeliest.

    Args:
        logits, deltas, labels: of each RoI, (B*S, classes + 1), (B*S, classes*4) and (B*S,).
    """
    classes = deltas.shape[1] // 4
    likeliest = ops.topk(logits[:, :classes].astype(ms.float32), 1)[1].reshape(-1)  # `argmax` has 64 bits
    labels = ops.where(labels < classes, labels, likeliest)
    chosen = of_class(deltas.astype(ms.float32).reshape(-1, classes, 4), labels).reshape(rois.shape)
    return ops.stop_gradient(geometry.clip(geometry.decode(rois, chosen, stds), sizes))
