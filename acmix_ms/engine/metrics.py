"""Top-1, top-5 and cross-entropy, counted on the host so that they mean the same on every device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from acmix_ms.data.loader import PADDING


class Accuracy:
    """Sums over batches; rows with label -1 are padding and count nowhere."""

    def __init__(self):
        self.correct1 = self.correct5 = self.count = 0
        self.loss_sum = 0.0

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: logits (B, classes), labels (B,)."""
        real = labels != PADDING
        logits, labels = np.asarray(logits, np.float64)[real], np.asarray(labels)[real]
        rank = label_rank(logits, labels)
        self.correct1 += int((rank < 1).sum())
        self.correct5 += int((rank < 5).sum())
        self.count += len(labels)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        self.loss_sum += float((log_sum - shifted[np.arange(len(labels)), labels]).sum())

    def sums(self) -> tuple[float, ...]:
        """All that has been counted; those of several processes may be added up."""
        return self.correct1, self.correct5, self.count, self.loss_sum

    def set_sums(self, sums: Sequence[float]) -> None:
        """Go on from such `sums`."""
        self.correct1, self.correct5, self.count = (round(value) for value in sums[:3])
        self.loss_sum = float(sums[3])

    def result(self) -> dict:
        """``top1`` and ``top5`` in percent, mean ``loss``, ``count`` of images. Below six classes top-5 is 100."""
        count = max(1, self.count)
        return {
            "top1": 100.0 * self.correct1 / count,
            "top5": 100.0 * self.correct5 / count,
            "loss": self.loss_sum / count,
            "count": self.count,
        }


def label_rank(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one, (B,) from (B, classes) and (B,).

    Equal logits count as before it, and so does everything when the row is not finite: a net that gives constants or
    nan must not look right.
    """
    classes = logits.shape[1]
    own = logits[np.arange(len(labels)), labels]
    rank = (logits >= own[:, None]).sum(axis=1) - 1
    return np.where(np.isfinite(logits).all(axis=1), rank, classes)
