"""Exported files, whatever their format."""

from __future__ import annotations

import os
from pathlib import Path

from acmix_ms.deploy.runner import Runner
from acmix_ms.errors import UserError, closest

SUFFIXES = (".mindir", ".onnx", ".ms")


def open_file(path: str | os.PathLike) -> Runner:
    """The net in an exported file.

    Raises:
        UserError: missing, damaged or foreign file, or what runs it is not installed.
    """
    suffix = Path(path).suffix
    # Each format's libraries are loaded only when it is asked for.
    if suffix == ".mindir":
        from acmix_ms.deploy.mindir import Mindir

        return Mindir(path)
    if suffix == ".onnx":
        from acmix_ms.deploy.onnx import Onnx

        return Onnx(path)
    if suffix == ".ms":
        from acmix_ms.deploy.lite import LiteFile

        return LiteFile(path)
    raise UserError(f"{path}: unknown ending {suffix!r}, {closest(suffix, SUFFIXES)}")
