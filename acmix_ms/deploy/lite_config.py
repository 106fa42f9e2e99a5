"""What MindSpore Lite's converter is told about quantisation, in its own configuration file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from acmix_ms.deploy import lite_source
from acmix_ms.errors import UserError


def write(quantization: str | None, source: Path, calibration: np.ndarray | None, folder: Path) -> Path | None:
    """The configuration file for ``"weight"``, ``"full"`` or None, in ``folder``, with the images that it names.

    Raises:
        UserError: "full" without images, or not of an .onnx.
    """
    if quantization is None:
        return None
    sections = {"common_quant_param": {"quant_type": "WEIGHT_QUANT", "bit_num": 8}}
    if quantization == "full":
        if calibration is None or not len(calibration):
            raise UserError('quantization="full" needs calibration images (N, 3, H, W), 100 are usual')
        images = folder / "calibration"
        images.mkdir()
        for number, image in enumerate(calibration):
            np.ascontiguousarray(image[None], np.float32).tofile(images / f"{number:05}.bin")
        # Lite 2.0.0: bias correction runs the int8 net while it converts and hangs where that fails; its int8 kernel
        # of grouped convolutions refuses scales by channel, so those stay in float32.
        sections = {
            "common_quant_param": {"quant_type": "FULL_QUANT", "bit_num": 8},
            "data_preprocess_param": {
                "calibrate_path": f"{input_name(source)}:{images.resolve()}/",
                "calibrate_size": len(calibration),
                "input_type": "BIN",
            },
            "full_quant_param": {"activation_quant_method": "MAX_MIN", "bias_correction": "false"},
        }
        grouped = grouped_convolutions(source)
        if grouped:
            sections["common_quant_param"]["skip_quant_node"] = ",".join(grouped)
    lines = []
    for name, entries in sections.items():
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in entries.items())]
    file = folder / "quantization.cfg"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def input_name(source: Path) -> str:
    """What the net in an .onnx or .mindir calls its input.

    Raises:
        UserError: it is no such file.
    """
    if source.suffix == ".onnx":
        return lite_source.load(source).graph.input[0].name
    from acmix_ms.deploy import mindir

    return mindir.input_names(source)[0]


def grouped_convolutions(source: Path) -> list[str]:
    """The names of the convolutions of an .onnx that have groups.

    Raises:
        UserError: it is no ONNX file.
    """
    if source.suffix != ".onnx":
        raise UserError(f'{source}: quantization="full" needs an .onnx')
    nodes = [node for node in lite_source.load(source).graph.node if node.op_type == "Conv"]
    return [node.name for node in nodes if any(a.name == "group" and a.i > 1 for a in node.attribute)]
