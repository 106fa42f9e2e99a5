"""Images with objects, annotated in COCO's format.

``path/annotations/instances_train2017.json`` with ``path/train2017/*``, and the same of val2017, as COCO is
distributed; or, for sets of one's own, ``path/annotations/train.json`` with ``path/train/*``, and the same of val.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.annotations import ground_truth, read_annotations
from acmix_ms.data.canvas import Canvas, Placement, put
from acmix_ms.data.encoded import PlacedLoader
from acmix_ms.data.images import UnreadableImageError, read_bytes
from acmix_ms.data.loader import PADDING
from acmix_ms.data.preprocess import preprocess_of
from acmix_ms.errors import UserError
from acmix_ms.objects import Objects

PLACING, PREPARING = 5, 6  # streams of random numbers, beside those of loader.py and labelled.py

Prepare = Callable[[Objects, tuple[int, int], tuple[int, int], np.random.Generator], tuple[np.ndarray, ...]]


def find(path: str | None, split: str) -> tuple[Path, Path]:
    """(file of annotations, folder of images) of a split.

    Raises:
        UserError: they are not there.
    """
    if not path:
        raise UserError("data.path is not set: give the folder that holds annotations/, as data.path=FOLDER")
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"data.path={path}: no such folder")
    layouts = [(root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"),
               (root / "annotations" / f"{split}.json", root / split)]  # fmt: skip
    found = [layout for layout in layouts if layout[0].exists()]
    if not found:
        raise UserError(
            f"data.path={path}: holds neither annotations/{layouts[0][0].name} nor annotations/{layouts[1][0].name}"
        )
    if not found[0][1].is_dir():
        raise UserError(f"data.path={path}: holds no folder {found[0][1].name!r}, the images of {found[0][0].name}")
    return found[0]


class CocoLoader(PlacedLoader):
    """Images on canvases, see `acmix_ms.data.canvas`; all images of a global batch lie on canvases of one shape.

    In training the targets are what ``prepare`` makes of the objects of each image, stacked. The images are those with
    objects; at most ``data.canvas.max_objects`` of one are used, the largest.

    In evaluation see `PlacedLoader` and `boxes_in_image`.

    Crop, size and flip of an image, and what ``prepare`` draws, are one of seed, epoch and its place in the epoch.

    Attributes:
        prepare: `Detector.prepare`; may also be set before the first epoch. Called by many threads.
        masks: objects have masks.
        canvas: the rules for images.
        category_ids: (classes,), what the file calls the classes.
        image_ids: (num_samples,), what it calls the samples.
        dataset_json: the file.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        *,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        prepare: Prepare | None = None,
        masks: bool = False,
    ):
        self.canvas = Canvas.of(config.canvas)
        self.prepare, self.masks = prepare, masks
        self.dataset_json, self._folder = find(config.path, split)
        self._preprocess = preprocess_of(config)
        train = split == "train"
        self._annotations = read_annotations(self.dataset_json, train=train, masks=masks and train)
        self.category_ids, self.image_ids = self._annotations.category_ids, self._annotations.image_ids
        super().__init__(
            config,
            split,
            class_names=self._annotations.class_names,
            num_samples=len(self._annotations),
            groups=self.canvas.groups(*self._annotations.sizes.T),
            rank=rank,
            size=size,
            seed=seed,
        )
        self._crowded = 0  # training images of which objects are left out; told once
        if train:
            counts = np.add.reduceat(~self._annotations.ignored, self._annotations.first[:-1], dtype=np.int64)
            self._crowded = int((counts > config.canvas.max_objects).sum())

    def ground_truth(self, *, masks: bool = False) -> Any:
        """pycocotools' ``COCO`` object of the whole file, which is read again; see `annotations.ground_truth`."""
        return ground_truth(self.dataset_json, masks=masks)

    def read(self, sample: int) -> tuple[bytes, int]:
        """The file of a sample, and the sample itself; see `EncodedLoader`."""
        return read_bytes(self.name(sample)), sample

    def name(self, sample: int) -> str:
        """The file of a sample."""
        return os.path.join(self._folder, self._annotations.files[sample])

    def decoded(self, sample: int) -> tuple[np.ndarray, int]:
        """See `EncodedLoader`; an image of another size than that of its boxes is none."""
        pixels, known = super().decoded(sample)
        wanted = tuple(self._annotations.sizes[sample].tolist())
        if pixels.shape[:2] != wanted:
            (height, width), said = pixels.shape[:2], f"{wanted[1]} x {wanted[0]}"
            raise UnreadableImageError(f"{width} x {height} pixels, but {self.dataset_json.name} says {said}")
        return pixels, known

    def shape(self, samples: np.ndarray) -> tuple[int, int]:
        """That of the canvas of the batch; where this process has no image of it, that of the first canvas."""
        first = samples[0]
        return self.canvas.shape(bool(first != PADDING and self.groups[first]))

    def prepared(
        self, pixels: np.ndarray, known: int, out: np.ndarray, epoch: int, position: int
    ) -> tuple[np.ndarray, ...]:
        """See `EncodedLoader`; ``known`` is the sample that the image is of."""
        config, (height, width) = self._config, pixels.shape[:2]
        if self.train:
            place = self.canvas.draw(height, width, np.random.default_rng([self.seed, epoch, position, PLACING]))
        else:
            place = self.canvas.place(height, width)
        put(place.picture(pixels, config.interpolation, config.resize), self._preprocess.normalize, out)
        if not self.train:
            return (place.row(),)
        if self.prepare is None:
            raise ValueError("prepare: training needs what makes targets of objects, such as a detector's prepare")
        random = np.random.default_rng([self.seed, epoch, position, PREPARING])
        return tuple(self.prepare(self.objects(known, place), place.canvas, place.size, random))

    def _tell(self) -> None:
        super()._tell()
        if self._crowded:
            most = self._config.canvas.max_objects
            print(f"{self._crowded} images have more than data.canvas.max_objects={most} objects, the largest are used")
            self._crowded = 0

    def objects(self, sample: int, place: Placement) -> Objects:
        """What is in an image, as it lies on its canvas; what lies outside of it is left out."""
        found = self._annotations
        members = np.arange(found.first[sample], found.first[sample + 1])
        boxes = place.boxes(found.boxes[members])
        sides = boxes[:, 2:] - boxes[:, :2]
        there, ignored = (sides > 0).all(1), found.ignored[members]
        chosen = np.flatnonzero(there & ~ignored)
        most = self._config.canvas.max_objects
        if len(chosen) > most:  # in their order, which decides between equals
            chosen = np.sort(chosen[np.argsort(-sides[chosen].prod(1), kind="stable")[:most]])
        masks = None
        if self.masks:
            masks = np.zeros((len(chosen), *place.canvas), np.uint8)
            for mask, member in zip(masks, members[chosen]):
                mask[: place.size[0], : place.size[1]] = found.outlines.draw(found.outline_of[member], place)
        return Objects(boxes[chosen], found.labels[members[chosen]], boxes[there & ignored], masks)
