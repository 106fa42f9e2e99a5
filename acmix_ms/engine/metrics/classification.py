"""Top-1, top-5 and cross-entropy, over all and by class, counted on the host so that they mean the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from acmix_ms.data.loader import PADDING
from acmix_ms.engine.metrics.base import Evaluator, Metric

UNKNOWN = -1  # as a prediction: the net gave no numbers
MOST_CONFUSIONS = 3  # told of each class
WORST_CLASSES = 10  # in a report
FEWEST_FOR_TOP5 = 6  # classes: of fewer every answer is among the first five

TOP1, TOP5 = Metric("top1", "top-1", "%"), Metric("top5", "top-5", "%")
LOSS = Metric("loss", "loss", digits=4, higher_is_better=False)


class Accuracy(Evaluator):
    """The evaluator of classification. Rows with label -1 are padding, or images that could not be read.

    Args:
        class_names: what label i is called. Below six classes there is no top-5, which would be 100.
    """

    METRICS = (TOP1, TOP5, LOSS)

    def __init__(self, class_names: Sequence[str]):
        self.class_names = list(class_names)
        self._loss_sum = 0.0
        self._outcomes: list[np.ndarray] = []

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See `Evaluator`."""
        return (TOP1, TOP5, LOSS) if len(self.class_names) >= FEWEST_FOR_TOP5 else (TOP1, LOSS)

    def update(self, outputs: np.ndarray, targets: Sequence[np.ndarray], ids: np.ndarray) -> None:
        """Add a batch: logits (B, classes), (labels (B,),)."""
        (labels,) = targets
        real = (labels != PADDING) & (ids != PADDING)
        logits, labels = np.asarray(outputs, np.float64)[real], np.asarray(labels)[real]
        rank = label_rank(logits, labels)
        self._outcomes.append(np.stack([labels, predictions(logits, labels, rank), rank]))
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        self._loss_sum += float((log_sum - shifted[np.arange(len(labels)), labels]).sum())

    def outcomes(self) -> np.ndarray:
        """(3, images) whole numbers: label, prediction and `label_rank` of each image so far."""
        return np.concatenate(self._outcomes or [np.empty((3, 0), np.int64)], axis=1).astype(np.int64)

    def state(self) -> dict[str, np.ndarray]:
        """See `Evaluator`."""
        return {"outcomes": self.outcomes(), "loss_sum": np.float64(self._loss_sum)}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """See `Evaluator`."""
        self._outcomes = [state["outcomes"] for state in states]
        self._loss_sum = float(sum(state["loss_sum"] for state in states))

    def result(self) -> dict:
        """``top1`` and, from six classes on, ``top5`` in percent, mean ``loss``, ``count`` of images; ``classes``, as
        `by_class` gives them.
        """
        outcomes = self.outcomes()
        count, rank = max(1, outcomes.shape[1]), outcomes[2]
        shares = {"top1": 100.0 * int((rank < 1).sum()) / count, "top5": 100.0 * int((rank < 5).sum()) / count}
        return {
            **{metric.name: shares[metric.name] for metric in self.metrics if metric.name in shares},
            "loss": self._loss_sum / count,
            "count": outcomes.shape[1],
            "classes": by_class(outcomes, self.class_names),
        }

    @classmethod
    def tables(cls, result: Mapping) -> list[dict]:
        """The classes that are wrong most often."""
        known = [found for found in result["classes"] if found["images"]]
        worst = sorted(known, key=lambda found: found["top1"])[:WORST_CLASSES]
        shown = [metric for metric in (TOP1, TOP5) if metric.name in result]
        return [
            {
                "title": f"Worst classes of {len(known)}",
                "note": "",
                "header": ["class", "images", *(f"{metric.label} (%)" for metric in shown), "most often taken for"],
                "rows": [
                    [c["name"], c["images"], *(f"{c[m.name]:.2f}" for m in shown), told_confusions(c)] for c in worst
                ],
            }
        ]

    @classmethod
    def details(cls, result: Mapping) -> str:
        """A line for each class."""
        return class_table(result["classes"])


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
        outcomes: (3, images), of `Accuracy.outcomes`.
        class_names: what label i is called.

    Returns:
        of each class its ``name``, ``images``, ``top1`` and, from six classes on, ``top5`` in percent (None without
        images), and ``confusions``: (name, images) of the classes that it was most often taken for.
    """
    labels, given, rank = outcomes
    classes = len(class_names)
    images = np.bincount(labels, minlength=classes).tolist()
    tops = {"top1": 1, "top5": 5} if classes >= FEWEST_FOR_TOP5 else {"top1": 1}
    right = {name: np.bincount(labels[rank < k], minlength=classes).tolist() for name, k in tops.items()}
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
            **{name: 100.0 * counts[i] / images[i] if images[i] else None for name, counts in right.items()},
            "confusions": confusions[i],
        }
        for i in range(classes)
    ]


def class_table(classes: Sequence[dict]) -> str:
    """What `by_class` gives as lines for a terminal."""
    width = max(len("class"), *(len(found["name"]) for found in classes))
    shown = [metric for metric in (TOP1, TOP5) if metric.name in classes[0]]
    lines = [f"{'class':<{width}}  images  {'  '.join(f'{m.label} %' for m in shown)}  most often taken for"]
    for found in classes:
        shares = ("-" if found[m.name] is None else f"{found[m.name]:.2f}" for m in shown)
        cells = "  ".join(f"{share:>7}" for share in shares)
        lines.append(f"{found['name']:<{width}}  {found['images']:>6}  {cells}  {told_confusions(found)}".rstrip())
    return "\n".join(lines)


def told_confusions(found: dict) -> str:
    """``dog (3), cat (1)`` of a class of `by_class`."""
    return ", ".join(f"{name} ({count})" for name, count in found["confusions"])
