"""Where a run stands, as its checkpoints have it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


@dataclasses.dataclass
class EpochSoFar:
    """Where a run stands within an epoch."""

    steps: int = 0  # batches that are done
    counted: int = 0  # those of them whose loss counts
    loss_sum: float = 0.0
    term_sums: dict[str, float] = dataclasses.field(default_factory=dict)  # of the loss's terms, by name

    def add(self, loss: float, terms: Mapping[str, float], counts: bool) -> None:
        """One more step; where its gradients were not finite, its loss does not count."""
        self.steps += 1
        if counts:
            self.counted += 1
            self.loss_sum += loss
            for name, term in terms.items():
                self.term_sums[name] = self.term_sums.get(name, 0.0) + term

    def means(self) -> dict[str, float]:
        """``loss`` and its terms, of the steps that count."""
        counted = max(1, self.counted)
        return {"loss": self.loss_sum / counted, **{name: sum_ / counted for name, sum_ in self.term_sums.items()}}


class Best(NamedTuple):
    """What ``best.ckpt`` scored, as its meta data have it."""

    name: str
    value: float
    higher_is_better: bool = True

    @classmethod
    def of(cls, meta: Mapping) -> Best | None:
        """What the meta data of a checkpoint say; those of before there were other metrics know top-1 alone."""
        if meta.get("best"):
            return cls(**meta["best"])
        old = meta.get("best_top1", -1.0)
        return cls("top1", old) if old >= 0 else None
