"""scikit-learn's handwritten digits: 1,797 real 8x8 images that come with the library, so nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

from acmix_ms.config import DataConfig
from acmix_ms.data.loader import PADDING, Loader
from acmix_ms.errors import UserError

MEAN, STD = 0.3055, 0.3240  # of the enlarged images on the scale 0..1
HELD_OUT_EVERY = 5  # every fifth image of each class is for validation

# Ranges of the training augmentation: a digit stays the digit it is.
MAX_SHIFT = 1.0  # pixels of the 8x8 image
MAX_ROTATION = 12.0  # degrees
MAX_ZOOM = 0.12  # factors 1 - 0.12 to 1 + 0.12


def split_indices(labels: np.ndarray, split: str) -> np.ndarray:
    """Positions of one split: the same share of every class, always the same images, whatever the seed."""
    position_in_class = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position_in_class[members] = np.arange(len(members))
    held_out = position_in_class % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return np.flatnonzero(held_out if split == "val" else ~held_out)


def sample_bilinear(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Read ``images`` (B, h, w) at the points ``y``, ``x`` (B, H, W), in pixels; 0 outside."""
    height, width = images.shape[1:]
    inside = (np.abs(y - (height - 1) / 2) <= height / 2) & (np.abs(x - (width - 1) / 2) <= width / 2)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    dy, dx = y - top, x - left
    image = np.arange(len(images))[:, None, None]
    above = images[image, top, left] * (1 - dx) + images[image, top, right] * dx
    below = images[image, bottom, left] * (1 - dx) + images[image, bottom, right] * dx
    return (above * (1 - dy) + below * dy) * inside


class DigitsLoader(Loader):
    """The digits enlarged to ``image_size`` (bilinear) in three equal channels, normalised.

    Training moves, turns and zooms each image a little. Enlarging and moving are one interpolation.
    """

    def __init__(self, config: DataConfig, split: str, *, rank: int = 0, size: int = 1, seed: int = 0):
        for key in ("auto_augment", "color_jitter"):
            value = getattr(config.augment, key)
            if value:
                raise UserError(f"data.augment.{key}={value}: is for data.name=imagefolder or mindrecord; leave it out")
        digits = load_digits()
        chosen = split_indices(digits.target, split)
        self._images = (digits.images[chosen] / 16.0).astype(np.float32)  # (n, 8, 8), 0..1
        self._labels = digits.target[chosen].astype(np.int32)
        self._image_size = config.image_size
        super().__init__(
            config,
            split,
            class_names=[str(name) for name in digits.target_names],
            num_samples=len(chosen),
            rank=rank,
            size=size,
            seed=seed,
        )

    def _batches(
        self, indices: np.ndarray, epoch: int, start: int
    ) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
        # Drawn for all samples at once and looked up by sample: the same for any batch size and number of processes.
        random = np.random.default_rng([self.seed, epoch, 1])
        draws = random.uniform(-1, 1, (self.repeated_aug, self.num_samples, 4))
        copies = self.positions() % self.repeated_aug  # the copies of a sample are neighbours in the epoch's order
        for samples, copy in zip(indices[start:], copies[start:]):
            images = self._transform(self._images[samples], draws[copy, samples])
            labels = np.where(samples == PADDING, PADDING, self._labels[samples])
            yield images, (labels.astype(np.int32),)

    def _transform(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """(B, 8, 8) and numbers in -1..1 (B, 4) to (B, 3, S, S)."""
        side, target = images.shape[-1], self._image_size
        # Pixel centres relative to the middle of the image, in source pixels: the usual half-pixel resize.
        grid = (np.arange(target) + 0.5) * side / target - side / 2
        y, x = np.broadcast_to(grid[:, None], (target, target)), np.broadcast_to(grid, (target, target))
        angle, zoom, shift_y, shift_x = np.zeros((4, len(images), 1, 1))
        if self.augment:
            angle = np.deg2rad(MAX_ROTATION) * draws[:, 0, None, None]
            zoom = MAX_ZOOM * draws[:, 1, None, None]
            shift_y, shift_x = (MAX_SHIFT * draws[:, i, None, None] for i in (2, 3))
        middle = side / 2 - 0.5
        source_y = (np.cos(angle) * y - np.sin(angle) * x) * (1 + zoom) + shift_y + middle  # (B, S, S)
        source_x = (np.sin(angle) * y + np.cos(angle) * x) * (1 + zoom) + shift_x + middle
        grey = (sample_bilinear(images, source_y, source_x) - MEAN) / STD
        return np.repeat(grey[:, None], 3, axis=1).astype(np.float32)  # (B, 3, S, S)
