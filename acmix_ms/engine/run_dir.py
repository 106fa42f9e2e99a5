"""The folder of one run: what lies in it, and the checks that need no MindSpore, so that mistakes answer at once."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there a second run is not noticed
    fcntl = None

from acmix_ms.errors import UserError

STATE = "step-{:08d}.ckpt"  # a whole training state, by the steps done
LAST = "last.ckpt"  # the newest of them, under a second name
BEST = "best.ckpt"  # the weights with the highest validation top-1
CONFIG = "config.yaml"  # the whole configuration; serves as --config again
LOCK = ".lock"  # held by the run that writes here
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
def locked(run_dir: str | os.PathLike, wanted: bool = True, name: str = "run_dir=") -> Iterator[None]:
    """The folder of a run is this process's own; the system takes the lock back however the process ends.

    Unless it is ``wanted`` nothing happens: of the processes of one run a single one has it. ``name`` is the argument
    that the folder came from.

    Raises:
        UserError: another run has it.
    """
    if fcntl is None or not wanted:
        yield
        return
    with open(Path(run_dir) / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"{name}{run_dir} is in use by process {file.read().strip() or '?'}: "
                f"wait until it ends, or give another {name.strip('= ')}"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


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


def writable_folder(path: str | os.PathLike, name: str) -> Path:
    """Make the folder ``path`` if needed and try to write in it; ``name`` is the argument it came from."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{name}={path}: cannot write there ({error.strerror}); give another folder") from error


def writable_file(path: str | os.PathLike, name: str) -> Path:
    """See that a file can be written at ``path``, an argument called ``name``; its folder is made if needed."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{name} {path} is a folder: give a file name")
    writable_folder(file.parent, name)
    return file


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a small file whole: whoever reads it, and whenever the process ends, finds the old text or the new one.

    Raises:
        UserError: it cannot be written; the earlier file is untouched.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        # As bytes, so that line ends stay as they are; names of files need not be valid text.
        partial.write_bytes(text.encode(errors="replace"))
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}; the earlier file is untouched") from error


def require_checkpoint(path: str | os.PathLike) -> Path:
    """The path of a checkpoint that is there; whether it is a good one only reading shows."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"checkpoint {path} is a folder: give a file in it, such as {file / BEST}")
    if not file.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    return file
