"""Images in folders named by class, ImageNet's usual layout: ``path/train/<class>/*`` and ``path/val/<class>/*``.

Files are read, decoded and augmented in parallel by `mindspore.dataset`; this file says what and in which order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.loader import PADDING, Loader
from acmix_ms.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # in any case; other files are not looked at
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB on the scale 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)

_ENDING = "|".join(re.escape(ending) for ending in EXTENSIONS)
_CULPRIT = re.compile(rf"data file is: (.+?(?:{_ENDING}))\. ", re.IGNORECASE)  # in the pipeline's error message


def scan(path: str | None, split: str) -> tuple[list[str], int, set[str]]:
    """List one split: (class names in order, number of images, file name endings in use).

    Raises:
        UserError: a folder is missing, there are no classes, a class has no images, or the other split has others.
    """
    if not path:
        raise UserError("data.path is not set: give the folder that holds train/ and val/, as data.path=FOLDER")
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"data.path={path}: no such folder")
    classes = {}
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise UserError(
                f"data.path={path}: holds no folder {name!r}; the layout is train/<class>/* and val/<class>/*"
            )
        classes[name] = sorted(entry.name for entry in os.scandir(root / name) if entry.is_dir())
    if not classes[split]:
        raise UserError(f"{root / split}: holds no class folders; the layout is {split}/<class>/*")
    odd = sorted(set(classes["train"]) ^ set(classes["val"]))
    if odd:
        where = "train" if odd[0] in classes["train"] else "val"
        raise UserError(f"data.path={path}: class {odd[0]!r} is in {where}/ only ({len(odd)} such); both need the same")

    count, endings = 0, set()
    for name in classes[split]:
        suffixes = [os.path.splitext(entry.name)[1] for entry in os.scandir(root / split / name)]
        images = [suffix for suffix in suffixes if suffix.lower() in EXTENSIONS]
        if not images:
            raise UserError(f"{root / split / name}: class folder without images ({', '.join(EXTENSIONS)})")
        count += len(images)
        endings.update(images)
    return classes[split], count, endings


class ImageFolderLoader(Loader):
    """Training: a random crop of random size and shape, flipped half the time. Evaluation: the middle of the image.

    The augmentation of one epoch repeats exactly for the same seed only with ``data.workers=1``, because decoding
    threads take random numbers in the order in which they happen to run.
    """

    def __init__(self, config: DataConfig, split: str, *, rank: int = 0, size: int = 1, seed: int = 0):
        class_names, count, self._endings = scan(config.path, split)
        self._folder = os.path.join(config.path, split)
        self._config = config
        super().__init__(
            class_names=class_names,
            num_samples=count,
            batch_size=config.batch_size,
            split=split,
            rank=rank,
            size=size,
            seed=seed,
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of one epoch: see `Loader.epoch`.

        Raises:
            UserError: an image cannot be decoded; the message names it.
        """
        indices = self.indices(epoch)[start:]
        batches = self._read(indices[indices != PADDING], epoch)
        # Padding is always at the end, so it begins in the last batch read and fills the ones after it.
        for _ in indices:
            images, labels = next(batches, (self._blank(0), np.zeros(0, np.int32)))
            missing = self.batch_size - len(labels)
            if missing:
                images = np.concatenate([images, self._blank(missing)])
                labels = np.concatenate([labels, np.full(missing, PADDING, np.int32)])
            yield images, labels

    def _blank(self, count: int) -> np.ndarray:
        side = self._config.image_size
        return np.zeros((count, 3, side, side), np.float32)

    def _read(self, indices: np.ndarray, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decode the images at ``indices``, in this order, in batches of which the last may be short."""
        if not len(indices):
            return
        import mindspore.dataset as ds  # here, so that mistakes in the folder are told before the slow import

        seed = np.random.SeedSequence([self.seed, epoch, self.rank]).generate_state(1)[0]
        ds.config.set_seed(int(seed % 2**31))
        pipeline = ds.ImageFolderDataset(
            self._folder,
            num_parallel_workers=self._config.workers,
            sampler=ds.SubsetSampler(indices.tolist()),
            extensions=sorted(self._endings),
            class_indexing={name: label for label, name in enumerate(self.class_names)},
            decode=False,
        )
        pipeline = pipeline.map(self._transforms(), "image", num_parallel_workers=self._config.workers)
        pipeline = pipeline.batch(self.batch_size, drop_remainder=False, num_parallel_workers=1)
        try:
            yield from pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True)
        except RuntimeError as error:
            culprit = _CULPRIT.search(str(error))
            if culprit is None:
                raise
            raise UserError(f"image {culprit.group(1)} cannot be decoded: replace or remove it") from error

    def _transforms(self) -> list:
        from mindspore.dataset import vision

        config = self._config
        if self.train and config.augment:
            opening = [
                vision.RandomCropDecodeResize(
                    config.image_size, scale=(config.min_crop_area, 1.0), ratio=(3 / 4, 4 / 3)
                ),
                vision.RandomHorizontalFlip(),
            ]
        else:
            opening = [
                vision.Decode(),
                vision.Resize(round(config.image_size / config.eval_crop_ratio)),
                vision.CenterCrop(config.image_size),
            ]
        mean, std = ([255.0 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return [*opening, vision.Normalize(mean, std), vision.HWC2CHW()]
