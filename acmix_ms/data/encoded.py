"""Batches of encoded images, wherever these lie: threads decode, resize and augment them.

This file says what is done to them, in which order they come, and what becomes of those that are no images.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from acmix_ms.config import DataConfig
from acmix_ms.data.augment import crop_box, jitter, parse_auto_augment, rand_augment
from acmix_ms.data.images import UnreadableImageError, decode
from acmix_ms.data.loader import PADDING, Loader
from acmix_ms.data.preprocess import preprocess_of, resampling, resized
from acmix_ms.errors import UserError

AUGMENTING = 4  # a stream of random numbers, beside those of loader.py
BATCHES_AHEAD = 2  # are prepared while one is used
MAX_NEIGHBOURS = 100  # so many unreadable images in a row: the data are at fault, not an image
MAX_LISTED = 50


class EncodedLoader(Loader):
    """Training: a random crop of random size and shape, flipped half the time. Evaluation: the middle of the image.

    A kind of storage gives `read` and `name`.

    Crop, flip and colours of an image are one of seed, epoch and its place in the epoch, whatever the number of threads
    and processes. Decoding, resizing and arithmetic let other threads run, so that ``data.workers`` threads use as many
    cores.

    Unreadable images (``data.on_error=skip``) are told at the end of the epoch. In training the next one that can be
    read stands in for them, in evaluation they do not count.
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
        self._config = config
        self._auto_augment = parse_auto_augment(config.augment.auto_augment)
        self._preprocess = preprocess_of(config)
        self._unreadable: dict[int, str] = {}  # sample: why
        self._told: set[int] = set()
        super().__init__(
            config, split, class_names=class_names, num_samples=num_samples, rank=rank, size=size, seed=seed
        )

    @abstractmethod
    def read(self, sample: int) -> tuple[bytes, int]:
        """The encoded image and the class of a sample. Called by many threads.

        Raises:
            UnreadableImageError: it cannot be read.
        """

    @abstractmethod
    def name(self, sample: int) -> str:
        """What messages call a sample."""

    @property
    def unreadable(self) -> dict[str, str]:
        """The images met so far that could not be read, and why."""
        return {self.name(sample): reason for sample, reason in sorted(self._unreadable.copy().items())}

    @property
    def remedy(self) -> str:
        """More threads, as long as there are cores for them; see `Loader.remedy`."""
        cores = os.cpu_count() or 1
        if self._config.workers < cores:
            return f"raise data.workers, which is {self._config.workers} of {cores} cores"
        return f"the {cores} cores are all in use (data.workers), take a host with more"

    def load(self, sample: int) -> tuple[np.ndarray | None, int]:
        """(H, W, 3) uint8, the image that stands for ``sample``, and its class; None and `PADDING` for none."""
        if sample == PADDING:
            return None, PADDING
        for candidate in range(sample, sample + (MAX_NEIGHBOURS if self.train else 1)):
            candidate %= self.num_samples
            if candidate not in self._unreadable:
                try:
                    encoded, label = self.read(candidate)
                    return decode(encoded), label
                except UnreadableImageError as error:
                    self._unreadable[candidate] = str(error)
        return None, PADDING  # in training `_stop_if_hopeless` sees it

    def _batches(self, indices: np.ndarray, epoch: int, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pending: deque[tuple[np.ndarray, list[Future]]] = deque()
        pool = ThreadPoolExecutor(self._config.workers)
        try:
            for samples, positions in zip(indices[start:], self.positions()[start:]):
                pending.append(self._begin(pool, epoch, samples, positions))
                if len(pending) > BATCHES_AHEAD:
                    yield self._finished(*pending.popleft())
            while pending:
                yield self._finished(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
        self._tell()

    def _begin(
        self, pool: ThreadPoolExecutor, epoch: int, samples: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray, list[Future]]:
        """Let threads fill (B, 3, S, S) float32; their results are the labels."""
        images = np.empty((len(samples), 3, self._config.image_size, self._config.image_size), np.float32)
        pairs = zip(samples.tolist(), positions.tolist())
        return images, [pool.submit(self._fill, images[i], epoch, *pair) for i, pair in enumerate(pairs)]

    def _finished(self, images: np.ndarray, labels: list[Future]) -> tuple[np.ndarray, np.ndarray]:
        found = np.array([label.result() for label in labels], np.int32)
        self._stop_if_hopeless(found)
        return images, found

    def _fill(self, out: np.ndarray, epoch: int, sample: int, position: int) -> int:
        """Prepare one image as (3, S, S) float32; returns its label."""
        pixels, label = self.load(sample)
        if pixels is None:
            out[:] = 0.0
            return label
        if self.augment:
            pixels = self._augmented(pixels, np.random.default_rng([self.seed, epoch, position, AUGMENTING]))
        else:
            pixels = self._preprocess.take_middle(pixels)
        self._preprocess.normalize(pixels, out)
        return label

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

    def _stop_if_hopeless(self, labels: np.ndarray) -> None:
        if self._unreadable and self._config.on_error == "fail":
            name, reason = next(iter(self.unreadable.items()))
            raise UserError(f"image {name} cannot be read ({reason}): replace or remove it, or give data.on_error=skip")
        if self.train and (labels == PADDING).any():
            name, reason = next(iter(self.unreadable.items()))
            raise UserError(
                f"{min(MAX_NEIGHBOURS, self.num_samples)} training images in a row cannot be read, such as {name} "
                f"({reason}): check data.path={self._config.path}"
            )

    def _tell(self) -> None:
        """Print what could not be read, each image once."""
        count, new = len(self._unreadable), sorted(set(self._unreadable) - self._told)
        if not count or (self.train and not new):
            return
        what = "replaced by neighbours" if self.train else "not counted"
        listed = [f"{self.name(sample)} ({self._unreadable[sample]})" for sample in new[:MAX_LISTED]]
        more = [f"and {len(new) - MAX_LISTED} more"] if len(new) > MAX_LISTED else []
        names = ": " + ", ".join(listed + more) if new else ""
        print(f"{count} {'image' if count == 1 else 'images'} could not be read, {what}{names}", flush=True)
        self._told.update(new)
