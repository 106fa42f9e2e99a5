"""Images whose pixels have classes: crops that train, and whole images that are judged. The rules are mmsegmentation's.

Labels go with the training crops only: evaluation compares answers with labels as they are in their files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from acmix_ms.config import DataConfig
from acmix_ms.data import pairs
from acmix_ms.data.canvas import FLIP, Crop, Placement, Size, put, ratio_for, scaled
from acmix_ms.data.encoded import PlacedLoader
from acmix_ms.data.images import UnreadableImageError, read_bytes, stored_size
from acmix_ms.data.loader import PADDING
from acmix_ms.data.preprocess import Preprocess, preprocess_of
from acmix_ms.errors import UserError
from acmix_ms.maps import IGNORED

CROPPING, COLOURING = 7, 8  # streams of random numbers, beside those of loader.py, labelled.py and coco.py
ATTEMPTS = 10  # to find a crop that is not of one class
ALIGNED = 32  # pixels: the sides of whole images are multiples, as the authors of PVT have it
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18.0  # the last one of 180 for the circle


@dataclass(frozen=True)
class WholeReader:
    """What evaluation does to a picture: resized with about its ratio, so that it fills sides that are multiples of
    `ALIGNED`.

    Attributes:
        short_side, max_side: of the picture before its sides are rounded up; the latter None: any.
        preprocess: whose steps for pixels follow.
        within: (height, width), multiples of `ALIGNED`, that no picture exceeds, such as those that a file takes: what
            would be larger is scaled down.
    """

    short_side: int
    max_side: int | None
    preprocess: Preprocess
    within: Size | None = None

    @classmethod
    def of(cls, config: DataConfig, within: Size | None = None) -> WholeReader:
        """As the validation loader of ``config`` does it.

        Raises:
            UserError: a key without which there is no size is not given.
        """
        if not config.canvas.short_sides:
            raise UserError("data.canvas.short_sides is not set: give it, as data.canvas.short_sides=[512]")
        return cls(max(config.canvas.short_sides), config.canvas.max_side, preprocess_of(config), within)

    def size(self, original: Size) -> Size:
        """(height, width) of a picture once it is resized."""
        ratio = ratio_for(original, self.short_side, self.max_side)
        if self.within:
            ratio = min(ratio, *(most / side for most, side in zip(self.within, original)))
        height, width = (-(-side // ALIGNED) * ALIGNED for side in scaled(original, ratio))
        return height, width

    def __call__(self, path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
        """(3, h, w) float32, and the row (4,) of its `Placement`.

        Raises:
            UserError: there is no image in the file that can be read.
        """
        return self.placed(self.preprocess.pixels(path))

    def placed(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of (H, W, 3) uint8."""
        size, steps = self.size(pixels.shape[:2]), self.preprocess
        place, out = Placement(pixels.shape[:2], size, size), np.empty((3, *size), np.float32)
        put(place.picture(pixels, steps.interpolation, steps.resize_method), steps.normalize, out)
        return out, place.row()


class SegmentLoader(PlacedLoader):
    """In training crops of one size; the target are labels (B, H, W) int32, `IGNORED` where a pixel does not count.

    In evaluation whole images, resized with about their ratio, so that they fill arrays whose sides are multiples of
    `ALIGNED`; all images of a global batch have one such size. The target tells the original size, see `PlacedLoader`.

    Size, crop, flip and colours of an image are one of seed, epoch and its place in the epoch.

    Args:
        within: see `WholeReader`.

    Attributes:
        pairs: the files.
        crop: (height, width) of what trains.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        *,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        within: Size | None = None,
    ):
        for name, example in (("height", "512"), ("width", "512"), ("short_sides", "[512]")):
            if not getattr(config.canvas, name):
                raise UserError(f"data.canvas.{name} is not set: give it, as data.canvas.{name}={example}")
        self.pairs = pairs.find(config, split)
        self.crop: Size = (config.canvas.height, config.canvas.width)
        self._preprocess = preprocess_of(config)
        self._short_side, self._max_side = max(config.canvas.short_sides), config.canvas.max_side
        self._whole = WholeReader.of(config, within)
        groups, self._sizes = None, [self.crop]
        if split != "train":
            found = [self.whole(stored_size(path) or self.crop) for path in self.pairs.labels]
            self._sizes = sorted(set(found))
            groups = np.array([self._sizes.index(each) for each in found])
        super().__init__(
            config,
            split,
            class_names=self.pairs.class_names,
            num_samples=len(self.pairs.images),
            groups=groups,
            rank=rank,
            size=size,
            seed=seed,
        )

    def whole(self, size: Size) -> Size:
        """What evaluation resizes an image to."""
        return self._whole.size(size)

    def read(self, sample: int) -> tuple[bytes, int]:
        """The file of a sample, and the sample itself; see `EncodedLoader`."""
        return read_bytes(self.name(sample)), sample

    def name(self, sample: int) -> str:
        """The file of a sample."""
        return self.pairs.images[sample]

    def labels(self, sample: int) -> np.ndarray:
        """Those of a sample, (H, W) uint8, see `pairs.read_labels`."""
        return pairs.read_labels(self.pairs.labels[sample], self.num_classes, self.pairs.zero_ignored)

    def decoded(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """See `EncodedLoader`; beside the image its labels. An image of another size than these is none."""
        pixels, _ = super().decoded(sample)
        try:
            labels = self.labels(sample)
        except UnreadableImageError as error:
            raise UnreadableImageError(f"label image {self.pairs.labels[sample]}: {error}") from error
        if pixels.shape[:2] != labels.shape:
            (height, width), (high, wide) = pixels.shape[:2], labels.shape
            raise UnreadableImageError(f"{width} x {height} pixels, but its label image has {wide} x {high}")
        return pixels, labels

    def shape(self, samples: np.ndarray) -> Size:
        """Of the batch; where this process has no image of it, the least that there is."""
        if self.train:
            return self.crop
        first = samples[0]
        return self._sizes[0 if first == PADDING else self.groups[first]]

    def prepared(
        self, pixels: np.ndarray, known: np.ndarray, out: np.ndarray, epoch: int, position: int
    ) -> tuple[np.ndarray, ...]:
        """See `EncodedLoader`; ``known`` are the labels."""
        config = self._config
        if not self.train:
            size = out.shape[1:]
            place = Placement(pixels.shape[:2], size, size)
            put(place.picture(pixels, config.interpolation, config.resize), self._preprocess.normalize, out)
            return (place.row(),)
        place = self.draw(known, np.random.default_rng([self.seed, epoch, position, CROPPING]))
        picture = place.picture(pixels, config.interpolation, config.resize)
        if config.segments.photometric:
            picture = recoloured(picture, np.random.default_rng([self.seed, epoch, position, COLOURING]))
        put(picture, self._preprocess.normalize, out)
        labels = np.full(self.crop, IGNORED, np.int32)
        labels[: place.size[0], : place.size[1]] = place.chart(known)
        return (labels,)

    def draw(self, labels: np.ndarray, random: np.random.Generator) -> Placement:
        """Where training puts an image with these labels: resized, cropped, perhaps mirrored."""
        config, original = self._config, labels.shape
        scale = random.uniform(*config.segments.scales)
        longest = None if self._max_side is None else max(int(self._max_side * scale), 1)
        size = scaled(original, ratio_for(original, max(int(self._short_side * scale), 1), longest))
        sides = tuple(map(min, size, self.crop))
        flipped = bool(random.random() < (FLIP if config.canvas.flip is None else config.canvas.flip))
        for _ in range(ATTEMPTS):
            top, left = (int(random.integers(own - side + 1)) for own, side in zip(size, sides))
            place = Placement(original, sides, self.crop, flipped, Crop(size, top, left, *sides))
            if not mostly_of_one_class(place.chart(labels), config.segments.cat_max_ratio):
                break
        return place


def mostly_of_one_class(labels: np.ndarray, most: float) -> bool:
    """Whether one class has a share of at least ``most`` of the pixels that have a class, or is the only one."""
    counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)[:IGNORED]
    return most < 1 and (np.count_nonzero(counts) < 2 or counts.max() >= most * counts.sum())


def recoloured(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8, varied as mmsegmentation's PhotoMetricDistortion does: each step in half of the images."""
    picture = np.ascontiguousarray(picture)
    if random.random() < 0.5:
        picture = _clipped(picture + np.float32(random.uniform(-BRIGHTNESS, BRIGHTNESS)))
    contrast_first = random.random() < 0.5
    if contrast_first:
        picture = _contrasted(picture, random)
    saturated, turned = random.random() < 0.5, random.random() < 0.5
    if saturated or turned:
        hue, saturation, value = Image.fromarray(picture).convert("HSV").split()
        if saturated:
            factor = np.float32(random.uniform(*SATURATION))
            saturation = Image.fromarray(_clipped(np.asarray(saturation) * factor))
        if turned:
            shift = int(round(random.uniform(-HUE, HUE) * 256 / 180))
            hue = Image.fromarray(((np.asarray(hue).astype(np.int16) + shift) % 256).astype(np.uint8))
        picture = np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))
    return picture if contrast_first else _contrasted(picture, random)


def _contrasted(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _clipped(picture * np.float32(random.uniform(*CONTRAST))) if random.random() < 0.5 else picture


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)
