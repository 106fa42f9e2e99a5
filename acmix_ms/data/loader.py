"""What every loader promises: which sample comes when, for any number of processes, and batches of one shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from acmix_ms.errors import UserError

PADDING = -1  # as an index: no sample; as a label: not counted by any metric


def batch_indices(
    num_samples: int, batch_size: int, *, train: bool, seed: int = 0, epoch: int = 0, rank: int = 0, size: int = 1
) -> np.ndarray:
    """The samples of one epoch for one process, (batches, batch_size) int64, `PADDING` where there is none.

    Training shuffles by (seed, epoch) and drops the incomplete last global batch. Evaluation keeps the order and pads
    it. A global batch of ``size * batch_size`` is cut into ``size`` neighbouring parts, so that N processes with batch
    B see together exactly what one process with batch N*B sees.
    """
    global_batch = size * batch_size
    order = np.arange(num_samples)
    if train:
        order = np.random.default_rng([seed, epoch]).permutation(num_samples)
        order = order[: num_samples // global_batch * global_batch]
    batches = -(-len(order) // global_batch)
    padded = np.full(batches * global_batch, PADDING, np.int64)
    padded[: len(order)] = order
    return padded.reshape(batches, size, batch_size)[:, rank]


class Loader(ABC):
    """Batches of one split of one dataset.

    Attributes:
        class_names: what label i is called.
        num_classes: how many.
        num_samples: images in the split, over all processes.
    """

    def __init__(
        self, *, class_names: list[str], num_samples: int, batch_size: int, split: str, rank: int, size: int, seed: int
    ):
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.train = split == "train"
        self.rank, self.size, self.seed = rank, size, seed
        if not 0 <= rank < size:
            raise ValueError(f"rank={rank}: must be from 0 to size - 1 = {size - 1}")
        if self.train and num_samples < size * batch_size:
            raise UserError(
                f"data.batch_size={batch_size}: too large for {num_samples} training images on {size} process(es); "
                f"give at most {max(1, num_samples // size)}"
            )

    def __len__(self) -> int:
        """Batches per epoch, the same for every process."""
        global_batch = self.size * self.batch_size
        return self.num_samples // global_batch if self.train else -(-self.num_samples // global_batch)

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
        )

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (images (B, 3, H, W) float32, labels (B,) int32) of one epoch; a label of -1 marks padding.

        The first ``start`` batches are left out, and the others are what they would have been.
        """

    def require_classes(self, wanted: int | None) -> int:
        """The number of classes, which is ``wanted`` unless that is None.

        Raises:
            UserError: the data have another number.
        """
        if wanted not in (None, self.num_classes):
            raise UserError(
                f"model.num_classes={wanted}, but the data have {self.num_classes} classes: "
                f"give model.num_classes={self.num_classes}, or check data.path"
            )
        return self.num_classes
