"""The folder of one run: what lies in it, and the checks that need no MindSpore, so that mistakes answer at once."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from acmix_ms.errors import UserError
from acmix_ms.files import LOCK, locked, writable_folder

STATE = "step-{:08d}.ckpt"  # a whole training state, by the steps done
LAST = "last.ckpt"  # the newest of them, under a second name
BEST = "best.ckpt"  # the weights with the highest validation top-1
CONFIG = "config.yaml"  # the whole configuration; serves as --config again
LOG = "log.csv"  # one row per epoch
CURVES = "curves.png"
RATES = "rates.csv"  # alpha and beta of each layer, after each epoch
BEST_SCORES = "best.json"  # what best.ckpt scored, also by class
ENVIRONMENT = "environment.json"  # what the run computed on
REPORT = "report.html"
EVENTS = "events"  # folder of train.events=true


def prepare(run_dir: str | os.PathLike, *, resume: bool) -> Path:
    """Make the folder of a run and see that it can be used.

    Raises:
        UserError: it cannot be made or written to, or it holds an earlier run that a fresh start would overwrite.
    """
    folder = writable_folder(run_dir, "run_dir")
    found = held(folder)
    if found and not resume:
        raise UserError(
            f"run_dir={run_dir} already holds {found[0].name} of an earlier run: "
            "continue it with train.resume=true or give another run_dir"
        )
    return folder


@contextlib.contextmanager
def opened(run_dir: str | os.PathLike, *, resume: bool, wanted: bool = True) -> Iterator[Path]:
    """The folder of a run, see `prepare`, locked for this process if that is ``wanted``.

    A block that fails before it has written anything leaves no folder behind that was not there.
    """
    path = Path(run_dir)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]  # the innermost first
    try:
        folder = prepare(run_dir, resume=resume)
        with locked(folder, wanted):
            yield folder
    except BaseException:
        if made and [found.name for found in path.glob("*")] == [LOCK] and wanted:
            (path / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something in it
            for folder in made:
                folder.rmdir()
        raise


def held(run_dir: str | os.PathLike) -> list[Path]:
    """What an earlier run has saved in the folder."""
    folder = Path(run_dir)
    return [path for path in (folder / LAST, folder / BEST, *states(folder)) if path.exists()]


def goes_on(run_dir: str | os.PathLike, *, resume: bool) -> bool:
    """Whether a run takes all its weights from an earlier part of itself."""
    return resume and bool(states(run_dir) or (Path(run_dir) / LAST).exists())


def states(run_dir: str | os.PathLike) -> list[Path]:
    """The training states in the folder of a run, newest first, by the steps done."""
    found = Path(run_dir).glob("step-*.ckpt")
    return sorted((path for path in found if re.fullmatch(r"step-\d+", path.stem)), reverse=True)
