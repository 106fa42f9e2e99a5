"""Exported files, whatever their format, and the folders in which they come about."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from acmix_ms.deploy import description
from acmix_ms.deploy.runner import Runner
from acmix_ms.errors import UserError, closest
from acmix_ms.files import replacing, sync

SUFFIXES = (".mindir", ".onnx", ".ms")
PLAIN = re.compile(r"[0-9a-zA-Z@_.:/\\-]+")  # the only characters of a path that MindSpore exports to


def open_file(path: str | os.PathLike, names: Sequence[str] | None = None) -> Runner:
    """The net in an exported file; where its description lies beside it, the two belong together.

    Args:
        names: of its outputs; by default those of the description, else those of the file.

    Raises:
        UserError: missing, damaged or foreign file, the description of another file, or what runs it is not installed.
    """
    suffix, about = Path(path).suffix, None
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown ending {suffix!r}, {closest(suffix, SUFFIXES)}")
    if Path(path).is_file():
        about = description.read_if_there(path)
    if names is None and about is not None:
        names = [output.name for output in about.outputs]
    # Each format's libraries are loaded only when it is asked for.
    if suffix == ".mindir":
        from acmix_ms.deploy.mindir import Mindir

        return Mindir(path, names)
    if suffix == ".onnx":
        from acmix_ms.deploy.onnx import Onnx

        return Onnx(path, names)
    from acmix_ms.deploy.lite import LiteFile

    return LiteFile(path, names)


@contextlib.contextmanager
def plain_folder(near: Path) -> Iterator[Path]:
    """An empty folder whose name MindSpore can export to, for a while: in ``near``, or where that has spaces, accents
    and the like in its path, in the system's folder for such.

    Raises:
        UserError: both have.
    """
    near, common = Path(os.path.abspath(near)), Path(tempfile.gettempdir())
    parent = near if PLAIN.fullmatch(str(near)) else common
    if not PLAIN.fullmatch(str(parent)):
        raise UserError(f"TMPDIR={parent}: MindSpore exports to plain names only; set TMPDIR=/tmp")
    # A folder of its own: leftovers go with it.
    with tempfile.TemporaryDirectory(dir=parent, prefix=".export.") as folder:
        yield Path(folder)


def put(file: Path, path: Path) -> None:
    """Let a finished file take the place of ``path``, at once, from whatever file system.

    Raises:
        UserError: the system refuses; ``path`` is as it was.
    """
    with replacing(path) as partial:
        shutil.move(file, partial)
        sync(partial)
