"""Mean IoU and accuracies of pixels, as mmsegmentation computes them, over any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from acmix_ms.data.loader import PADDING
from acmix_ms.engine.metrics.base import Evaluator, Metric
from acmix_ms.errors import UserError
from acmix_ms.maps import IGNORED, UNKNOWN

WORST_CLASSES = 10  # in a report

MIOU, MACC, AACC = Metric("mIoU", "mIoU", "%"), Metric("mAcc", "mAcc", "%"), Metric("aAcc", "aAcc", "%")


class Segmentation(Evaluator):
    """The evaluator of segmentation: one confusion matrix of all pixels that have a class.

    Answers are compared with labels of their own size, so that no label is resized. A pixel for which the net gave no
    numbers is wrong.

    Args:
        truth: the labels (H, W) of a sample, `acmix_ms.maps.IGNORED` where a pixel does not count.
        class_names: what label i is called.
    """

    METRICS = (MIOU, MACC, AACC)

    def __init__(self, truth: Callable[[int], np.ndarray], class_names: Sequence[str]):
        self.truth, self.class_names = truth, list(class_names)
        classes = len(self.class_names)
        self.confusion = np.zeros((classes, classes + 1), np.int64)  # label, answer; the last one is `UNKNOWN`
        self.count = 0  # images

    def update(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], ids: np.ndarray) -> None:
        """Add a batch: answers (H, W) for each image, in its own size."""
        for answers, sample in zip(outputs, np.asarray(ids).tolist()):
            if sample != PADDING:
                self.add(answers, self.truth(sample))

    def add(self, answers: np.ndarray, labels: np.ndarray) -> None:
        """Add an image: (H, W) and (H, W)."""
        if answers.shape != labels.shape:
            raise ValueError(f"answers {answers.shape}: must be of the size of the labels, {labels.shape}")
        counts, rows = labels != IGNORED, self.confusion.shape[1]
        known, found = labels[counts].astype(np.int64), answers[counts].astype(np.int64)
        found = np.where(found == UNKNOWN, rows - 1, found)
        self.confusion += np.bincount(known * rows + found, minlength=self.confusion.size).reshape(self.confusion.shape)
        self.count += 1

    def state(self) -> dict[str, np.ndarray]:
        """See `Evaluator`."""
        return {"confusion": self.confusion, "count": np.int64(self.count)}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """See `Evaluator`."""
        self.confusion = sum(state["confusion"] for state in states)
        self.count = int(sum(state["count"] for state in states))

    def result(self) -> dict:
        """``mIoU``, ``mAcc`` and ``aAcc`` in percent, ``count`` of images; ``classes``: of each its ``name``, the
        ``pixels`` that are of it, ``IoU`` and ``Acc`` in percent. These are None, and have no part in the means, where
        no pixel is of the class, and for IoU none is taken for it.

        Raises:
            UserError: no pixel has a class.
        """
        pixels = self.confusion.sum(1)
        if not pixels.any():
            raise UserError(
                f"none of the pixels of {self.count} validation images has a class: check the label images, and "
                "data.segments.zero_ignored"
            )
        right = np.diagonal(self.confusion)
        union = pixels + self.confusion[:, :-1].sum(0) - right
        iou, accuracy = _shares(right, union), _shares(right, pixels)
        classes = [
            {"name": name, "pixels": count, "IoU": iou[i], "Acc": accuracy[i]}
            for i, (name, count) in enumerate(zip(self.class_names, pixels.tolist()))
        ]
        means = {"mIoU": _mean(iou), "mAcc": _mean(accuracy), "aAcc": 100.0 * int(right.sum()) / int(pixels.sum())}
        return {**means, "count": self.count, "classes": classes}

    @classmethod
    def tables(cls, result: Mapping) -> list[dict]:
        """The classes that are segmented worst."""
        known = [found for found in result["classes"] if found["IoU"] is not None]
        worst = sorted(known, key=lambda found: found["IoU"])[:WORST_CLASSES]
        rows = [[c["name"], c["pixels"], _cell(c["IoU"]), _cell(c["Acc"])] for c in worst]
        header = ["class", "pixels", "IoU (%)", "Acc (%)"]
        return [{"title": f"Worst classes of {len(known)}", "note": "", "header": header, "rows": rows}]

    @classmethod
    def details(cls, result: Mapping) -> str:
        """A line for each class."""
        width = max(len("class"), *(len(found["name"]) for found in result["classes"]))
        lines = [f"{'class':<{width}}  {'pixels':>12}  {'IoU %':>7}  {'Acc %':>7}"]
        for found in result["classes"]:
            cells = f"{found['pixels']:>12}  {_cell(found['IoU']):>7}  {_cell(found['Acc']):>7}"
            lines.append(f"{found['name']:<{width}}  {cells}")
        return "\n".join(lines)


def _shares(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    """In percent; None of nothing."""
    return [100.0 * part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist())]


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
