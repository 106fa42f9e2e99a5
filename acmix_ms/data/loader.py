"""What every loader promises: which sample comes when, for any number of processes, and batches of one shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.augment import Mixing, erase
from acmix_ms.errors import UserError

PADDING = -1  # as an index: no sample; as a label: not counted by any metric
ERASING, MIXING = 2, 3  # streams of random numbers; not 0, which numpy's seeding cannot tell from a shorter seed

T = TypeVar("T")


def batch_positions(
    num_samples: int, batch_size: int, *, train: bool, rank: int = 0, size: int = 1, repeated_aug: int = 1
) -> np.ndarray:
    """Which places of an epoch's order one process sees, (batches, batch_size) int64, `PADDING` where there is none.

    Training drops the incomplete last global batch, evaluation pads it. A global batch of ``size * batch_size`` is cut
    into ``size`` neighbouring parts, so that N processes with batch B see together exactly what one process with batch
    N*B sees. With repeated augmentation it is dealt out like cards instead, as DeiT does: the copies of an image, which
    are neighbours, go to different processes.
    """
    global_batch = size * batch_size
    batches = num_samples // global_batch if train else -(-num_samples // global_batch)
    positions = np.arange(batches * global_batch).reshape(batches, size, batch_size)
    if train and repeated_aug > 1:
        positions = positions.reshape(batches, batch_size, size).transpose(0, 2, 1)
    return np.where(positions < num_samples, positions, PADDING)[:, rank]


def batch_indices(
    num_samples: int,
    batch_size: int,
    *,
    train: bool,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    size: int = 1,
    repeated_aug: int = 1,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The samples of one epoch for one process, (batches, batch_size) int64, `PADDING` where there is none.

    Evaluation keeps the order. Training shuffles by (seed, epoch); with ``repeated_aug`` R each sample then comes R
    times in a row, and the epoch, which stays as long, has 1/R of them. With ``groups``, a number for each sample,
    every global batch is of one group: see `in_groups`.
    """
    order = np.arange(num_samples)
    if train:
        order = np.random.default_rng([seed, epoch]).permutation(num_samples)
        order = np.repeat(order[: -(-num_samples // repeated_aug)], repeated_aug)
    if groups is not None:
        order = in_groups(order, groups, size * batch_size, train=train)
        num_samples = len(order)
    positions = batch_positions(num_samples, batch_size, train=train, rank=rank, size=size, repeated_aug=repeated_aug)
    return np.where(positions == PADDING, PADDING, order[positions])


def in_groups(order: np.ndarray, groups: np.ndarray, global_batch: int, *, train: bool) -> np.ndarray:
    """The samples of ``order`` by global batches that are of one group each: (batches * global_batch,) int64.

    Batches come as they become full on a way through ``order``, mmdetection's AspectRatioBatchSampler. What is left of
    a group is dropped in training; in evaluation it is filled up with `PADDING` and comes where the group ends. How
    many batches there are depends on the sizes of the groups alone, so that all epochs have the same number.

    Args:
        order: samples.
        groups: (samples,), of each sample.
    """
    batches, full_at = [np.zeros((0, global_batch), np.int64)], [np.zeros(0, np.int64)]
    for group in np.unique(groups):
        places = np.flatnonzero(groups[order] == group)
        count = len(places) // global_batch if train else -(-len(places) // global_batch)
        members = np.full(count * global_batch, PADDING)
        members[: len(places)] = order[places][: len(members)]
        batches.append(members.reshape(count, global_batch))
        full_at.append(places[np.minimum(np.arange(1, count + 1) * global_batch, len(places)) - 1])
    return np.concatenate(batches)[np.argsort(np.concatenate(full_at))].ravel()


def prefetched(batches: Generator[T, None, None], ahead: int = 2) -> Iterator[T]:
    """The same, made by a thread while others are used, so many ahead. Close it where it is not used to its end."""
    pool, end = ThreadPoolExecutor(1), object()
    try:
        made = deque(pool.submit(next, batches, end) for _ in range(ahead))
        while (batch := made.popleft().result()) is not end:
            made.append(pool.submit(next, batches, end))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
        batches.close()


class Batch(NamedTuple):
    """What a loader yields, for any task: every batch has the same shapes.

    Attributes:
        images: (B, 3, H, W) float32.
        targets: what the loss and the evaluator of the task take.
        ids: (B,) int64, which samples of the split these are; `PADDING` where a place is empty.
    """

    images: np.ndarray
    targets: tuple[np.ndarray, ...]
    ids: np.ndarray


class Loader(ABC):
    """Batches of one split of one dataset. A kind of dataset gives `_batches`.

    Attributes:
        class_names: what label i is called.
        num_classes: how many.
        num_samples: images in the split, over all processes.
        soft_labels: labels are (B, classes) float32 shares instead of (B,) int32, because images are mixed.
        groups: (num_samples,), which samples may be in a batch together; None: all.
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
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.num_samples = num_samples
        self.groups = groups
        self.batch_size = config.batch_size
        self.train = split == "train"
        self.augment = config.augment.enabled and self.train
        self.repeated_aug = config.augment.repeated_aug if self.train else 1
        self.rank, self.size, self.seed = rank, size, seed
        self._reprob = config.augment.reprob if self.augment else 0.0
        self._mixing = Mixing.of(config.augment) if self.augment else None
        self.soft_labels = self._mixing is not None
        if not 0 <= rank < size:
            raise ValueError(f"rank={rank}: must be from 0 to size - 1 = {size - 1}")
        self._places = num_samples  # of an epoch's order
        if groups is not None:
            self._places = len(in_groups(np.arange(num_samples), groups, size * self.batch_size, train=self.train))
        if self.train and not len(self):
            most = num_samples if groups is None else np.bincount(groups, minlength=1).max()
            of = "" if groups is None else f", of which {most} have one shape"
            raise UserError(
                f"data.batch_size={self.batch_size}: too large for {num_samples} training images{of} on {size} "
                f"process(es); give at most {max(1, most // size)}"
            )

    def __len__(self) -> int:
        """Batches per epoch, the same for every process."""
        global_batch = self.size * self.batch_size
        return self._places // global_batch if self.train else -(-self._places // global_batch)

    @property
    def remedy(self) -> str:
        """What to do when training waits for this loader; empty if nothing can be done."""
        return ""

    def positions(self) -> np.ndarray:
        """Which places of an epoch's order this process sees: see `batch_positions`."""
        return batch_positions(
            self._places,
            self.batch_size,
            train=self.train,
            rank=self.rank,
            size=self.size,
            repeated_aug=self.repeated_aug,
        )

    def indices(self, epoch: int) -> np.ndarray:
        """Which samples epoch number ``epoch`` gives to this process: see `batch_indices`."""
        return batch_indices(
            self.num_samples,
            self.batch_size,
            train=self.train,
            seed=self.seed,
            epoch=epoch,
            rank=self.rank,
            size=self.size,
            repeated_aug=self.repeated_aug,
            groups=self.groups,
        )

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the `Batch`es of one epoch, from number ``start`` on, which are those of the whole epoch.

        In classification the one target is the labels: (B,) int32, of which -1 marks what does not count, or with
        mixup or cutmix (B, classes) float32, without label smoothing, which is the loss's.

        Raises:
            ValueError: ``start`` is beyond the epoch.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start={start}: must be from 0 to the {len(self)} batches of an epoch")
        indices = self.indices(epoch)
        for number, (images, targets) in enumerate(self._batches(indices, epoch, start), start):
            # A generator for each batch: what came before, in this process or another one, changes nothing.
            if self._reprob:
                images = erase(images, self._reprob, self._random(epoch, number, ERASING))
            if self._mixing:
                random = self._random(epoch, number, MIXING)
                images, *targets = self._mixing(images, *targets, self.num_classes, random)
            yield Batch(images, tuple(targets), indices[number])

    @abstractmethod
    def _batches(
        self, indices: np.ndarray, epoch: int, start: int
    ) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
        """Yield (images (B, 3, H, W) float32, targets) before erasing and mixing; classes are (labels (B,) int32,).

        ``indices`` are those of the whole epoch, see `indices`; the first batch wanted is number ``start``.
        """

    def _random(self, epoch: int, number: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, number, self.rank, purpose])

    def require_classes(self, wanted: int | None) -> int:
        """The number of classes, which is ``wanted`` unless that is None.

        Raises:
            UserError: the data have another number.
        """
        if wanted not in (None, self.num_classes):
            raise UserError(
                f"model.num_classes={wanted}, but the data have {self.num_classes} classes: "
                "leave model.num_classes out, then the data decide, or check data.path"
            )
        return self.num_classes
