"""What a run tells: progress lines on the console, a CSV row per epoch, and a picture of the curves."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from acmix_ms.analysis import figures
from acmix_ms.engine.run_dir import CURVES, LOG

COLUMNS = ("epoch", "step", "train_loss", "lr", "img_per_s", "val_loss", "val_top1", "val_top5")
SECONDS_BETWEEN_PICTURES = 60.0  # drawing takes about a second
DATA_BOUND = 0.3  # an epoch that waits for data longer than this part of its time says so

T = TypeVar("T")


class Progress:
    """Console lines within an epoch, with the speed, the share of the time that goes into waiting for data, and the
    time that is left.

    The first step of a process compiles the graph; it would spoil all three and is not counted.

    Args:
        remedy: what to do if the data are too slow; empty if nothing can be done.
    """

    def __init__(self, *, epochs: int, steps_per_epoch: int, images_per_step: int, log_every: int, remedy: str = ""):
        self._epochs, self._steps = epochs, steps_per_epoch
        self._images_per_step, self._log_every, self._remedy = images_per_step, log_every, remedy
        self._counted, self._seconds, self._mark = 0, 0.0, None
        self._waited = 0.0  # seconds since the last step
        self._epoch_seconds, self._epoch_waited = 0.0, 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand on ``batches``, and measure how long each keeps the training waiting."""
        batches = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited = time.perf_counter() - began
            yield batch

    def step(self, epoch: int, step: int, loss: float, lr: float) -> None:
        """Report that step number ``step`` (from 1) of epoch number ``epoch`` (from 1) is done."""
        now = time.perf_counter()
        if self._mark is not None:
            self._counted += 1
            self._seconds += now - self._mark
            self._epoch_seconds += now - self._mark
            self._epoch_waited += self._waited
        self._mark = now
        if step % self._log_every == 0 or step == self._steps:
            share = "?" if self.data_share is None else f"{100 * self.data_share:.0f}"
            print(
                f"epoch {epoch}/{self._epochs}  step {step}/{self._steps}  loss {loss:.4f}  lr {lr:.3g}  "
                f"{self.images_per_second:.0f} img/s  data {share} %  ETA {self._left(epoch, step)}",
                flush=True,
            )

    def end_epoch(self, epoch: int) -> None:
        """Call after the last step of an epoch, before validation; says so if the epoch was data-bound."""
        share = self.data_share
        if self._remedy and share is not None and share > DATA_BOUND:
            print(
                f"epoch {epoch}/{self._epochs} was data-bound: {100 * share:.0f} % of its time went into waiting for "
                f"images; {self._remedy}",
                flush=True,
            )
        self._mark, self._epoch_seconds, self._epoch_waited = None, 0.0, 0.0

    @property
    def images_per_second(self) -> float:
        """Mean training speed of this process so far, 0 as long as nothing was measured."""
        return self._counted * self._images_per_step / self._seconds if self._seconds else 0.0

    @property
    def data_share(self) -> float | None:
        """Which part of the epoch's time, 0 to 1, went into waiting for data; None as long as nothing was measured."""
        return self._epoch_waited / self._epoch_seconds if self._epoch_seconds else None

    def _left(self, epoch: int, step: int) -> str:
        if not self._counted:
            return "?"
        steps = (self._epochs - epoch) * self._steps + self._steps - step
        seconds = round(steps * self._seconds / self._counted)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class EpochLog:
    """``log.csv`` and ``curves.png`` in the folder of a run."""

    def __init__(self, run_dir: Path, epochs_done: int = 0, *, write: bool = True):
        """Start a new table, or go on after ``epochs_done``: rows of later epochs, which no checkpoint has, go.

        Without ``write`` nothing happens at all: in a group one process keeps the log.
        """
        self._enabled = write
        self._path, self._picture = run_dir / LOG, run_dir / CURVES
        self._drawn = 0.0
        if not write:
            return
        rows = self._rows() if epochs_done else []
        self._write([row for row in rows if int(row["epoch"]) <= epochs_done])

    def add(self, **values: float) -> None:
        """Append the row of one epoch; the keywords are `COLUMNS`."""
        if not self._enabled:
            return
        self._write([*self._rows(), {name: f"{values[name]:.6g}" for name in COLUMNS}])
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_PICTURES:
            self.draw()

    def draw(self) -> None:
        """Draw the curves of all rows so far."""
        if self._enabled and self._rows():
            figures.plot_curves(self._path, self._picture)
            self._drawn = time.monotonic()

    def _rows(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with open(self._path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        # The table is small: writing it anew and renaming keeps it whole when the process is killed.
        partial = self._path.with_suffix(".csv.partial")
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self._path)
