"""Top-1, top-5 and cross-entropy, over all and by class, counted on the host so that they mean the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from acmix_ms.data.loader import PADDING

UNKNOWN = -1  # as a prediction: the net gave no numbers
MOST_CONFUSIONS = 3  # told of each class


class Accuracy:
    """Sums over batches; rows with label -1 are padding and count nowhere."""

    def __init__(self):
        self.correct1 = self.correct5 = self.count = 0
        self.loss_sum = 0.0
        self._outcomes: list[np.ndarray] = []

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: logits (B, classes), labels (B,)."""
        real = labels != PADDING
        logits, labels = np.asarray(logits, np.float64)[real], np.asarray(labels)[real]
        rank = label_rank(logits, labels)
        self.correct1 += int((rank < 1).sum())
        self.correct5 += int((rank < 5).sum())
        self.count += len(labels)
        outcome = np.full((3, len(real)), PADDING)
        outcome[:, real] = labels, predictions(logits, labels, rank), rank
        self._outcomes.append(outcome)
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

    def outcomes(self) -> np.ndarray:
        """(3, rows) whole numbers: label, prediction and `label_rank` of each row so far; of padding all `PADDING`."""
        return np.concatenate(self._outcomes or [np.empty((3, 0), np.int64)], axis=1)

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


def predictions(logits: np.ndarray, labels: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Which class a net takes each row for, (B,): the right one only where ``rank``, its `label_rank`, is 0.

    `UNKNOWN` where the row is not finite.
    """
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    found = np.where(rank == 0, labels, others.argmax(axis=1))
    return np.where(np.isfinite(logits).all(axis=1), found, UNKNOWN)


def by_class(outcomes: np.ndarray, class_names: Sequence[str]) -> list[dict]:
    """What became of the images of each class, in the order of the classes, as JSON values.

    Args:
        outcomes: (3, rows), of `Accuracy.outcomes`; those of several processes may stand side by side.
        class_names: what label i is called.

    Returns:
        of each class its ``name``, ``images``, ``top1`` and ``top5`` in percent (None without images), and
        ``confusions``: (name, images) of the classes that it was most often taken for.
    """
    labels, given, rank = outcomes[:, outcomes[0] != PADDING]
    classes = len(class_names)
    images, right1, right5 = (np.bincount(labels[rank < k], minlength=classes).tolist() for k in (np.inf, 1, 5))
    wrong = (given != labels) & (given != UNKNOWN)
    pairs, counts = np.unique(labels[wrong] * classes + given[wrong], return_counts=True)
    confusions: list[list] = [[] for _ in class_names]
    for index in np.argsort(-counts, kind="stable").tolist():
        label, other = divmod(int(pairs[index]), classes)
        if len(confusions[label]) < MOST_CONFUSIONS:
            confusions[label].append([class_names[other], int(counts[index])])
    return [
        {
            "name": class_names[i],
            "images": images[i],
            "top1": 100.0 * right1[i] / images[i] if images[i] else None,
            "top5": 100.0 * right5[i] / images[i] if images[i] else None,
            "confusions": confusions[i],
        }
        for i in range(classes)
    ]


def summary(scores: Mapping) -> str:
    """One line of what `acmix_ms.engine.evaluation.evaluate` gives."""
    speed = f"  {scores['img_per_s']:.0f} img/s" if scores["img_per_s"] else ""
    rates = f"top-1 {scores['top1']:.2f} %  top-5 {scores['top5']:.2f} %"
    return f"{rates}  loss {scores['loss']:.4f}  {scores['count']} images{speed}"


def class_table(classes: Sequence[dict]) -> str:
    """What `by_class` gives as lines for a terminal."""
    width = max(len("class"), *(len(found["name"]) for found in classes))
    lines = [f"{'class':<{width}}  images  top-1 %  top-5 %  most often taken for"]
    for found in classes:
        top1, top5 = ("-" if value is None else f"{value:.2f}" for value in (found["top1"], found["top5"]))
        line = f"{found['name']:<{width}}  {found['images']:>6}  {top1:>7}  {top5:>7}  {told_confusions(found)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def told_confusions(found: dict) -> str:
    """``dog (3), cat (1)`` of a class of `by_class`."""
    return ", ".join(f"{name} ({count})" for name, count in found["confusions"])
