"""Pictures with what a detector found in them, and with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from acmix_ms.analysis.figures import STYLE, Target, save
from acmix_ms.errors import printable
from acmix_ms.objects import Objects
from acmix_ms.postprocess import Detections, paste_masks

THRESHOLD = 0.3  # scores below are not shown
GOLDEN = 0.618034  # of a turn between the hues of two labels that follow each other: all are told apart
COVER = 0.45  # of a mask
GREY = (0.5, 0.5, 0.5)  # of what counts neither as object nor as background
SMALLEST_LETTERS, LETTERS = 9, 50  # pixels, and their part of the longer side
DPI = 128  # a power of two: then pixels are exact in inches, and a picture of its own size is copied to the last bit
PANEL = 4.0  # inches, the width of a picture in a grid


class Example(NamedTuple):
    """A picture with what is there and what was found, all in its pixels.

    Attributes:
        pixels: (H, W, 3) uint8.
        objects: the truth.
        detections: of a net.
        title: above it.
    """

    pixels: np.ndarray
    objects: Objects
    detections: Detections
    title: str = ""


def colour(label: int) -> tuple[float, float, float]:
    """Red, green and blue of a class, 0 to 1: always the same."""
    return tuple(hsv_to_rgb((label * GOLDEN % 1.0, (0.9, 0.6)[label % 2], 0.95)))


def plot_detections(
    pixels: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    path: Target,
    *,
    threshold: float = THRESHOLD,
    side: int | None = None,
) -> None:
    """Draw boxes, names with scores, and masks over a picture.

    Args:
        pixels: (H, W, 3) uint8.
        detections: in pixels of the picture.
        class_names: what label i is called.
        path: of a PNG, written together with its folder; or a buffer.
        threshold: smallest score that is shown.
        side: pixels of the PNG's longer side; by default it is as large as the picture.
    """
    height, width = pixels.shape[:2]
    scale = side / max(height, width) if side else 1.0
    inches = [max(1, round(pixel * scale)) / DPI for pixel in (width, height)]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=inches)
        axes = figure.add_axes((0, 0, 1, 1))
        draw_detections(axes, pixels, detections, class_names, threshold, letters=max(height, width) * scale / LETTERS)
        save(figure, path, DPI)


def plot_examples(
    examples: Sequence[Example], class_names: Sequence[str], path: Target, *, threshold: float = THRESHOLD
) -> None:
    """Draw a row for each picture: at the left what is there, at the right what was found.

    Args:
        examples: one at least.
        class_names: what label i is called.
        path: of a PNG, written together with its folder; or a buffer.
        threshold: smallest score that is shown.
    """
    if not examples:
        raise ValueError("examples: none, there is nothing to draw")
    heights = [PANEL * min(1, each.pixels.shape[0] / each.pixels.shape[1]) for each in examples]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2 * PANEL + 0.3, sum(heights) + 0.3 * len(examples)), layout="constrained")
        rows = figure.subplots(len(examples), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        for (there, found), example in zip(rows, examples):
            draw_objects(there, example.pixels, example.objects, class_names)
            draw_detections(found, example.pixels, example.detections, class_names, threshold)
            before = f"{printable(example.title)}: " if example.title else ""
            there.set_title(f"{before}what is there", parse_math=False)
            found.set_title(f"found, from {threshold:g} on", parse_math=False)
        save(figure, path, DPI)


def draw_detections(
    axes: Axes,
    pixels: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    threshold: float,
    letters: float = SMALLEST_LETTERS,
) -> None:
    """Draw a picture and what was found in it, the surest on top; ``letters`` is the height of a name in pixels."""
    shown = np.flatnonzero(detections.scores >= threshold)
    shown = shown[np.argsort(detections.scores[shown], kind="stable")]
    boxes, labels = detections.boxes[shown], detections.labels[shown].tolist()
    masks = None
    if detections.masks is not None:
        masks = paste_masks(detections.masks[shown], boxes, *pixels.shape[:2])
    texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, detections.scores[shown])]
    _draw(axes, pixels, boxes, [colour(label) for label in labels], texts, masks, letters)


def draw_objects(
    axes: Axes, pixels: np.ndarray, objects: Objects, class_names: Sequence[str], letters: float = SMALLEST_LETTERS
) -> None:
    """Draw a picture and what is in it; regions that are ignored are dashed."""
    labels = objects.labels.tolist()
    colours, texts = [colour(label) for label in labels], [class_names[label] for label in labels]
    _draw(axes, pixels, objects.boxes, colours, texts, objects.masks, letters)
    for box in objects.ignored:
        _draw_box(axes, box, GREY, letters, "--")


def _draw(axes: Axes, pixels, boxes, colours, texts: Sequence[str], masks: np.ndarray | None, letters: float) -> None:
    height, width = pixels.shape[:2]
    picture = pixels.astype(np.float32) / 255
    for mask, tint in zip(() if masks is None else masks.astype(bool), colours):
        picture[mask] += COVER * (np.asarray(tint, np.float32) - picture[mask])
    axes.set_axis_off()
    axes.imshow(picture, extent=(0, width, height, 0), aspect="equal")  # a box from 0 to 1 is around the first pixel
    letters = max(SMALLEST_LETTERS, letters)
    for box, tint in zip(boxes, colours):
        _draw_box(axes, box, tint, letters)
    for box, tint, text in zip(boxes, colours, texts):
        _write(axes, box, tint, printable(text), letters, (height, width))
    axes.set(xlim=(0, width), ylim=(height, 0))


def _draw_box(axes: Axes, box: np.ndarray, tint, letters: float, style: str = "-") -> None:
    x1, y1, x2, y2 = map(float, box)
    line = max(1.0, letters / 8) * 72 / DPI  # matplotlib measures in points
    axes.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=tint, linewidth=line, linestyle=style)
    )


def _write(axes: Axes, box: np.ndarray, tint, text: str, letters: float, size: tuple[int, int]) -> None:
    """Write into the upper left corner of a box, as far as that is within the picture."""
    x, y = min(max(float(box[0]), 0), size[1]), min(max(float(box[1]), 0), size[0])
    red, green, blue = tint
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
    axes.annotate(
        text,
        (x, y),
        (1.5, -1.5),  # points: so that the frame stays within
        textcoords="offset points",
        size=letters * 72 / DPI,
        color=ink,
        va="top",
        clip_on=True,
        parse_math=False,
        bbox={"facecolor": tint, "alpha": 0.8, "pad": 1, "linewidth": 0},
    )
