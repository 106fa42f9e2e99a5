"""Figures of a run and of what it learned. Pure functions: data in, a PNG out; nothing is shown on a screen."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Union

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window system, no global state
from matplotlib.ticker import MaxNLocator

from acmix_ms.errors import UserError

if TYPE_CHECKING:
    from mindspore import nn

PathLike = Union[str, os.PathLike]

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


def plot_curves(csv_path: PathLike, png_path: PathLike) -> None:
    """Draw a run from its log: loss, accuracy and learning rate over the epochs.

    Args:
        csv_path: one row per epoch with the columns ``epoch, train_loss, lr, val_loss, val_top1, val_top5``
            (others are ignored); accuracies in percent; the ``val`` columns may be empty.
        png_path: written, together with its folder.

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

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        loss, accuracy, rate = figure.subplots(1, 3)
        _line(loss, epochs, series("train_loss"), 0, "training")
        _line(loss, epochs, series("val_loss"), 1, "validation")
        loss.set(title="Loss", ylabel="cross-entropy")
        _line(accuracy, epochs, series("val_top1"), 1, "top-1")
        _line(accuracy, epochs, series("val_top5"), 2, "top-5")
        accuracy.set(title=_accuracy_title(epochs, series("val_top1")), ylabel="correct (%)")
        _line(rate, epochs, series("lr"), 3, "")
        rate.set(title="Learning rate", ylabel="learning rate")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("epoch")
            _whole_numbers(axes, epochs)
        for axes in (loss, accuracy):
            _legend(axes)
        _save(figure, png_path)


def plot_rates(rates: dict[str, list[tuple[float, float]]], png_path: PathLike) -> None:
    """Draw how much each layer relies on its two paths, as the paper's Figure 5.

    Args:
        rates: for every run, by its name, the (alpha, beta) of each layer from the input on.
        png_path: written, together with its folder.

    Raises:
        UserError: there is no layer with rates.
    """
    if not any(rates.values()):
        raise UserError("rates: no layer with learned rates (mix='alpha' or 'learned'), there is nothing to draw")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        alpha, beta, ratio = figure.subplots(1, 3)
        for index, (run, pairs) in enumerate(rates.items()):
            layers = list(range(1, len(pairs) + 1))
            _line(alpha, layers, [abs(a) for a, _ in pairs], index, run)
            _line(beta, layers, [abs(b) for _, b in pairs], index, run)
            _line(ratio, layers, [_log_ratio(a, b) for a, b in pairs], index, run)
        alpha.set(title=r"$|\alpha|$: attention path", ylabel=r"$|\alpha|$")
        beta.set(title=r"$|\beta|$: convolution path", ylabel=r"$|\beta|$")
        ratio.set(title=r"$\log\,|\alpha/\beta|$: which path leads", ylabel=r"$\log\,|\alpha/\beta|$")

        # The same scale on the first two makes the paths comparable; zero is where neither leads.
        top = 1.08 * max(abs(rate) for pairs in rates.values() for pair in pairs for rate in pair)
        for axes in (alpha, beta):
            axes.set_ylim(0, top or 1)
        low, high = ratio.get_ylim()
        reach = max(abs(low), abs(high), 0.1) * 1.15
        ratio.set_ylim(-reach, reach)
        ratio.axhline(0, color="#555555", linewidth=0.8, linestyle="--")
        for height, align, text in ((0.98, "top", "attention leads"), (0.02, "bottom", "convolution leads")):
            ratio.text(0.98, height, text, transform=ratio.transAxes, ha="right", va=align, color="#555555", size=8)
        deepest = max(len(pairs) for pairs in rates.values())
        for axes in (alpha, beta, ratio):
            axes.set_xlabel("layer, from input to output")
            _whole_numbers(axes, range(1, deepest + 1))
        if len(rates) > 1:
            _legend(alpha)
        _save(figure, png_path)


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


def _accuracy_title(epochs: list[int], top1: list[float]) -> str:
    known = [(value, -epoch) for epoch, value in zip(epochs, top1) if not math.isnan(value)]
    if not known:
        return "Accuracy: not measured"
    value, epoch = max(known)
    return f"Accuracy: best top-1 {value:.2f} % (epoch {-epoch})"


def _log_ratio(alpha: float, beta: float) -> float:
    # A rate of exactly zero has no logarithm: that point is left out of the line.
    return math.log(abs(alpha / beta)) if alpha and beta else math.nan


def _whole_numbers(axes: Axes, x: list[int] | range) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(x) == 1:  # a single point would get a scale of fractions around it
        axes.set_xlim(x[0] - 1, x[0] + 1)


def _save(figure: Figure, png_path: PathLike) -> None:
    Path(png_path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path, dpi=120, format="png")
