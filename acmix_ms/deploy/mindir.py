"""MINDIR files that are read again: what they take, and the net that they hold."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from acmix_ms.config import DataConfig
from acmix_ms.errors import UserError

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import nn

SUFFIX = ".mindir"


def load(path: str | os.PathLike) -> nn.GraphCell:
    """The net that a file holds; it runs in graph mode only.

    Raises:
        UserError: the file is missing or cannot be loaded.
    """
    import mindspore as ms
    from mindspore import nn

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    try:
        return nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError) as error:
        raise _not_loadable(path) from error


def input_shapes(path: str | os.PathLike) -> list[tuple[int | None, ...]]:
    """The shapes of what the net in a file takes; None where any size will do.

    Raises:
        UserError: it is no MINDIR file.
    """
    from google.protobuf.message import DecodeError
    from mindspore.train.mind_ir_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(Path(path).read_bytes())
    except DecodeError as error:
        raise _not_loadable(path) from error
    return [tuple(size if size > 0 else None for size in given.tensor[0].dims) for given in model.graph.input]


def image_input(path: str | os.PathLike) -> tuple[int | None, int | None]:
    """Batch and side of the images that the net in a file takes; None where any will do.

    Raises:
        UserError: there is no such file, or it takes something else than square images.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    shapes = input_shapes(path)
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (None, 3) or shapes[0][2] != shapes[0][3]:
        raise UserError(f"{path} does not take square images (batch x 3 x side x side): give a file of export.py")
    return shapes[0][0], shapes[0][2]


def data_for(path: str | os.PathLike, data: DataConfig) -> DataConfig:
    """``data`` in the batches that the net in a file takes; evaluation fills the last one up.

    Raises:
        UserError: it takes images of another size, or something else than images.
    """
    shapes = input_shapes(path)
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (None, 3):
        said = " and ".join("x".join(str(size or "any") for size in shape) for shape in shapes) or "nothing"
        raise UserError(f"{path} takes {said}, not images (batch x 3 x height x width): give a file of export.py")
    ((batch, _, *sides),) = shapes
    if any(side not in (None, data.image_size) for side in sides):
        height, width = (side or "any" for side in sides)
        remedy = f"give data.image_size={height}, or " if height == width else ""
        raise UserError(
            f"{path} takes images of {height}x{width} pixels, but data.image_size={data.image_size}: "
            f"{remedy}export it again with --image-size {data.image_size}"
        )
    return dataclasses.replace(data, batch_size=batch or data.batch_size)


def predictor(graph: nn.GraphCell, path: str | os.PathLike, num_classes: int) -> Callable[[ms.Tensor], ms.Tensor]:
    """``images -> logits`` of a net that came from ``path``, for `acmix_ms.engine.evaluation.evaluate`.

    Raises:
        UserError: when it is called and the net has another number of classes.
    """

    def predict(images: ms.Tensor) -> ms.Tensor:
        logits = graph(images)
        if tuple(logits.shape) != (images.shape[0], num_classes):
            raise UserError(
                f"{path} gives {'x'.join(map(str, logits.shape[1:])) or 'no'} classes, the data have {num_classes}: "
                "give the data that it was trained on, or another file"
            )
        return logits

    return predict


def _not_loadable(path: str | os.PathLike) -> UserError:
    return UserError(f"{path} cannot be loaded as MINDIR; export it again")
