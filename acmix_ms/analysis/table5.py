"""Table 5 of the paper, FPS of RetinaNet on one Ascend 910, beside the ratio that the roofline predicts.

Only ratios compare: the batch, the precision and the software of Table 5 are not stated. Its pairs are of different
size, an ACmix backbone beside a larger plain one of about the same mAP. The first is known by Table 4 (42.0 mAP is that
of PVT-ACmix-T), the second inferred from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mindspore import nn

from acmix_ms.analysis.roofline import FUSIONS, LABEL, OMITTED, find_device, predict_calls
from acmix_ms.analysis.trace import trace
from acmix_ms.analysis.work import Work, convolution, passes

IMAGE_SIZE = 576
PYRAMID, CLASSES, ANCHORS, TOWER = 256, 80, 9, 4  # RetinaNet for COCO: channels, outputs, convolutions of a tower


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
    Pair("acmix_pvt_tiny", "pvt_small", 67.7, 50.3, "by its mAP in Table 4"),
    Pair("acmix_pvt_small", "pvt_large", 43.9, 24.3, "inferred from Table 4"),
)


def table5(
    build: Callable[[str], nn.Cell],
    batch: int = 1,
    device: str = "ascend910",
    precision: str = "fp16",
    image_size: int = IMAGE_SIZE,
    pairs: Iterable[Pair] = TABLE5,
) -> tuple[str, dict]:
    """Predicted ratios of Table 5, of the backbones alone and with RetinaNet around them, beside the paper's.

    Args:
        build: from a name of the zoo to the backbone, without its classifier, that gives four maps and has
            ``feature_channels``.
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
                calls[model] = trace(net, (1, 3, image_size, image_size)), tuple(net.feature_channels)
        for part in ("backbone", "RetinaNet"):
            for fusion in FUSIONS:
                fps = []
                for model in (pair.acmix, pair.plain):
                    found, channels = calls[model]
                    more = retinanet(channels[1:], batch, image_size) if part == "RetinaNet" else []
                    fps.append(predict_calls(found, batch, device, precision, fusion, model, *more).fps)
                rows.append(_row(pair, part, fusion, *fps))
    title = f"Table 5 on {name}, {precision}, batch {batch}, images of {image_size}x{image_size}"
    header = f"{'pair':<30} {'counted':<20} {'predicted FPS':>17} {'prediction':>11} {'paper FPS':>13} {'paper':>6}"
    lines = [f"{title}: {LABEL}", header, *map(_line, rows), NOTE, OMITTED]
    data = {"label": LABEL, "device": device, "precision": precision, "batch": batch, "image_size": image_size}
    return "\n".join(lines) + "\n", {**data, "rows": rows}


MEASURED_HEADER = ("ACmix", "img/s", "plain", "img/s", "ratio", "paper: FPS", "paper: ratio", "pair known")
MEASURED_TITLE = (
    "Table 5 (paper: whole detectors on one Ascend 910, batch not stated; here: the backbones as classifiers)"
)


def measured(fps: Callable[[str], float | None], pairs: Iterable[Pair] = TABLE5) -> list[tuple[str, ...]]:
    """Rows under `MEASURED_HEADER`.

    Args:
        fps: from a name of the zoo to the images per second that were measured; None where that failed.
        pairs: which rows.
    """
    rows = []
    for pair in pairs:
        ours = fps(pair.acmix), fps(pair.plain)
        said = [f"{one:.1f}" if one else "failed" for one in ours]
        ratio = f"{ours[0] / ours[1]:.2f}" if all(ours) else "-"
        paper = f"{pair.acmix_fps} : {pair.plain_fps}"
        rows.append((pair.acmix, said[0], pair.plain, said[1], ratio, paper, f"{pair.ratio:.2f}", pair.known))
    return rows


NOTE = (
    "prediction and paper: speed of the ACmix model over the plain one. The paper's FPS are of whole detectors, its "
    "batch is not stated; box decoding and non-maximum suppression are not predicted. acmix_pvt_small is inferred."
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
    return f"{names:<30} {counted:<20} {predicted:>17} {ratios[0]:>11} {paper:>13} {ratios[1]:>6}"


def retinanet(channels: tuple[int, int, int], batch: int, image_size: int) -> list[Work]:
    """The work of RetinaNet above the maps C3, C4, C5 of a backbone: pyramid P3 to P7 and both towers for every level.

    As in its paper with 256 channels, 4 convolutions in a tower, 9 anchors, 80 classes; P6 is made from C5.
    """
    sides = [image_size // stride for stride in (8, 16, 32)]
    pieces = [_named("lateral", _conv(batch, depth, PYRAMID, side, side, 1)) for depth, side in zip(channels, sides)]
    # The coarser map is brought to the size of the finer and added.
    pieces += [replace(passes("between", 5 * batch * PYRAMID * side**2), name="neck") for side in sides[:2]]
    pieces += [_named("output", _conv(batch, PYRAMID, PYRAMID, side, side, 3)) for side in sides]
    for depth in (channels[-1], PYRAMID):
        sides.append(-(-sides[-1] // 2))
        pieces.append(_named("extra", _conv(batch, depth, PYRAMID, sides[-2], sides[-1], 3)))
    for side in sides:
        for outputs in (CLASSES * ANCHORS, 4 * ANCHORS):
            pieces += TOWER * [_named("tower", _conv(batch, PYRAMID, PYRAMID, side, side, 3))]
            pieces += TOWER * [replace(passes("activation", 2 * batch * PYRAMID * side**2), name="tower")]
            pieces.append(_named("predictor", _conv(batch, PYRAMID, outputs, side, side, 3)))
    return pieces


def _conv(batch: int, depth: int, columns: int, side: int, out: int, kernel: int) -> Work:
    return convolution((batch, depth, side, side), (batch, columns, out, out), (kernel, kernel))


def _named(name: str, piece: Work) -> Work:
    return replace(piece, name=f"retinanet.{name}")
