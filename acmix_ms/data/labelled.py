"""Encoded images with a class each: what classification does to them."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from PIL import Image

from acmix_ms.config import DataConfig
from acmix_ms.data.augment import crop_box, jitter, parse_auto_augment, rand_augment
from acmix_ms.data.encoded import EncodedLoader
from acmix_ms.data.loader import PADDING
from acmix_ms.data.preprocess import preprocess_of, resampling, resized

AUGMENTING = 4  # a stream of random numbers, beside those of loader.py


class LabelledLoader(EncodedLoader):
    """Training: a random crop of random size and shape, flipped half the time. Evaluation: the middle of the image.

    Crop, flip and colours of an image are one of seed, epoch and its place in the epoch.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        *,
        class_names: list[str],
        num_samples: int,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
    ):
        self._auto_augment = parse_auto_augment(config.augment.auto_augment)
        self._preprocess = preprocess_of(config)
        super().__init__(
            config, split, class_names=class_names, num_samples=num_samples, rank=rank, size=size, seed=seed
        )

    @abstractmethod
    def read(self, sample: int) -> tuple[bytes, int]:
        """The encoded image and the class of a sample; see `EncodedLoader`."""

    def shape(self, samples: np.ndarray) -> tuple[int, int]:
        """The same for all batches."""
        return self._config.image_size, self._config.image_size

    def prepared(
        self, pixels: np.ndarray, known: int, out: np.ndarray, epoch: int, position: int
    ) -> tuple[np.ndarray, ...]:
        """The one target is the class; see `EncodedLoader`."""
        if self.augment:
            pixels = self._augmented(pixels, np.random.default_rng([self.seed, epoch, position, AUGMENTING]))
        else:
            pixels = self._preprocess.take_middle(pixels)
        self._preprocess.normalize(pixels, out)
        return (np.int32(known),)

    def absent(self) -> tuple[np.ndarray, ...]:
        """A label that no metric counts."""
        return (np.int32(PADDING),)

    def _augmented(self, pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 to (S, S, 3) uint8."""
        config, side = self._config, self._config.image_size
        top, left, height, width = crop_box(*pixels.shape[:2], config.augment.min_crop_area, random)
        # A copy first: both Pillow and MindSpore go through what is not contiguous pixel by pixel.
        pixels = np.ascontiguousarray(pixels[top : top + height, left : left + width])
        image = resized(pixels, side, side, config.interpolation, config.resize)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if config.augment.color_jitter:
            image = jitter(image, config.augment.color_jitter, random)
        if self._auto_augment:
            filling = tuple(round(255 * value) for value in self._preprocess.mean)
            image = rand_augment(image, self._auto_augment, resampling(config.interpolation), filling, random)
        return np.asarray(image)
