"""Exported files as things to measure: the size of images that each takes, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acmix_ms import runtime
from acmix_ms.deploy import SUFFIXES
from acmix_ms.errors import UserError, closest
from benchmarks.protocol import BATCH, SIZE, Spec


def specs(paths: Sequence[str], batch: int | None, device: str) -> list[Spec]:
    """The files at the sizes that they take; where that is open, at ``batch`` and the usual size.

    Raises:
        UserError: a file that is missing, is none of these formats or takes no images; a batch or a device that a file
            cannot have.
    """
    if device != "auto" and not runtime.available(device):
        raise UserError(f"--device {device}: MindSpore finds none here; give another, or auto")
    found = []
    for path in dict.fromkeys(paths):
        suffix = Path(path).suffix
        if suffix != ".mindir" and device not in ("auto", "CPU"):
            raise UserError(f"--device {device}: {path} is run on CPU; give a MINDIR file, or leave --device out")
        own_batch, channels, *sides = input_shape(path)
        if channels not in (None, 3):
            raise UserError(f"{path} takes {channels} channels, not the 3 of an image: give a file of export.py")
        if own_batch and batch and batch != own_batch:
            raise UserError(f"--batch {batch}: {path} takes batches of {own_batch}; export it with --batch {batch}")
        height, width = (side or SIZE for side in sides)
        size = height if height == width else (height, width)
        found.append(Spec(path, suffix[1:], "file", own_batch or batch or BATCH, size))
    return found


def input_shape(path: str) -> tuple[int | None, ...]:
    """(B, C, H, W) that a file takes, None where any size will do.

    Raises:
        UserError: see `specs`.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"--file {path}: unknown ending {suffix!r}, {closest(suffix, SUFFIXES)}")
    # What loads a format is imported only when a file has it.
    if suffix == ".mindir":
        from acmix_ms.deploy.mindir import image_shape

        shape = image_shape(path)
    elif suffix == ".onnx":
        from acmix_ms.deploy.onnx import Onnx

        shape = Onnx(path).input_shape
    else:
        from acmix_ms.deploy import lite

        shape = lite.find().input_shape(path)
    if len(shape) != 4:
        said = "x".join(str(size or "any") for size in shape) or "a scalar"
        raise UserError(f"{path} takes {said}, not images (batch x 3 x height x width): give a file of export.py")
    return shape
