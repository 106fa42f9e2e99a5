"""What 16 and 8 bits cost and gain in MindSpore Lite: size, latency, accuracy and agreement with 32 bits."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acmix_ms.data.loader import Batch
from acmix_ms.deploy.lite import Lite
from acmix_ms.errors import UserError

PRECISIONS = ("fp32", "fp16", "int8")


class Row(NamedTuple):
    """One precision. Accuracy and agreement (of the likeliest class, with fp32) are shares of the images."""

    precision: str
    size: int
    latency_ms: float
    top1: float
    agreement: float


def collect(batches: Iterable[Batch], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` images of a loader's epoch that count, and their labels."""
    images, labels, found = [], [], 0
    for batch, (classes,), _ in batches:
        images.append(batch[classes >= 0])
        labels.append(classes[classes >= 0])
        found += len(labels[-1])
        if found >= count:
            break
    if not found:
        raise UserError("the data hold no image that can be read")
    return np.concatenate(images)[:count], np.concatenate(labels)[:count]


def measure(
    lite: Lite,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    calibration: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    repeats: int = 100,
) -> list[Row]:
    """Convert an ``.onnx`` in all precisions, run all images; the int8 file stays at ``output``.

    Latency is that of one image on one core, the rows in turn; nothing else should run meanwhile.

    Raises:
        UserError: see `Lite.convert` and `Lite.run`.
    """
    rows, expected = [], None
    options = {"fp32": {}, "fp16": {"fp16": True}, "int8": {"quantization": "full", "calibration": calibration}}
    with tempfile.TemporaryDirectory(prefix="acmix-lite-") as folder:
        for precision in PRECISIONS:
            path = output if precision == "int8" else Path(folder) / f"{precision}.ms"
            lite.convert(source, path, input_shape=(1, *images.shape[1:]), **options[precision])
            logits = lite.run(path, [images])[0]
            if not np.isfinite(logits).all():
                raise UserError(f"{source} in {precision} gives numbers that are not finite")
            given = logits.argmax(1)
            expected = given if expected is None else expected
            latency = 1e3 * float(np.median(lite.seconds(path, images[:1], repeats, threads=1)))
            shares = float(np.mean(given == labels)), float(np.mean(given == expected))
            rows.append(Row(precision, os.path.getsize(path), latency, *shares))
    return rows


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| weights | file | latency of one image | top-1 | same class as fp32 |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [row.precision, f"{row.size / 1e6:.2f} MB", f"{row.latency_ms:.2f} ms"]
        lines.append("| " + " | ".join([*cells, f"{100 * row.top1:.2f} %", f"{100 * row.agreement:.2f} %"]) + " |")
    return "\n".join(lines)
