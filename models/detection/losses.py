"""Losses of detectors, as mmdetection defines them, for single predictions: what they are divided by is the heads' own.

All are computed in float32, whatever comes in.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

ALPHA, GAMMA = 0.25, 2.0
SMALL = 1.1920929e-7  # what is added to a number that a loss is divided by


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(...), (...) -> (...): of the sigmoid of a logit and a share, without overflow."""
    logits, targets = logits.astype(ms.float32), targets.astype(ms.float32)
    return ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))


def sigmoid_focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017): logits (..., C), labels (...), C of background -> (..., C)."""
    logits = logits.astype(ms.float32)
    classes = ops.arange(logits.shape[-1]).astype(labels.dtype)
    targets = (labels.expand_dims(-1) == classes).astype(ms.float32)
    share = ops.sigmoid(logits)
    wrong = (1 - share) * targets + share * (1 - targets)
    weight = (ALPHA * targets + (1 - ALPHA) * (1 - targets)) * wrong * wrong
    return binary_cross_entropy(logits, targets) * weight


def l1(found: Tensor, wanted: Tensor) -> Tensor:
    """(...), (...) -> (...)."""
    return ops.abs(found.astype(ms.float32) - wanted.astype(ms.float32))


def smooth_l1(found: Tensor, wanted: Tensor, beta: float) -> Tensor:
    """(...), (...) -> (...): a parabola below ``beta``, a line beyond."""
    apart = l1(found, wanted)
    return ops.select(apart < beta, 0.5 * apart * apart / beta, apart - 0.5 * beta)
