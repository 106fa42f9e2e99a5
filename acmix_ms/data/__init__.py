"""Datasets, one file each, behind one function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from acmix_ms.config import DataConfig
from acmix_ms.data.loader import Loader
from acmix_ms.errors import UserError, closest

__all__ = ["SPLITS", "Loader", "create_loader"]

SPLITS = ("train", "val")
NAMES = ("digits", "imagefolder", "mindrecord", "shapes", "coco", "ade20k", "pairs")
OF_PIXELS = ("ade20k", "pairs", "shapes")


def create_loader(
    config: DataConfig,
    split: str,
    *,
    rank: int = 0,
    size: int = 1,
    seed: int = 0,
    prepare: Callable | None = None,
    masks: bool = False,
    segments: bool = False,
    within: tuple[int, int] | None = None,
) -> Loader:
    """Build the loader of one split, which checks the files it can check cheaply.

    Args:
        config: the ``data`` section of the configuration.
        split: ``"train"`` (shuffled, augmented, whole batches only) or ``"val"`` (every sample exactly once).
        rank, size: this process and how many share the data; each gets its own part of every global batch.
        seed: decides order and augmentation, together with the epoch.
        prepare, masks: of coco and shapes, see `acmix_ms.data.coco.CocoLoader`.
        segments: with classes of pixels, of ade20k, pairs and shapes: see `acmix_ms.data.segments.SegmentLoader`.
        within: of these, see `acmix_ms.data.segments.WholeReader`.

    Raises:
        UserError: unknown split, missing or unusable data.
        ValueError: ``prepare`` or ``masks`` for data without objects.
    """
    if split not in SPLITS:
        raise UserError(f"split={split!r}: {closest(split, SPLITS)}")
    if config.name == "shapes" and config.path is None:
        from acmix_ms.data import shapes

        found = shapes.cached(shapes.WITH_PIXELS) if segments else shapes.cached()
        config = dataclasses.replace(config, path=str(found))
    if segments:
        if config.name not in OF_PIXELS:
            raise UserError(f"data.name={config.name}: its pixels have no classes; give {', '.join(OF_PIXELS)}")
        from acmix_ms.data.segments import SegmentLoader

        return SegmentLoader(config, split, rank=rank, size=size, seed=seed, within=within)
    if config.name in ("coco", "shapes"):
        from acmix_ms.data.coco import CocoLoader

        return CocoLoader(config, split, rank=rank, size=size, seed=seed, prepare=prepare, masks=masks)
    if prepare is not None or masks:
        raise ValueError(f"prepare, masks: data.name={config.name} has no objects, coco and shapes have")
    # The dataset modules import their libraries, so only the one asked for is imported.
    if config.name == "digits":
        from acmix_ms.data.digits import DigitsLoader

        return DigitsLoader(config, split, rank=rank, size=size, seed=seed)
    if config.name == "imagefolder":
        from acmix_ms.data.imagefolder import ImageFolderLoader

        return ImageFolderLoader(config, split, rank=rank, size=size, seed=seed)
    if config.name == "mindrecord":
        from acmix_ms.data.mindrecord import MindRecordLoader

        return MindRecordLoader(config, split, rank=rank, size=size, seed=seed)
    raise UserError(f"data.name={config.name!r}: {closest(config.name, NAMES)}")
