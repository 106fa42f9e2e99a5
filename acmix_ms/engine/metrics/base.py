"""What every evaluator promises, so that training, logs and reports know no metric by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
    """A number of `Evaluator.result`, and how it is told.

    Attributes:
        name: its key.
        label: what people call it.
        unit: behind the number.
        digits: after the point.
        higher_is_better: or a lower number is.
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 2
    higher_is_better: bool = True

    def told(self, value: float) -> str:
        """``top-1 98.59 %``"""
        return f"{self.label} {value:.{self.digits}f}{self.unit and f' {self.unit}'}"

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value beats another one; anything beats None, and nothing does so by being nan."""
        if than is None:
            return value == value
        return value > than if self.higher_is_better else value < than


class Evaluator(ABC):
    """Scores of one pass over one split: made for it, updated by its batches, asked once.

    Where a group of processes shares the split, each has a part, and `merge` brings them together.

    Attributes:
        METRICS: what of a result is told and logged, if it has that; first of all the one by which ``best.ckpt`` is
            chosen, which every result has.
        metrics: those that this one's result has.
    """

    METRICS: tuple[Metric, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See above."""
        return self.METRICS

    @property
    def primary(self) -> Metric:
        """The metric that decides which weights are the best."""
        return self.metrics[0]

    @abstractmethod
    def update(self, outputs: np.ndarray | tuple, targets: Sequence[np.ndarray], ids: np.ndarray) -> None:
        """Add a batch.

        Args:
            outputs: of the net.
            targets: of the loader.
            ids: (B,) of the samples; what has `acmix_ms.data.loader.PADDING` counts nowhere.
        """

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """All that has been counted, for `merge`."""

    @abstractmethod
    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Go on from the states of all processes, one's own included, instead of from one's own."""

    @abstractmethod
    def result(self) -> dict:
        """The scores, as JSON values: those of `metrics`, ``count`` of images, and whatever else is known."""

    @classmethod
    def tables(cls, result: Mapping) -> list[dict]:
        """What a report shows of a result beside the curves: ``title``, ``note``, ``header`` and ``rows`` of each."""
        return []

    @classmethod
    def details(cls, result: Mapping) -> str:
        """What ``eval.py --per-class`` prints of a result."""
        return ""

    @classmethod
    def told(cls, result: Mapping) -> str:
        """The metrics of a result in one line."""
        return "  ".join(metric.told(result[metric.name]) for metric in cls.METRICS if metric.name in result)
