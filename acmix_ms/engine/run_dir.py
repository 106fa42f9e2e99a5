"""The folder of one run: what lies in it, and the checks that need no MindSpore, so that mistakes answer at once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from acmix_ms.errors import UserError

LAST = "last.ckpt"  # the whole training state after the newest epoch
BEST = "best.ckpt"  # the weights with the highest validation top-1
CONFIG = "config.yaml"  # the whole configuration; serves as --config again
LOG = "log.csv"  # one row per epoch
CURVES = "curves.png"


def prepare(run_dir: str | os.PathLike, *, resume: bool) -> Path:
    """Make the folder of a run and see that it can be used.

    Raises:
        UserError: it cannot be made or written to, or it holds an earlier run that a fresh start would overwrite.
    """
    folder = writable_folder(run_dir, "run_dir")
    held = [name for name in (LAST, BEST) if (folder / name).exists()]
    if held and not resume:
        raise UserError(
            f"run_dir={run_dir} already holds {held[0]} of an earlier run: "
            "continue it with train.resume=true or give another run_dir"
        )
    return folder


def writable_folder(path: str | os.PathLike, name: str) -> Path:
    """Make the folder ``path`` if needed and try to write in it; ``name`` is the argument it came from."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{name}={path}: cannot write there ({error.strerror}); give another folder") from error


def require_checkpoint(path: str | os.PathLike) -> Path:
    """The path of a checkpoint that is there; whether it is a good one only reading shows."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"checkpoint {path} is a folder: give a file in it, such as {file / BEST}")
    if not file.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    return file
