"""Batches of encoded images, wherever these lie: `mindspore.dataset` decodes and augments them in parallel.

This file says what is done to them, in which order they come, and what becomes of those that are no images.
"""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from acmix_ms.config import DataConfig
from acmix_ms.data.augment import parse_auto_augment, rand_augment
from acmix_ms.data.images import UnreadableImageError
from acmix_ms.data.loader import PADDING, Loader
from acmix_ms.data.preprocess import preprocess_of
from acmix_ms.errors import UserError

CHUNK_IMAGES = 8192  # the random numbers start anew after so many images: what a resumed epoch replays at most
MAX_NEIGHBOURS = 100  # so many unreadable images in a row: the data are at fault, not an image
MAX_LISTED = 50


def _blank() -> np.ndarray:
    """A small black image, encoded: it holds the place of what is not counted."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "BMP")
    return np.frombuffer(file.getvalue(), np.uint8)


class _Source:
    """What a pipeline reads: (encoded image, label) of one sample after the other."""

    def __init__(self, loader: EncodedLoader, samples: np.ndarray):
        self._loader, self._samples = loader, samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.int32]:
        encoded, label, _ = self._loader.load(int(self._samples[position]))
        return encoded, np.int32(label)


class EncodedLoader(Loader):
    """Training: a random crop of random size and shape, flipped half the time. Evaluation: the middle of the image.

    A kind of storage gives `read` and `name`.

    Unreadable images (``data.on_error=skip``) are told at the end of the epoch. In training the next one that can be
    read stands in for them, in evaluation they do not count.

    The augmentation of one epoch repeats exactly for the same seed only with ``data.workers=1``, because decoding
    threads take random numbers in the order in which they happen to run. Erasing and mixing always repeat.
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
        self._config, self._split = config, split
        self._auto_augment = parse_auto_augment(config.augment.auto_augment)
        self._placeholder = _blank()
        self._unreadable: dict[int, str] = {}  # sample: why
        self._told: set[int] = set()
        super().__init__(
            config, split, class_names=class_names, num_samples=num_samples, rank=rank, size=size, seed=seed
        )

    @abstractmethod
    def read(self, sample: int) -> tuple[np.ndarray, int]:
        """The encoded image (n,) uint8 and the class of a sample. Called by many threads.

        Raises:
            UnreadableImageError: no image can be made of it.
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

    def load(self, sample: int) -> tuple[np.ndarray, int, int]:
        """The encoded image that stands for ``sample``, its class, and which sample it really is."""
        if sample == PADDING:
            return self._placeholder, PADDING, PADDING
        for candidate in range(sample, sample + (MAX_NEIGHBOURS if self.train else 1)):
            candidate %= self.num_samples
            if candidate not in self._unreadable:
                try:
                    return (*self.read(candidate), candidate)
                except UnreadableImageError as error:
                    self._unreadable[candidate] = str(error)
        return self._placeholder, PADDING, PADDING  # in training `_stop_if_hopeless` sees it

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        indices = self.indices(epoch)
        chunk = max(1, CHUNK_IMAGES // self.batch_size)
        number = start // chunk * chunk if self.augment else start  # without chance nothing needs to be replayed
        while number < len(indices):
            part = indices[number : number + chunk]
            for batch in self._chunk(part, [self.seed, epoch, number // chunk, self.rank]):
                if number >= start:
                    yield batch
                number += 1
        self._tell()

    def _chunk(self, indices: np.ndarray, seed: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of ``indices`` (n, batch_size), whose chance begins with ``seed``."""
        done = 0
        while done < len(indices):
            batches = self._pipeline(indices.ravel(), seed)
            try:
                for number, (images, labels) in enumerate(batches):
                    self._stop_if_hopeless(labels)
                    if number >= done:
                        done += 1
                        yield images, labels
            except RuntimeError as error:
                # An image that looked well and still cannot be decoded. The chunk is read again without it.
                if not self._find_undecodable(indices[done:].ravel()):
                    where = f"data.path={self._config.path}: MindSpore cannot prepare the images of {self._split}"
                    raise UserError(f"{where}: {error}") from error
            finally:
                batches.stop()

    def _pipeline(self, samples: np.ndarray, seed: list[int]) -> Any:
        """An iterator of (images (B, 3, S, S) float32, labels (B,) int32)."""
        import mindspore.dataset as ds  # here, so that mistakes in the data are told before the slow import

        ds.config.set_seed(int(np.random.SeedSequence(seed).generate_state(1)[0] % 2**31))
        workers = min(self._config.workers, os.cpu_count() or 1)  # MindSpore refuses more
        pipeline = ds.GeneratorDataset(
            _Source(self, samples),
            ["image", "label"],
            shuffle=False,
            num_parallel_workers=workers,
            python_multiprocessing=False,
        )
        pipeline = pipeline.map(self._transforms(), "image", num_parallel_workers=workers)
        pipeline = pipeline.batch(self.batch_size, num_parallel_workers=1)
        return pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True)

    def _transforms(self) -> list:
        from mindspore.dataset import vision

        config, prepare = self._config, preprocess_of(self._config)
        if not self.augment:
            return [vision.Decode(), *prepare.take_middle(), *prepare.normalize()]
        interpolation, middle = getattr(vision.Inter, config.interpolation.upper()), []
        jitter = config.augment.color_jitter
        if jitter:
            middle.append(vision.RandomColorAdjust(*(3 * [(1 - jitter, 1 + jitter)])))
        if self._auto_augment:
            filling = tuple(round(255 * value) for value in prepare.mean)
            middle.append(rand_augment(self._auto_augment, interpolation, filling))
        return [
            vision.RandomCropDecodeResize(
                config.image_size, (config.augment.min_crop_area, 1.0), (3 / 4, 4 / 3), interpolation
            ),
            vision.RandomHorizontalFlip(),
            *middle,
            *prepare.normalize(),
        ]

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

    def _find_undecodable(self, samples: np.ndarray) -> bool:
        """Note which of these samples MindSpore cannot decode; whether there is any."""
        from mindspore.dataset import vision

        known, decode = len(self._unreadable), vision.Decode()
        for sample in samples.tolist():
            encoded, _, used = self.load(sample)
            while used != PADDING:
                try:
                    decode(encoded)
                    break
                except RuntimeError:
                    self._unreadable[used] = "MindSpore cannot decode it"
                encoded, _, used = self.load(sample)
        return len(self._unreadable) > known

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
