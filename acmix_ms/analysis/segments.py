"""Pictures with the classes of their pixels: label images with a palette, and overlays with a legend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from acmix_ms.analysis.detections import DPI, PANEL, colour
from acmix_ms.analysis.figures import STYLE, Target, save
from acmix_ms.errors import printable
from acmix_ms.maps import IGNORED, UNKNOWN, name_of

COVER = 0.6  # of a class over the picture
BLACK = (0.0, 0.0, 0.0)  # of what has no class, in a palette
LEGEND, SHORTEST, ROW = 288, 160, 26  # pixels: the width beside a picture, the least height, a class
MOST_LETTERS = 24  # of a name in the legend


class Example(NamedTuple):
    """A picture with the classes that its pixels have and those that were found.

    Attributes:
        pixels: (H, W, 3) uint8.
        labels: (H, W), the truth, `IGNORED` where there is none.
        found: (H, W) of a net, `UNKNOWN` where it gave no numbers.
    """

    pixels: np.ndarray
    labels: np.ndarray
    found: np.ndarray


def palette() -> np.ndarray:
    """(256, 3) uint8: the colour of each label, always the same."""
    colours = [colour(label) for label in range(IGNORED)]
    return np.round(255 * np.asarray([*colours, BLACK])).astype(np.uint8)


def write_labels(labels: np.ndarray, path: str | os.PathLike) -> None:
    """Write (H, W) as a PNG whose pixels are labels, in the colours of `palette`; `IGNORED` is no class."""
    image = Image.fromarray(np.where(labels == UNKNOWN, IGNORED, labels).astype(np.uint8))
    image.putpalette(palette().tobytes())  # which makes it one of indices
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")


def overlaid(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 from 0 to 1: a picture in the colours of the classes, where there are some."""
    picture, known = pixels.astype(np.float32) / 255, (labels != UNKNOWN) & (labels != IGNORED)
    tints = palette()[labels[known]].astype(np.float32) / 255
    picture[known] += COVER * (tints - picture[known])
    return picture


def plot_segments(pixels: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None, path: Target) -> None:
    """Draw the classes over a picture, and beside it what they are called, the most frequent first.

    Args:
        pixels: (H, W, 3) uint8.
        labels: (H, W).
        class_names: what label i is called; ``class i`` by default.
        path: of a PNG, written together with its folder; or a buffer.
    """
    height, width = pixels.shape[:2]
    found, counts = np.unique(labels, return_counts=True)
    shown = found[np.argsort(-counts, kind="stable")].tolist()
    tall = max(height, SHORTEST, ROW * (len(shown) + 1))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=((width + LEGEND) / DPI, tall / DPI))
        # The picture keeps its pixels, at the upper left.
        axes = figure.add_axes((0, 1 - height / tall, width / (width + LEGEND), height / tall))
        _show(axes, overlaid(pixels, labels))
        place = (width / (width + LEGEND), 1.0)
        figure.legend(handles=_keys(shown, class_names), loc="upper left", bbox_to_anchor=place, frameon=False)
        save(figure, path, DPI)


def plot_examples(examples: Sequence[Example], class_names: Sequence[str], path: Target) -> None:
    """Draw a row for each picture: at the left what is there, at the right what was found.

    Args:
        examples: one at least.
        class_names: what label i is called.
        path: of a PNG, written together with its folder; or a buffer.
    """
    if not examples:
        raise ValueError("examples: none, there is nothing to draw")
    heights = [PANEL * min(1, each.pixels.shape[0] / each.pixels.shape[1]) for each in examples]
    shown = set()
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2 * PANEL + LEGEND / DPI, sum(heights) + 0.3 * len(examples)), layout="constrained")
        rows = figure.subplots(len(examples), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        for (there, found), example in zip(rows, examples):
            # What has no class counts nowhere, so nothing is shown of what is found there.
            answers = np.where(example.labels == IGNORED, IGNORED, example.found)
            for axes, labels, title in ((there, example.labels, "what is there"), (found, answers, "what was found")):
                _show(axes, overlaid(example.pixels, labels))
                axes.set_title(title)
                shown.update(np.unique(labels).tolist())
        figure.legend(handles=_keys(sorted(shown - {IGNORED}), class_names), loc="outside right upper", frameon=False)
        save(figure, path, DPI)


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.set_axis_off()
    axes.imshow(picture, aspect="equal", interpolation="nearest")


def _keys(labels: Sequence[int], class_names: Sequence[str] | None) -> list[Patch]:
    """What a legend has of classes."""
    keys = []
    for label in labels:
        name = printable(name_of(label, class_names)).replace("$", r"\$")
        name = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."
        keys.append(Patch(color=BLACK if label == UNKNOWN else colour(label), label=name))
    return keys
