"""Nets in files, run alike whatever the format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acmix_ms.errors import UserError

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import nn


class Runner(ABC):
    """``images (B, C, H, W) float32 -> logits (B, classes) float32`` of the net in a file, for any B.

    A kind of file gives `input_shape` and `run`.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path} does not exist")

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int | None, ...]:
        """What the file takes, (B, C, H, W); None where any size will do."""

    @abstractmethod
    def run(self, images: np.ndarray) -> np.ndarray:
        """The answer to one batch of a size that the file takes."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Run in the batches that the file takes, the last one filled up.

        Raises:
            UserError: the file takes images of another size.
        """
        batch, *sizes = self.input_shape
        if any(size not in (None, given) for size, given in zip(sizes, images.shape[1:])):
            wanted = "x".join(str(size or "any") for size in sizes)
            raise UserError(f"{self.path} takes images of {wanted}, not {'x'.join(map(str, images.shape[1:]))}")
        if batch is None:
            return self.run(images)
        answers = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            missing = batch - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
            answers.append(self.run(filled)[: len(part)])
        return np.concatenate(answers)

    def batches(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The answers to several batches."""
        return [self(batch) for batch in batches]

    def check_size(self, image_size: int) -> None:
        """See that the file takes images of this size.

        Raises:
            UserError: of another one, or something else than RGB.
        """
        _, channels, *sides = self.input_shape
        if channels not in (None, 3):
            raise UserError(f"{self.path} takes {channels} channels, not the 3 of an image")
        if any(side not in (None, image_size) for side in sides):
            height, width = (side or "any" for side in sides)
            remedy = f"give data.image_size={height}, or " if height == width else ""
            raise UserError(
                f"{self.path} takes images of {height}x{width} pixels, but data.image_size={image_size}: "
                f"{remedy}export it again with --image-size {image_size}"
            )

    def predictor(self, num_classes: int) -> Callable[[ms.Tensor], ms.Tensor]:
        """``images -> logits`` for `acmix_ms.engine.evaluation.evaluate`.

        Raises:
            UserError: when it is called and the net has another number of classes.
        """
        import mindspore as ms

        def predict(images: ms.Tensor) -> ms.Tensor:
            logits = self(images.asnumpy())
            if logits.shape != (len(images), num_classes):
                raise UserError(
                    f"{self.path} gives {'x'.join(map(str, logits.shape[1:])) or 'no'} classes, the data have "
                    f"{num_classes}: give the data that it was trained on, or another file"
                )
            return ms.Tensor(logits)

        return predict


class CellRunner(Runner):
    """A net that was built, with the weights of the checkpoint at ``path``; compiled once for one batch size."""

    def __init__(self, cell: nn.Cell, path: str | os.PathLike, batch: int):
        super().__init__(path)
        self._cell, self._batch = cell.set_train(False), batch

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """See `Runner`."""
        return self._batch, None, None, None

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `Runner`."""
        import mindspore as ms

        return self._cell(ms.Tensor(images)).asnumpy()
