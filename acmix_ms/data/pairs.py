"""Images with label images of the same names: which there are, what their classes are called, and what a label says.

``path/images/training/*`` with ``path/annotations/training/*.png``, and the same of validation, as ADE20K comes
(folders ``train`` and ``val`` serve as well); or ``path/train/*`` with ``path/semantic/train/*.png``, and the same of
val, as generated shapes have it. ``path/classes.txt`` names the classes, one in each line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data import shapes
from acmix_ms.data.imagefolder import EXTENSIONS, is_image_name
from acmix_ms.data.images import decode_values, read_bytes
from acmix_ms.errors import UserError
from acmix_ms.maps import IGNORED

LABELS = ".png"
CLASSES, ADE20K_CLASSES = "classes.txt", "objectInfo150.txt"  # the latter comes with ADE20K
FOLDERS = {"train": ("training", "train"), "val": ("validation", "val")}
LONGEST = 2**16  # bytes of a file of names


class Pairs(NamedTuple):
    """The samples of a split.

    Attributes:
        images, labels: paths, one of each for every sample.
        class_names: by label.
        zero_ignored: label 0 has no class, and class i is label i + 1.
    """

    images: list[str]
    labels: list[str]
    class_names: list[str]
    zero_ignored: bool


def find(config: DataConfig, split: str) -> Pairs:
    """The pairs of a split.

    Raises:
        UserError: folders are missing or empty, an image has no label or a label no image, classes are not named.
    """
    if not config.path:
        raise UserError(
            "data.path is not set: give the folder that holds images/ and annotations/, as data.path=FOLDER"
        )
    root = Path(config.path)
    if not root.is_dir():
        raise UserError(f"data.path={config.path}: no such folder")
    images, labels = _folders(root, split)
    by_stem = [_files(images, is_image_name), _files(labels, lambda name: name.lower().endswith(LABELS))]
    if not by_stem[0]:
        raise UserError(f"{images}: holds no images ({', '.join(EXTENSIONS)})")
    for have, lack, what in ((0, 1, f"label image, a {LABELS}"), (1, 0, "image")):
        alone = sorted(by_stem[have].keys() - by_stem[lack].keys())
        if alone:
            path = by_stem[have][alone[0]]
            folder = (images, labels)[lack]
            raise UserError(f"{path}: has no {what} of the same name in {folder} ({len(alone)} such); add or remove it")
    stems = sorted(by_stem[0])
    zero = config.segments.zero_ignored
    return Pairs(
        [by_stem[0][stem] for stem in stems],
        [by_stem[1][stem] for stem in stems],
        _class_names(root, config.name),
        config.name != "pairs" if zero is None else zero,
    )


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    layouts = [(root / "images" / name, root / "annotations" / name) for name in FOLDERS[split]]
    layouts.append((root / split, root / "semantic" / split))
    for layout in layouts:
        if all(folder.is_dir() for folder in layout):
            return layout
    told = " nor ".join(" with ".join(str(folder.relative_to(root)) for folder in layout) for layout in layouts)
    raise UserError(f"data.path={root}: holds neither {told}")


def _files(folder: Path, chosen) -> dict[str, str]:
    """Paths by their names without ending."""
    found: dict[str, str] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if chosen(entry.name) and entry.is_file():
            stem = os.path.splitext(entry.name)[0]
            if stem in found:
                raise UserError(f"{entry.path}: {found[stem]} has the same name; which one is meant? Remove the other")
            found[stem] = entry.path
    return found


def _class_names(root: Path, name: str) -> list[str]:
    names = _lines(root / CLASSES)
    if names is None and name == "shapes":
        names = list(shapes.CLASSES)
    if names is None and name == "ade20k":
        lines = _lines(root / ADE20K_CLASSES)
        # Idx, Ratio, Train, Val, Stuff, Name; of several names the first
        table = [line.split("\t")[-1].partition(",")[0].strip() for line in (lines or [])[1:]]
        names = table if len(table) == 150 else [f"class {i}" for i in range(1, 151)]
    if not names:
        raise UserError(f"{root / CLASSES}: missing or empty; name the classes there, one in each line, label 0 first")
    if len(names) > IGNORED:
        raise UserError(f"{root / CLASSES}: names {len(names)} classes; at most {IGNORED} fit, {IGNORED} is no class")
    return names


def _lines(path: Path) -> list[str] | None:
    """Of a text that is there, without empty ones."""
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file.read(LONGEST).splitlines() if line.strip()]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): write the names of the classes as UTF-8") from error


def read_labels(path: str, classes: int, zero_ignored: bool) -> np.ndarray:
    """The labels in a file: (H, W) uint8, from 0 to below ``classes``, or `IGNORED`.

    Raises:
        UnreadableImageError: missing or damaged file.
        UserError: a coloured one, or it holds what is no class.
    """
    values = decode_values(read_bytes(path))
    if values.ndim != 2:
        raise UserError(
            f"label image {path} is coloured: give one with a single channel, or a palette, whose numbers are classes"
        )
    if values.dtype.kind not in "bui":
        raise UserError(f"label image {path} holds fractions: give whole numbers, which are the classes")
    known, first = values != IGNORED, int(zero_ignored)
    if zero_ignored:
        known &= values != 0
    odd = values[known & ((values.astype(np.int64) < first) | (values.astype(np.int64) >= classes + first))]
    if odd.size:
        zero = "0 and" if zero_ignored else "and"
        raise UserError(
            f"label image {path} holds {int(odd[0])}, but {classes} classes are {first} to {classes + first - 1}, "
            f"{zero} {IGNORED} ignored: check {CLASSES} and data.segments.zero_ignored={str(zero_ignored).lower()}"
        )
    return np.where(known, values.astype(np.int64) - first, IGNORED).astype(np.uint8)
