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

LOGITS = "logits"  # the only output of a classifier
LARGEST_INPUT = 2**31  # numbers in one batch: more is a broken header, and filling it up would take all memory


class NotFiniteError(UserError):
    """A net answers with nan or infinity, which is no answer."""


class Runner(ABC):
    """``images (B, C, H, W) float32 -> named outputs, each (B, ...)`` of the net in a file, for any B.

    A kind of file gives `input_shape` and `run`. A classifier has one output, its logits: `__call__` and `predictor`
    are for it.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike, names: Sequence[str] | None = None):
        """``names`` of the outputs, in the net's order; by default those of the file, see `own_names`."""
        self.path, self._names = Path(path), names
        if not self.path.is_file():
            raise UserError(f"{path} does not exist")

    @property
    def names(self) -> Sequence[str]:
        """Of the outputs, where they were said; else none."""
        return self._names or ()

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int | None, ...]:
        """What the file takes, (B, C, H, W); None where any size will do."""

    @abstractmethod
    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """All outputs for one batch of a size that the file takes."""

    def own_names(self, count: int) -> Sequence[str]:
        """What the file calls its outputs, of which it has so many."""
        return default_names(count)

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run in the batches that the file takes, the last one filled up.

        Raises:
            UserError: the file takes images of another size, or its outputs are not what was said of them;
                `NotFiniteError` if there are nan or infinite numbers in them.
        """
        batch, *sizes = self.input_shape
        if any(size not in (None, given) for size, given in zip(sizes, images.shape[1:])):
            wanted = "x".join(str(size or "any") for size in sizes)
            raise UserError(f"{self.path} takes images of {wanted}, not {'x'.join(map(str, images.shape[1:]))}")
        size, parts = batch or len(images), []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = size - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
            parts.append([values[: len(part)] for values in self._checked(self.run(filled), size)])
        whole = [np.concatenate(values) for values in zip(*parts)]
        return self._named(whole)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The logits (B, classes) of a classifier.

        Raises:
            UserError: see `outputs`; the net is no classifier.
        """
        return self.only(self.outputs(images))

    def only(self, outputs: dict[str, np.ndarray]) -> np.ndarray:
        """The logits among ``outputs``.

        Raises:
            UserError: there is more or something else.
        """
        shapes = {name: values.shape[1:] for name, values in outputs.items()}
        if len(outputs) != 1 or any(len(shape) != 1 for shape in shapes.values()):
            said = " and ".join(f"{name} ({'x'.join(map(str, ('batch', *shape)))})" for name, shape in shapes.items())
            raise UserError(f"{self.path} gives {said}, not logits (batch x classes): it is no classifier")
        return next(iter(outputs.values()))

    def batches(self, batches: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The outputs for several batches."""
        return [self.outputs(batch) for batch in batches]

    def middle(self, images: np.ndarray) -> np.ndarray:
        """Of square pictures what a file for H != W takes; else they stay as they are."""
        height, width = self.input_shape[2:]
        if None in (height, width) or height == width or max(height, width) > min(images.shape[2:]):
            return images
        return middle(images, height, width)

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
            UserError: when it is called and the net has another number of classes, or gives nan.
        """
        import mindspore as ms

        def predict(images: ms.Tensor, *targets: np.ndarray) -> ms.Tensor:
            logits = self(images.asnumpy())
            if logits.shape != (len(images), num_classes):
                raise UserError(
                    f"{self.path} gives {'x'.join(map(str, logits.shape[1:])) or 'no'} classes, the data have "
                    f"{num_classes}: give the data that it was trained on, or another file"
                )
            return ms.Tensor(logits)

        return predict

    def _checked(self, values: Sequence[np.ndarray], batch: int) -> Sequence[np.ndarray]:
        for value in values:
            if value.ndim == 0 or len(value) != batch or value.dtype.kind not in "fiub":
                shape = "x".join(map(str, value.shape)) or "one number"
                raise UserError(
                    f"{self.path} gives {shape} ({value.dtype}) for {batch} images, not numbers for each: "
                    "give a file of export.py"
                )
        return values

    def _named(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        names = self._names or self.own_names(len(values))
        if len(names) != len(values):
            raise UserError(
                f"{self.path} has {len(values)} outputs, not {' and '.join(names)}: export it again, or give the "
                "description that belongs to it"
            )
        outputs = dict(zip(names, values))
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise NotFiniteError(
                    f"{self.path} gives numbers that are not finite ({name}): its weights are damaged, or it computes "
                    "in fewer bits than they need; export it again, with --precision fp32"
                )
        return outputs


class CellRunner(Runner):
    """A net that was built, with the weights of the checkpoint at ``path``; compiled once for one batch size."""

    def __init__(self, cell: nn.Cell, path: str | os.PathLike, batch: int, names: Sequence[str] | None = None):
        super().__init__(path, names)
        self._cell, self._batch = cell.set_train(False), batch

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """See `Runner`."""
        return self._batch, None, None, None

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Runner`."""
        return run_cell(self._cell, images)


def run_cell(cell: nn.Cell, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """All outputs of a Cell, see `arrays_in`."""
    import mindspore as ms

    try:
        return tuple(arrays_in(cell(ms.Tensor(images))))
    except TypeError as error:
        raise TypeError(f"a {type(cell).__name__} gives {error}") from error


def arrays_in(outputs) -> list[np.ndarray]:
    """A Tensor, or Tensors in tuples, in tuples by level and the like, in their order.

    Raises:
        TypeError: it is something else.
    """
    import mindspore as ms

    if isinstance(outputs, ms.Tensor):
        return [outputs.asnumpy()]
    if isinstance(outputs, (tuple, list)):
        return [array for part in outputs for array in arrays_in(part)]
    raise TypeError(f"a {type(outputs).__name__}, not Tensors or tuples of them")


def default_names(count: int) -> tuple[str, ...]:
    """Of outputs that nobody named."""
    return (LOGITS,) if count == 1 else tuple(f"output{number}" for number in range(count))


def middle(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of images: (..., H, W) -> (..., height, width)."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def require_images(path: str | os.PathLike, shapes: Sequence[Sequence[int | None]]) -> tuple[int | None, ...]:
    """The shape (B, C, H, W) of the only input of a file, of which these are all.

    Raises:
        UserError: it takes something else, or more than fits into memory.
    """
    said = " and ".join("x".join(str(size or "any") for size in shape) or "one number" for shape in shapes) or "nothing"
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UserError(f"{path} takes {said}, not images (batch x 3 x height x width): give a file of export.py")
    count = 1
    for size in shapes[0]:
        count *= size or 1
    if count > LARGEST_INPUT:
        raise UserError(f"{path} takes {said}, more than fits into memory: export it again for a smaller batch or size")
    return tuple(shapes[0])
