"""What MindSpore Lite's converter is given of an ONNX file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from acmix_ms.errors import UserError

if TYPE_CHECKING:
    import onnx


def load(source: Path) -> onnx.ModelProto:
    """The net in an .onnx.

    Raises:
        UserError: there is none, or the package onnx is missing.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UserError(
            f"{source}: reading ONNX needs the package onnx; pip install 'acmix-mindspore[export]'"
        ) from error
    try:
        model = onnx.load(str(source), load_external_data=False)
    except DecodeError as error:
        raise UserError(f"{source} cannot be read as ONNX; export it again") from error
    if not model.graph.input:
        raise UserError(f"{source} cannot be read as ONNX: it has no input; export it again")
    return model


def with_own_weights(source: Path, folder: Path) -> Path:
    """``source``, or where convolutions share weights, as those of a detector's head do for all levels, an equal file
    in ``folder`` in which each has its own.

    Lite 2.0.0 lays weights out for the algorithm of a convolution, which depends on the size of its map, and lets all
    that share them read what one of them laid out: the others give wrong numbers without a word.

    Raises:
        UserError: see `load`.
    """
    model = load(source)
    constants, uses = {constant.name: constant for constant in model.graph.initializer}, Counter()
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        name = node.input[1]
        uses[name] += 1
        if name in constants and uses[name] > 1:
            copied = model.graph.initializer.add()
            copied.CopyFrom(constants[name])
            copied.name = node.input[1] = f"{name}.{uses[name]}"
    if max(uses.values(), default=0) < 2:
        return source
    import onnx

    path = folder / "source.onnx"
    onnx.save(model, str(path))
    return path
