"""Figures of a run and of what it learned. Pure functions: data in, a PNG out; nothing is shown on a screen."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window system, no global state
from matplotlib.ticker import MaxNLocator

from acmix_ms.errors import UserError

if TYPE_CHECKING:
    from mindspore import nn

    from acmix_ms.analysis.attention import Attention

PathLike = Union[str, os.PathLike]
Target = Union[PathLike, io.BytesIO]

# Okabe and Ito: told apart with every kind of colour vision.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = "osD^vP"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
}


def plot_curves(
    csv_path: PathLike,
    png_path: Target,
    labels: Mapping[str, str] | None = None,
    *,
    higher_is_better: bool = True,
    digits: int = 2,
) -> None:
    """Draw a run from its log: losses, metrics and learning rate over the epochs.

    Args:
        csv_path: one row per epoch with the columns ``epoch`` and ``lr``, ``train_...`` (the loss and its terms) and
            ``val_...`` (metrics, of which the first decides; ``val_loss`` goes to the losses). Others are ignored, and
            values may be missing.
        png_path: written, together with its folder; or a buffer.
        labels: what metrics are called, by column.
        higher_is_better: of the metric that decides.
        digits: of it after the point.

    Raises:
        UserError: the log has no epoch yet.
    """
    with open(csv_path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UserError(f"{os.fspath(csv_path)}: no epoch is in this log, there is nothing to draw")
    epochs = [int(row["epoch"]) for row in rows]

    def series(name: str) -> list[float]:
        return [float(row[name]) if row[name] else math.nan for row in rows]

    trained = [name for name in rows[0] if name.startswith("train_")]
    metrics = [name for name in rows[0] if name.startswith("val_") and name != "val_loss"]
    labels = {name: (labels or {}).get(name, name.partition("_")[2]) for name in metrics}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        loss, scores, rate = figure.subplots(1, 3)
        for index, name in enumerate(trained):
            kind = "training" if name == "train_loss" else name.partition("_")[2]
            _line(loss, epochs, series(name), index and index + 1, kind)
        if "val_loss" in rows[0]:
            _line(loss, epochs, series("val_loss"), 1, "validation")
        loss.set(title="Loss", ylabel="loss")
        for index, name in enumerate(metrics, 1):
            _line(scores, epochs, series(name), index, labels[name])
        if metrics:
            best = _best(epochs, series(metrics[0]), higher_is_better, digits)
            scores.set(title=f"Validation: {labels[metrics[0]]} {best}")
        _line(rate, epochs, series("lr"), 3, "")
        rate.set(title="Learning rate", ylabel="learning rate")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        for axes in (loss, scores, rate):
            axes.set_xlabel("epoch")
            _whole_numbers(axes, epochs)
        for axes in (loss, scores):
            _legend(axes)
        save(figure, png_path)


def plot_rates(
    rates: dict[str, list[tuple[float, float]]] | dict[str, dict[str, list[tuple[float, float]]]], png_path: PathLike
) -> None:
    """Draw how much each layer relies on its two paths, as the paper's Figure 5.

    Args:
        rates: for every run, by its name, the (alpha, beta) of each layer from the input on; or such dictionaries by
            the name of their family, each of which gets a row of its own.
        png_path: written, together with its folder.

    Raises:
        UserError: there is no layer with rates.
    """
    nested = any(isinstance(runs, dict) for runs in rates.values())
    families = {name: runs for name, runs in (rates if nested else {"": rates}).items() if any(runs.values())}
    if not families:
        raise UserError("rates: no layer with learned rates (mix='alpha' or 'learned'), there is nothing to draw")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2 * len(families)), layout="constrained")
        grid = figure.subplots(len(families), 3, squeeze=False)
        for row, (family, runs) in zip(grid, families.items()):
            _rates_row(row, runs, family)
        save(figure, png_path)


def _rates_row(row: Sequence[Axes], runs: dict[str, list[tuple[float, float]]], family: str) -> None:
    """The three plots of one family."""
    alpha, beta, ratio = row
    for index, (run, pairs) in enumerate(runs.items()):
        layers = list(range(1, len(pairs) + 1))
        _line(alpha, layers, [abs(a) for a, _ in pairs], index, run)
        _line(beta, layers, [abs(b) for _, b in pairs], index, run)
        _line(ratio, layers, [_log_ratio(a, b) for a, b in pairs], index, run)
    before = f"{family}\n" if family else ""
    alpha.set(title=before + r"$|\alpha|$: attention path", ylabel=r"$|\alpha|$")
    beta.set(title=r"$|\beta|$: convolution path", ylabel=r"$|\beta|$")
    ratio.set(title=r"$\log\,|\alpha/\beta|$: which path leads", ylabel=r"$\log\,|\alpha/\beta|$")

    # The same scale on the first two makes the paths comparable; zero is where neither leads.
    top = 1.08 * max(abs(rate) for pairs in runs.values() for pair in pairs for rate in pair)
    for axes in (alpha, beta):
        axes.set_ylim(0, top or 1)
    low, high = ratio.get_ylim()
    reach = max(abs(low), abs(high), 0.1) * 1.15
    ratio.set_ylim(-reach, reach)
    ratio.axhline(0, color="#555555", linewidth=0.8, linestyle="--")
    for height, align, text in ((0.98, "top", "attention leads"), (0.02, "bottom", "convolution leads")):
        ratio.text(0.98, height, text, transform=ratio.transAxes, ha="right", va=align, color="#555555", size=8)
    deepest = max(len(pairs) for pairs in runs.values())
    for axes in row:
        axes.set_xlabel("layer, from input to output")
        _whole_numbers(axes, range(1, deepest + 1))
    if len(runs) > 1:
        _legend(alpha)


def plot_rate_history(history: Mapping[str, Sequence[tuple[int, float, float]]], png_path: Target) -> None:
    """Draw how the two paths of each layer gained and lost over the training.

    Args:
        history: (epoch, alpha, beta) after each epoch, by the name of the layer, from the input on.
        png_path: written, together with its folder; or a buffer.

    Raises:
        UserError: there is no layer with rates.
    """
    if not any(history.values()):
        raise UserError("rates: no layer with learned rates (mix='alpha' or 'learned'), there is nothing to draw")
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, len(history)))  # dark to light: input to output
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        alpha, beta = figure.subplots(1, 2, sharey=True)
        for colour, (layer, rows) in zip(colours, history.items()):
            epochs = [epoch for epoch, _, _ in rows]
            for axes, column in ((alpha, 1), (beta, 2)):
                sizes = [abs(row[column]) for row in rows]
                axes.plot(epochs, sizes, color=colour, marker="o" if len(rows) <= 40 else None, label=layer or "net")
        alpha.set(title=r"$|\alpha|$: attention path", ylabel="size of the rate")
        beta.set(title=r"$|\beta|$: convolution path")
        points = [point for rows in history.values() for point in rows]
        every = sorted({epoch for epoch, _, _ in points})
        for axes in (alpha, beta):
            axes.set_ylim(0, 1.08 * max(abs(rate) for _, *pair in points for rate in pair) or 1)
            axes.set_xlabel("epoch")
            _whole_numbers(axes, every)
        # So many names as fit beside the plots; of more the first and the last, between which the colours go.
        lines = alpha.get_lines()
        figure.legend(handles=lines if len(lines) <= 12 else [lines[0], lines[-1]], loc="outside right upper")
        save(figure, png_path)


def plot_ablations(records: Sequence[Mapping], png_path: PathLike, *, titles: Mapping[str, str]) -> None:
    """Draw what `ablation.summarise` gives: a bar for each row with its standard deviation, a plot for each table.

    The axes do not begin at zero: the rows differ by little, and the differences are what is looked at.
    """
    tables = list(dict.fromkeys(record["table"] for record in records))
    if not tables:
        raise UserError("ablations: no run is finished, there is nothing to draw")
    counts = [sum(record["table"] == table for record in records) for table in tables]
    spreads = [(record["top1_mean"], record["top1_std"] or 0.0) for record in records]
    low, high = min(mean - std for mean, std in spreads), max(mean + std for mean, std in spreads)
    margin = max(0.12 * (high - low), 0.3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 0.9 + 0.36 * max(counts)), layout="constrained")
        for axes, table in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables):
            chosen = [record for record in records if record["table"] == table]
            means = [record["top1_mean"] for record in chosen]
            errors = [record["top1_std"] or 0.0 for record in chosen]
            colours = [VERMILION if record["row"] == "learned" else BLUE for record in chosen]
            axes.barh([record["label"] for record in chosen], means, xerr=errors, color=colours, height=0.62, capsize=3)
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
            axes.set_axisbelow(True)
            axes.set(title=titles[table], xlabel="top-1 (%), mean ± std; the axis is cut")
            axes.set_xlim(low - margin, min(high + margin, 100.5))
        save(figure, png_path)


def plot_attention(
    image: np.ndarray, pixel: tuple[int, int], maps: Mapping[str, Attention], png_path: PathLike
) -> None:
    """Draw the image with the query marked, then for each layer where the query looks.

    Args:
        image: (3, height, width), in any scale.
        pixel: (row, column) of the query in the image.
        maps: `attention.Attention` by the name of the layer; signed weights (SAN) are shown by their magnitude.
        png_path: written, together with its folder.
    """
    height, width = image.shape[1:]
    low, high = image.min(), image.max()
    picture = ((image - low) / max(high - low, 1e-6)).transpose(1, 2, 0)
    columns = min(len(maps) + 1, 5)
    rows = -(-(len(maps) + 1) // columns)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        row = 2.1 * height / width + 0.55  # inches: an image, and two lines above it
        figure = Figure(figsize=(2.1 * columns, row * rows), layout="constrained")
        plots = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes in plots:
            axes.set_axis_off()
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        for index, axes in enumerate(plots[: len(maps) + 1]):
            axes.imshow(picture if index == 0 else picture.mean(2), cmap="gray", vmin=0, vmax=1, extent=extent)
            axes.set_title("query", size=9)
        for axes, (name, found) in zip(plots[1:], maps.items()):
            heat = found.map()
            # What is out of reach stays a plain image; within reach the colours show even small differences.
            reach = heat > 1e-3 * heat.max()
            axes.imshow(heat, cmap="inferno", vmin=0, alpha=0.75 * reach, extent=extent, interpolation="nearest")
            kind = "|weights|" if found.signed else "weights"
            axes.set_title(f"{name}\n{kind}, {heat.shape[0]}x{heat.shape[1]}, up to {heat.max():.2f}", size=7)
        for axes in plots[: len(maps) + 1]:
            axes.plot(pixel[1], pixel[0], marker="+", color=SKY, markersize=9, markeredgewidth=2)
        save(figure, png_path)


def collect_rates(cell: nn.Cell) -> list[tuple[str, float, float]]:
    """(layer, alpha, beta) of every ACmix layer with learned rates, in the order of the network.

    A layer that learns alpha alone has beta = 1 - alpha (``mix="alpha"``) or 1 (``mix="alpha_one"``).
    """
    found: dict[str, dict[str, float]] = {}
    fixed_one = {name for name, layer in cell.cells_and_names() if getattr(layer, "mix", None) == "alpha_one"}
    for name, parameter in cell.parameters_and_names():
        layer, _, last = name.rpartition(".")
        if last in ("rate1", "rate2"):
            found.setdefault(layer, {})[last] = float(parameter.asnumpy().reshape(-1)[0])
    return [
        (layer, pair["rate1"], pair.get("rate2", 1.0 if layer in fixed_one else 1 - pair["rate1"]))
        for layer, pair in found.items()
    ]


def _line(axes: Axes, x: list[int], y: list[float], index: int, label: str) -> None:
    if all(math.isnan(value) for value in y):
        return
    # Few points are marked, so that a single one is seen; hundreds of marks would hide the line.
    marker = MARKERS[index % len(MARKERS)] if len(x) <= 40 else None
    axes.plot(x, y, color=COLOURS[index % len(COLOURS)], marker=marker, label=label)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def _best(epochs: list[int], values: list[float], higher_is_better: bool, digits: int) -> str:
    """The best value and the first epoch that reached it."""
    known = [(value if higher_is_better else -value, -epoch) for epoch, value in zip(epochs, values) if value == value]
    if not known:
        return "not measured"
    value, epoch = max(known)
    return f"best {value if higher_is_better else -value:.{digits}f} in epoch {-epoch}"


def _log_ratio(alpha: float, beta: float) -> float:
    # A rate of exactly zero has no logarithm: that point is left out of the line.
    return math.log(abs(alpha / beta)) if alpha and beta else math.nan


def _whole_numbers(axes: Axes, x: list[int] | range) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(x) == 1:  # a single point would get a scale of fractions around it
        axes.set_xlim(x[0] - 1, x[0] + 1)


def save(figure: Figure, png_path: Target, dpi: int = 120) -> None:
    """Write a PNG, together with its folder; or into a buffer."""
    if not isinstance(png_path, io.BytesIO):
        Path(png_path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path, dpi=dpi, format="png")
