"""ONNX files: written by MindSpore, finished here, run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acmix_ms import runtime
from acmix_ms.deploy import mindir
from acmix_ms.deploy.runner import LOGITS, Runner, require_images
from acmix_ms.errors import UserError
from acmix_ms.ops import kernels

if TYPE_CHECKING:
    import onnx
    from mindspore import nn

INPUT, BATCH = "images", "batch"
AXES = (BATCH, "channels", "height", "width")


def missing() -> str | None:
    """What is not installed and how to get it, or None."""
    absent = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed: pip install {' '.join(absent)}" if absent else None


def write(cell: nn.Cell, path: Path, shape: tuple[int | None, ...], names: Sequence[str] = (LOGITS,)) -> None:
    """Write ``cell`` as ONNX (opset 11) for inputs of ``shape``, None where any size will do. Needs graph mode.

    Args:
        names: of its outputs, tuples of tuples flattened.

    Raises:
        UserError: MindSpore cannot write one of its operators; those of this project's models it can.
    """
    import mindspore as ms
    import onnx

    dynamic = {i: AXES[i] for i, size in enumerate(shape) if size is None}
    options = {"input_names": [INPUT], "dynamic_axes": {INPUT: dynamic} if dynamic else None}
    with kernels.native(onnx=True), runtime.own_words():
        try:
            ms.onnx.export(cell, mindir.example(shape), file_name=str(path), **options)
        except RuntimeError as error:
            if "convert map" not in str(error):
                raise
            raise UserError(f"--format onnx: {str(error).splitlines()[0]} Give --format mindir") from error
    path.chmod(0o644)  # MindSpore leaves 0400
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == kernels.ERF_STAND_IN:
            node.op_type = "Erf"
    _drop_twins(model)
    _name_outputs(model, names)
    if shape[0] is None:
        for output in model.graph.output:
            output.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _drop_twins(model: onnx.ModelProto) -> None:
    """Leave each node there once: MindSpore writes the cast of a constant for each of the operators that take it."""
    kept: dict[bytes, onnx.NodeProto] = {node.SerializeToString(): node for node in model.graph.node}
    nodes = list(kept.values())
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Let the outputs of a graph have these names and the types that they really are of.

    MindSpore would name them, but loses the name where a Cast comes last, and what reads an output inside of the net
    keeps its old name; integers it calls int64 where it casts them to int32.
    """
    import onnx

    graph = model.graph
    untyped = onnx.ModelProto.FromString(model.SerializeToString())
    for output in untyped.graph.output:
        output.type.tensor_type.ClearField("elem_type")
    inferred = onnx.shape_inference.infer_shapes(untyped).graph.output
    old_names = [output.name for output in graph.output]
    made = {edge for node in graph.node for edge in node.output}
    for output, real, old, name in zip(graph.output, inferred, old_names, names):
        if real.type.tensor_type.elem_type:
            output.type.tensor_type.elem_type = real.type.tensor_type.elem_type
        if old_names.count(old) > 1 or old not in made:  # it goes out twice, or in and out
            graph.node.append(onnx.helper.make_node("Identity", [old], [name], name=f"{name}_copy"))
        else:
            for edges in (edges for node in graph.node for edges in (node.input, node.output)):
                for index in (index for index, edge in enumerate(edges) if edge == old):
                    edges[index] = name
        output.name = name


class Onnx(Runner):
    """The net in an ONNX file, run by ONNX Runtime on this machine's CPU, by ``threads`` threads (None: its choice)."""

    def __init__(
        self, path: str | os.PathLike, names: Sequence[str] | None = None, threads: int | None = None
    ):
        super().__init__(path, names)
        if missing():
            raise UserError(f"{path}: {missing()}")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what matters is raised
        options.intra_op_num_threads = threads or 0
        try:  # from memory: ONNX Runtime takes no file names that are not UTF-8
            self._session = onnxruntime.InferenceSession(
                self.path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except _refusals() as error:
            raise UserError(f"{path} cannot be loaded as ONNX, it is damaged or none: export it again") from error
        inputs = self._session.get_inputs()
        shapes = [[size if isinstance(size, int) and size > 0 else None for size in one.shape] for one in inputs]
        self._input_shape = require_images(path, shapes)
        if inputs[0].type != "tensor(float)":
            raise UserError(f"{path} takes {inputs[0].type}, not float32: give a file of export.py")

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """See `Runner`."""
        return self._input_shape

    def own_names(self, count: int) -> Sequence[str]:
        """See `Runner`."""
        return [output.name for output in self._session.get_outputs()]

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Runner`."""
        try:
            values = self._session.run(None, {self._session.get_inputs()[0].name: images})
        except _refusals() as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.path} cannot be run by ONNX Runtime ({reason}): export it again") from error
        if not all(isinstance(value, np.ndarray) for value in values):
            raise UserError(f"{self.path} gives other things than arrays of numbers: give a file of export.py")
        return tuple(values)


def _refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a file that it does not take; each status of its own has a class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    names = ("Fail", "InvalidProtobuf", "InvalidGraph", "InvalidArgument", "RuntimeException", "NotImplemented")
    return tuple(getattr(errors, name) for name in names)
