"""What a run tells: progress lines on the console, CSV rows per epoch, and a picture of the curves."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from acmix_ms.analysis import figures
from acmix_ms.engine.events import Record
from acmix_ms.engine.metrics import Metric
from acmix_ms.engine.run_dir import CURVES, LOG, RATES
from acmix_ms.errors import UserError
from acmix_ms.files import write_text

RATE_COLUMNS = ("epoch", "layer", "alpha", "beta")
SECONDS_BETWEEN_PICTURES = 60.0  # drawing takes about a second
DATA_BOUND = 0.3  # an epoch that waits for data longer than this part of its time says so

T = TypeVar("T")


class Progress:
    """Console lines within an epoch, with the speed, the share of the time that goes into waiting for data, and the
    time that is left; and the same numbers as events.

    The first step of a process compiles the graph; it would spoil all three and is not counted.

    Args:
        epochs, steps_per_epoch, images_per_step, log_every: of the run.
        scale: gives the loss scale, or None where there is none. It is called for each line only: it waits for the
            device.
        record: receives the events.
        remedy: what to do if the data are too slow; empty if nothing can be done.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        images_per_step: int,
        log_every: int,
        scale: Callable[[], float | None] = lambda: None,
        record: Record = lambda step, values: None,
        remedy: str = "",
    ):
        self._epochs, self._steps = epochs, steps_per_epoch
        self._images_per_step, self._log_every, self._remedy = images_per_step, log_every, remedy
        self._scale, self._record = scale, record
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
            self._waited += time.perf_counter() - began
            yield batch

    def step(self, epoch: int, step: int, loss: float, lr: float, terms: Mapping[str, float] | None = None) -> None:
        """Report that step number ``step`` (from 1) of epoch number ``epoch`` (from 1) is done."""
        now = time.perf_counter()
        if self._mark is not None:
            self._counted += 1
            self._seconds += now - self._mark
            self._epoch_seconds += now - self._mark
            self._epoch_waited += self._waited
        self._mark, self._waited = now, 0.0
        if step % self._log_every == 0 or step == self._steps:
            share = "?" if self.data_share is None else f"{100 * self.data_share:.0f}"
            scale, terms = self._scale(), terms or {}
            parts = f" ({', '.join(f'{name} {value:.4f}' for name, value in terms.items())})" if terms else ""
            print(
                f"epoch {epoch}/{self._epochs}  step {step}/{self._steps}  loss {loss:.4f}{parts}  lr {lr:.3g}  "
                f"{'' if scale is None else f'scale {scale:.0f}  '}"
                f"{self.images_per_second:.0f} img/s  data {share} %  ETA {self._left(epoch, step)}",
                flush=True,
            )
            values = {"loss": loss, **terms, "lr": lr, "img_per_s": self.images_per_second}
            if scale is not None:
                values["loss_scale"] = scale
            self._record((epoch - 1) * self._steps + step, {f"train/{name}": value for name, value in values.items()})

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
    """``log.csv``, ``rates.csv`` and ``curves.png`` in the folder of a run."""

    def __init__(self, run_dir: Path, metrics: Sequence[Metric], epochs_done: int = 0, *, write: bool = True):
        """Start new tables, or go on after ``epochs_done``: rows of later epochs, which no checkpoint has, go.

        ``metrics`` are those of the validation, the one that decides first. Without ``write`` nothing happens at all:
        in a group one process keeps the log.
        """
        self._enabled = write
        self._path, self._picture = run_dir / LOG, run_dir / CURVES
        self._drawn = 0.0
        if not write:
            return
        self._metrics = metrics
        self._log = Table(self._path, epochs_done)
        self._rates = Table(run_dir / RATES, epochs_done)

    def add(self, rates: Iterable[tuple[str, float, float]] = (), **values: float) -> None:
        """Append one epoch: (layer, alpha, beta) of each layer that has them, and its columns as keywords: ``epoch``,
        ``step``, ``lr``, ``img_per_s``, ``train_...`` of the loss and its terms, ``val_...`` of the metrics.
        """
        if not self._enabled:
            return
        self._log.add([{name: str(v) if isinstance(v, int) else f"{v:.6g}" for name, v in values.items()}])
        rows = [(f"{values['epoch']}", layer, f"{alpha:.6g}", f"{beta:.6g}") for layer, alpha, beta in rates]
        self._rates.add([dict(zip(RATE_COLUMNS, row)) for row in rows])
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_PICTURES:
            self.draw()

    def draw(self) -> None:
        """Draw the curves of all rows so far."""
        if self._enabled and self._path.exists():
            figures.plot_curves(self._path, self._picture, **curve_names(self._metrics))
            self._drawn = time.monotonic()


def curve_names(metrics: Sequence[Metric]) -> dict:
    """What `acmix_ms.analysis.figures.plot_curves` has to know of the metrics, as JSON values."""
    labels = {f"val_{m.name}": f"{m.label} ({m.unit})" if m.unit else m.label for m in metrics}
    return {"labels": labels, "higher_is_better": metrics[0].higher_is_better, "digits": metrics[0].digits}


class Table:
    """A CSV file that grows by epochs; without any row there is no file. Its columns are those of its last rows.

    It is small: writing it anew keeps it whole when the process is killed. Where that fails (a full disk), the rows
    are kept for the next attempt.
    """

    def __init__(self, path: Path, epochs_done: int):
        self._path = path
        self._rows = [row for row in read_table(path) if int(row["epoch"]) <= epochs_done]
        if self._rows:
            self.add([])
        else:
            path.unlink(missing_ok=True)

    def add(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Append rows, texts by column."""
        self._rows += rows
        if not self._rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self._rows[-1], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._rows)
        try:
            write_text(self._path, text.getvalue())
        except UserError as error:
            print(f"warning: {error}; training goes on", flush=True)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none if there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
