"""ONNX files: written by MindSpore, finished here, run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acmix_ms.deploy import mindir
from acmix_ms.deploy.runner import Runner
from acmix_ms.errors import UserError
from acmix_ms.ops import kernels

if TYPE_CHECKING:
    from mindspore import nn

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
AXES = (BATCH, "channels", "height", "width")


def missing() -> str | None:
    """What is not installed and how to get it, or None."""
    absent = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed: pip install {' '.join(absent)}" if absent else None


def write(cell: nn.Cell, path: Path, shape: tuple[int | None, ...]) -> None:
    """Write ``cell`` as ONNX (opset 11) for inputs of ``shape``, None where any size will do. Needs graph mode.

    Raises:
        UserError: MindSpore cannot write one of its operators; those of this project's models it can.
    """
    import mindspore as ms
    import onnx

    dynamic = {i: AXES[i] for i, size in enumerate(shape) if size is None}
    options = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_axes": {INPUT: dynamic} if dynamic else None}
    try:
        with kernels.native(onnx=True):
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
    if all(OUTPUT not in node.output for node in model.graph.node):  # MindSpore forgets the name where a Cast is last
        model.graph.node[-1].output[0] = OUTPUT
    if shape[0] is None:
        for output in model.graph.output:
            output.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class Onnx(Runner):
    """The net in an ONNX file, run by ONNX Runtime on this machine's CPU, by ``threads`` threads (None: its choice)."""

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        super().__init__(path)
        if missing():
            raise UserError(f"{path}: {missing()}")
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # what matters is raised
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.RuntimeException) as error:
            raise UserError(f"{path} cannot be loaded as ONNX, it is damaged or none: export it again") from error
        if len(self._session.get_inputs()) != 1 or len(self._session.get_outputs()) != 1:
            raise UserError(f"{path} does not take images to logits: give a file of export.py")

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """See `Runner`."""
        return tuple(size if isinstance(size, int) else None for size in self._session.get_inputs()[0].shape)

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `Runner`."""
        (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: images})
        return logits
