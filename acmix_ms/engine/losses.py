"""The loss of classification, for labels that name a class and for labels that share an image between classes."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in float32, under ``ms.jit`` as well as in PyNative mode.

    Args:
        logits: (B, classes), any float type.
        labels: (B,) int32, or (B, classes) shares that sum to 1, as mixup and cutmix make them.
        label_smoothing: s in ``(1 - s) * share + s / classes``.

    Returns:
        a scalar.

    Raises:
        ValueError: shares of another shape than the logits.
    """
    logits = logits.astype(ms.float32)
    if labels.ndim == 1:
        return ops.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if labels.shape != logits.shape:
        raise ValueError(f"labels {labels.shape}: must be (B,) or the shape of the logits, {logits.shape}")
    shares = labels.astype(ms.float32)
    shares = (1 - label_smoothing) * shares + label_smoothing / logits.shape[1]
    return -(shares * ops.log_softmax(logits, -1)).sum(-1).mean()
