"""Export a Cell to a file, reload the file, and compare both before the file gets its name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acmix_ms import runtime
from acmix_ms.deploy import mindir
from acmix_ms.engine.run_dir import writable_file
from acmix_ms.errors import UserError, closest

FORMATS = ("mindir", "air")
TOLERANCE = 1e-4  # of the largest output; on CPU in float32 a reloaded MINDIR is bitwise equal


class VerificationError(RuntimeError):
    """The exported file does not compute what the Cell computes."""


class Difference(NamedTuple):
    """Largest difference between two outputs: ``absolute``, and ``relative`` to the largest magnitude expected."""

    absolute: float
    relative: float

    def __str__(self) -> str:
        return f"{self.absolute:.3g} absolute, {self.relative:.3g} of the largest output"


def check_format(format: str) -> None:
    """See that ``format`` is known and can be made on this machine. Cheap; call it before any other work.

    Raises:
        UserError: unknown format, or AIR without an Ascend.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: {closest(format, FORMATS)}")
    if format == "air" and not runtime.available("Ascend"):
        raise UserError(
            "--format air needs an Ascend host: MindSpore writes AIR only there, and none was found; "
            "export --format mindir here, or run the same command on the Ascend machine"
        )


def check_output(path: str | os.PathLike, *, force: bool = False) -> Path:
    """See that a file can be written at ``path``. Cheap; call it before building anything.

    Raises:
        UserError: it exists and ``force`` is not set, or its folder cannot be written to.
    """
    path = writable_file(path, "--output")
    if path.exists() and not force:
        raise UserError(f"--output {path} exists already: give another name, or --force to replace it")
    return path


def export(
    cell,
    format: str,
    path: str | os.PathLike,
    *,
    image_size: int,
    batch: int | None = 1,
    channels: int = 3,
    force: bool = False,
    tolerance: float = TOLERANCE,
    reference=None,
) -> Path:
    """Write ``cell`` as a file that has been reloaded and compared with it. Needs graph mode.

    Args:
        cell: (B, channels, image_size, image_size) float32 to one output; it is switched to evaluation.
        format: one of `FORMATS`.
        path: of the new file; a file there before is kept until the new one is proved.
        batch: fixed batch size, or None for any: that is compared at two sizes.
        force: replace an existing file.
        tolerance: largest difference allowed, relative to the largest output.
        reference: what the file is compared with instead of ``cell``: the net that ``cell`` was made from.

    Raises:
        UserError: see `check_format` and `check_output`.
        VerificationError: the difference is larger; nothing is left at ``path`` that was not there before.
    """
    import mindspore as ms

    from acmix_ms.ops import kernels

    check_format(format)
    path = check_output(path, force=force)
    cell.set_train(False)
    reference = cell if reference is None else reference
    shape = [batch, channels, image_size, image_size]
    example = ms.Tensor(shape=shape, dtype=ms.float32) if batch is None else ms.Tensor(np.zeros(shape, np.float32))
    batches = [batch] if batch is not None else [1, 3]
    # A folder of its own beside the target: the rename stays in one file system, and leftovers go with it.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / f"model.{format}"
        with kernels.native():  # the file may run on another device than this one
            ms.export(cell, example, file_name=str(partial), file_format=format.upper())
        if format == "mindir":
            for size in batches:
                inputs = np.random.default_rng(0).standard_normal((size, *shape[1:])).astype(np.float32)
                difference = verify(partial, reference, [inputs])
                print(f"reloaded {path.name}, batch {size}: largest difference {difference}", flush=True)
                # "not <=", so that nan fails
                if not difference.relative <= tolerance:
                    raise VerificationError(
                        f"{path}: the reloaded file differs by {difference}, allowed is {tolerance:g}; it was removed"
                    )
        else:
            print(f"{path.name}: AIR cannot be reloaded by MindSpore, so nothing was compared", flush=True)
        partial.chmod(0o644)  # MindSpore leaves 0400
        os.replace(partial, path)
    return path


def verify(path: str | os.PathLike, cell, inputs: Sequence[np.ndarray]) -> Difference:
    """Run a MINDIR file and ``cell`` on the same ``inputs`` and compare the outputs. Needs graph mode.

    Raises:
        UserError: the file is missing or cannot be loaded.
    """
    import mindspore as ms

    graph = mindir.load(path)
    tensors = [ms.Tensor(value) for value in inputs]
    cell.set_train(False)
    expected = cell(*tensors).asnumpy().astype(np.float64)
    given = graph(*tensors).asnumpy().astype(np.float64)
    if expected.shape != given.shape:
        raise VerificationError(f"{path}: gives shape {given.shape}, expected {expected.shape}")
    absolute = float(np.abs(expected - given).max())
    return Difference(absolute, absolute / max(float(np.abs(expected).max()), 1e-12))
