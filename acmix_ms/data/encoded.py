"""Batches of encoded images, wherever these lie and whatever is known of them: threads decode and prepare them.

This file says in which order they come, and what becomes of those that are no images.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.images import UnreadableImageError, decode
from acmix_ms.data.loader import PADDING, Batch, Loader
from acmix_ms.errors import UserError

BATCHES_AHEAD = 2  # are prepared while one is used
MAX_NEIGHBOURS = 100  # so many unreadable images in a row: the data are at fault, not an image
MAX_LISTED = 50


class EncodedLoader(Loader):
    """A kind of storage gives `read` and `name`; a task gives `shape`, `prepared` and `absent`.

    Decoding, resizing and arithmetic let other threads run, so that ``data.workers`` threads use as many
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
        groups: np.ndarray | None = None,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
    ):
        self._config = config
        self._unreadable: dict[int, str] = {}  # sample: why
        self._told: set[int] = set()
        super().__init__(
            config,
            split,
            class_names=class_names,
            num_samples=num_samples,
            groups=groups,
            rank=rank,
            size=size,
            seed=seed,
        )

    @abstractmethod
    def read(self, sample: int) -> tuple[bytes, Any]:
        """The encoded image of a sample, and what `prepared` is told of it. Called by many threads.

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

    @abstractmethod
    def shape(self, samples: np.ndarray) -> tuple[int, int]:
        """(height, width) of the arrays of a batch."""

    @abstractmethod
    def prepared(
        self, pixels: np.ndarray, known: Any, out: np.ndarray, epoch: int, position: int
    ) -> tuple[np.ndarray, ...]:
        """Turn (H, W, 3) uint8 into ``out`` (3, h, w) float32; returns the targets of this image.

        Chance is one of seed, epoch and ``position``, its place in the epoch, whatever the number of threads and
        processes. Called by many threads.
        """

    @abstractmethod
    def absent(self) -> tuple[np.ndarray, ...]:
        """Targets of a place of evaluation without an image."""

    def decoded(self, sample: int) -> tuple[np.ndarray, Any]:
        """(H, W, 3) uint8, and what `read` gave beside it.

        Raises:
            UnreadableImageError: there is no such image.
        """
        encoded, known = self.read(sample)
        return decode(encoded), known

    def load(self, sample: int) -> tuple[np.ndarray | None, Any]:
        """(H, W, 3) uint8, the image that stands for ``sample``, and what is known of it; None and `PADDING` for none.
        """
        if sample == PADDING:
            return None, PADDING
        for candidate in self._stand_ins(sample) if self.train else (sample,):
            if candidate not in self._unreadable:
                try:
                    return self.decoded(candidate)
                except UnreadableImageError as error:
                    self._unreadable[candidate] = str(error)
        return None, PADDING  # in training `_stop_if_hopeless` sees it

    def _stand_ins(self, sample: int) -> Iterator[int]:
        """The sample itself, then those behind it with which it may share a batch."""
        yield sample
        members = np.arange(self.num_samples)
        if self.groups is not None:
            members = np.flatnonzero(self.groups == self.groups[sample])
        following = np.searchsorted(members, sample) + np.arange(1, MAX_NEIGHBOURS)
        yield from members[following % len(members)].tolist()

    def _batches(
        self, indices: np.ndarray, epoch: int, start: int
    ) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
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
        """Let threads fill (B, 3, H, W) float32; their results are the targets."""
        images = np.empty((len(samples), 3, *self.shape(samples)), np.float32)
        pairs = zip(samples.tolist(), positions.tolist())
        return images, [pool.submit(self._fill, images[i], epoch, *pair) for i, pair in enumerate(pairs)]

    def _finished(self, images: np.ndarray, pending: list[Future]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        found = [targets.result() for targets in pending]
        self._stop_if_hopeless(None in found)
        return images, tuple(np.stack(arrays) for arrays in zip(*found))

    def _fill(self, out: np.ndarray, epoch: int, sample: int, position: int) -> tuple[np.ndarray, ...] | None:
        """Prepare one image as (3, H, W) float32; returns its targets, None where training has no image."""
        pixels, known = self.load(sample)
        if pixels is not None:
            return self.prepared(pixels, known, out, epoch, position)
        out[:] = 0.0
        return None if self.train else self.absent()

    def _stop_if_hopeless(self, missing: bool) -> None:
        if self._unreadable and self._config.on_error == "fail":
            name, reason = next(iter(self.unreadable.items()))
            raise UserError(f"image {name} cannot be read ({reason}): replace or remove it, or give data.on_error=skip")
        if missing:
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


class PlacedLoader(EncodedLoader):
    """A loader whose one target in evaluation is where the images lie, (B, 4) int32: height and width on the array,
    height and width of the original (`acmix_ms.data.canvas.Placement.row`).

    It is zero, and the id `PADDING`, where there is no image or where it could not be read: that image does not count.
    """

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """See `Loader`; in evaluation an image that could not be read has no id."""
        for batch in super().epoch(epoch, start):
            yield batch if self.train else batch._replace(ids=np.where(batch.targets[0].any(1), batch.ids, PADDING))

    def absent(self) -> tuple[np.ndarray, ...]:
        """No place at all."""
        return (np.zeros(4, np.int32),)
