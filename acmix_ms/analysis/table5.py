"""Table 5 of the paper, FPS of RetinaNet on one Ascend 910, beside the ratio that the roofline predicts.

Only ratios compare: the batch, the precision and the software of Table 5 are not stated. Its pairs are of different
size, an ACmix backbone beside a larger plain one of about the same mAP. The first is known by Table 4 (42.0 mAP is that
of PVT-ACmix-T), the second inferred from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mindspore import nn

from acmix_ms.analysis.reported import TABLE5_SIZE
from acmix_ms.analysis.roofline import FUSIONS, LABEL, OMITTED, find_device, predict_calls
from acmix_ms.analysis.trace import trace
from acmix_ms.backbone import layout


@dataclass(frozen=True)
class Pair:
    """Two rows of Table 5: names in the zoo, images a second as printed, how the first is known to be that model."""

    acmix: str
    plain: str
    acmix_fps: float
    plain_fps: float
    known: str

    @property
    def ratio(self) -> float:
        """Of the paper."""
        return self.acmix_fps / self.plain_fps


TABLE5 = (
    Pair("retinanet_acmix_pvt_tiny", "retinanet_pvt_small", 67.7, 50.3, "by its mAP in Table 4"),
    Pair("retinanet_acmix_pvt_small", "retinanet_pvt_large", 43.9, 24.3, "inferred from Table 4"),
)


def table5(
    build: Callable[[str], nn.Cell],
    batch: int = 1,
    device: str = "ascend910",
    precision: str = "fp16",
    image_size: int = TABLE5_SIZE,
    pairs: Iterable[Pair] = TABLE5,
) -> tuple[str, dict]:
    """Predicted ratios of Table 5, of the backbones alone and of the whole detectors, beside the paper's.

    Args:
        build: from a name of the zoo to the detector.
        batch: images at once; the paper does not state its own.
        device, precision: as of `predict`.
        image_size: side of the images in pixels; the paper's is 576.
        pairs: which rows.

    Returns:
        Text to print, and the same as JSON takes it.
    """
    name = find_device(device, precision).name
    rows, calls = [], {}
    for pair in pairs:
        for model in (pair.acmix, pair.plain):
            if model not in calls:
                net = build(model)
                whole, prefix = trace(net, (1, 3, image_size, image_size)), layout(net).prefix
                backbone = tuple(call for call in whole if call.name.startswith(prefix))
                calls[model] = {"backbone": backbone, "whole": whole}
        for part in ("backbone", "whole"):
            for fusion in FUSIONS:
                models = (pair.acmix, pair.plain)
                fps = [predict_calls(calls[m][part], batch, device, precision, fusion, m).fps for m in models]
                rows.append(_row(pair, part, fusion, *fps))
    title = f"Table 5 on {name}, {precision}, batch {batch}, images of {image_size}x{image_size}"
    header = f"{'pair':<47} {'counted':<20} {'predicted FPS':>17} {'prediction':>11} {'paper FPS':>13} {'paper':>6}"
    lines = [f"{title}: {LABEL}", header, *map(_line, rows), NOTE, OMITTED]
    data = {"label": LABEL, "device": device, "precision": precision, "batch": batch, "image_size": image_size}
    return "\n".join(lines) + "\n", {**data, "rows": rows}


NOTE = (
    "prediction and paper: speed of the ACmix model over the plain one. The paper's FPS are of whole detectors, its "
    "batch is not stated; box decoding and non-maximum suppression are not predicted. retinanet_acmix_pvt_small is "
    "inferred."
)


def _row(pair: Pair, part: str, fusion: str, acmix_fps: float, plain_fps: float) -> dict:
    predicted = {"predicted_fps": [acmix_fps, plain_fps], "predicted_ratio": acmix_fps / plain_fps}
    paper = {"paper_fps": [pair.acmix_fps, pair.plain_fps], "paper_ratio": pair.ratio, "known": pair.known}
    return {"acmix": pair.acmix, "plain": pair.plain, "part": part, "fusion": fusion, **predicted, **paper}


def _line(row: dict) -> str:
    names, counted = f"{row['acmix']} : {row['plain']}", f"{row['part']}, {row['fusion']}"
    predicted = " : ".join(f"{fps:.1f}" for fps in row["predicted_fps"])
    paper = " : ".join(f"{fps:.1f}" for fps in row["paper_fps"])
    ratios = f"{row['predicted_ratio']:.2f}", f"{row['paper_ratio']:.2f}"
    return f"{names:<47} {counted:<20} {predicted:>17} {ratios[0]:>11} {paper:>13} {ratios[1]:>6}"
