"""MINDIR files that are read again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acmix_ms import runtime
from acmix_ms.deploy.comparison import VerificationError
from acmix_ms.deploy.runner import Runner, require_images, run_cell
from acmix_ms.errors import UserError
from acmix_ms.ops import kernels

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import nn
    from mindspore.train.mind_ir_pb2 import ModelProto

FLOAT = 1  # float32, as a MINDIR names it


def example(shape: tuple[int | None, ...]) -> ms.Tensor:
    """The input that a graph for inputs of ``shape`` is compiled with; None where any size will do."""
    import mindspore as ms

    return ms.Tensor(shape=list(shape), dtype=ms.float32) if None in shape else ms.Tensor(np.zeros(shape, np.float32))


def write(cell, path: Path, shape: tuple[int | None, ...]) -> None:
    """Write ``cell`` as MINDIR for inputs of ``shape``, None where any size will do. Needs graph mode."""
    _export(cell, path, shape, "MINDIR")


def write_air(cell, path: Path, shape: tuple[int | None, ...]) -> None:
    """Write ``cell`` as AIR, on an Ascend host; its Parameters are constants afterwards. Needs graph mode.

    Raises:
        VerificationError: MindSpore has no AIR for an operator, wrote no file, or one without the weights.
    """
    weights = sum(value.nbytes for value in cell.get_parameters())
    _freeze(cell)
    with runtime.whole_graphs():
        try:
            _export(cell, path, shape, "AIR")
        except RuntimeError as error:
            raise VerificationError(
                f"MindSpore cannot write this net as AIR, its log names the operators ({_reason(error)}); "
                "give --format mindir or onnx"
            ) from error
    size = path.stat().st_size if path.is_file() else 0
    if size < weights:
        raise VerificationError(
            f"MindSpore wrote {size} bytes of AIR for {weights} bytes of weights; give --format mindir or onnx"
        )


def _freeze(cell) -> None:
    """Turn Parameters into constants: MindSpore 2.8 gives its exporter of AIR no values of Parameters, so that they
    would become inputs of the graph, and their numbers would be lost.
    """
    import mindspore as ms

    for _, part in cell.cells_and_names():
        for name, value in list(part._params.items()):
            if value is not None:
                del part._params[name]
                object.__setattr__(part, name, ms.Tensor(value.asnumpy()))


def _export(cell, path: Path, shape: tuple[int | None, ...], format: str) -> None:
    import mindspore as ms

    with kernels.native():  # the file may run on another device than this one
        ms.export(cell, example(shape), file_name=str(path), file_format=format)
    if path.is_file():
        path.chmod(0o644)  # MindSpore leaves 0400


def load(path: str | os.PathLike) -> nn.GraphCell:
    """The net that a file holds; it runs in graph mode only.

    Raises:
        UserError: missing file, or one that is truncated, encrypted or no MINDIR.
    """
    import mindspore as ms
    from mindspore import nn

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    if not str(path).isascii() and os.fsencode(path) != str(path).encode(errors="replace"):
        raise UserError(f"{path}: MindSpore reads no file whose name is not UTF-8; rename it")
    with runtime.own_words():
        try:
            return nn.GraphCell(ms.load(str(path)))
        except (RuntimeError, ValueError) as error:
            raise _not_loadable(path) from error


class Mindir(Runner):
    """The net in a MINDIR file, run by MindSpore on this process's device. Needs graph mode; see `load`."""

    def __init__(self, path: str | os.PathLike, names: Sequence[str] | None = None):
        super().__init__(path, names)
        self._net, self._input_shape = load(path), image_shape(path)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """See `Runner`."""
        return self._input_shape

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Runner`."""
        with runtime.own_words():
            try:
                return run_cell(self._net, images)
            except (RuntimeError, TypeError, ValueError) as error:
                reason = _reason(error)
                raise UserError(f"{self.path} cannot be run by MindSpore ({reason}): export it again") from error


def input_names(path: str | os.PathLike) -> list[str]:
    """What the net in a file calls what it takes.

    Raises:
        UserError: it is no MINDIR file.
    """
    return [given.name for given in parse(path).graph.input]


def parse(path: str | os.PathLike) -> ModelProto:
    """The content of a file.

    Raises:
        UserError: there is no such file, or it is no MINDIR.
    """
    from google.protobuf.message import DecodeError
    from mindspore.train.mind_ir_pb2 import ModelProto

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    model = ModelProto()
    try:
        model.ParseFromString(Path(path).read_bytes())
    except DecodeError as error:
        raise _not_loadable(path) from error
    return model


def image_shape(path: str | os.PathLike) -> tuple[int | None, ...]:
    """(B, C, H, W) of the images that the net in a file takes; None where any size will do.

    Raises:
        UserError: there is no such file, or it takes something else than images.
    """
    tensors = [tensor for given in parse(path).graph.input for tensor in given.tensor[:1]]
    if any(tensor.data_type != FLOAT for tensor in tensors):
        raise UserError(f"{path} takes other numbers than float32: give a file of export.py")
    return require_images(path, [[size if size > 0 else None for size in tensor.dims] for tensor in tensors])


def _reason(error: Exception) -> str:
    """The first of the lines that MindSpore says."""
    return (str(error).splitlines() or ["no reason given"])[0]


def _not_loadable(path: str | os.PathLike) -> UserError:
    return UserError(f"{path} cannot be loaded as MINDIR, it is truncated, encrypted or none: export it again")
