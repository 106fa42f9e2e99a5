"""Figure 4: accuracy, as papers print it, against the cost that we count. Counts in, a PNG out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Union

import matplotlib
from matplotlib.figure import Figure  # without pyplot: no window system, no global state

from acmix_ms.analysis.complexity import Complexity
from acmix_ms.analysis.figures import BLUE, GREEN, ORANGE, PURPLE, STYLE, VERMILION
from acmix_ms.analysis.reported import COMPETITORS, FIGURE4, Reported

PathLike = Union[str, os.PathLike]

OTHERS = {"SASA": (GREEN, "s"), "AA-ResNet": (PURPLE, "^"), "LR-Net": (ORANGE, "v")}
FAMILIES = ("ResNet", "SAN", "PVT", "Swin")
NOTE = (
    "Accuracy: as printed in the papers, not trained here. Costs: counted from the Cells of this project, at 224x224, "
    "in the convention of docs/tables.md."
)


def plot_tradeoff(counts: Mapping[str, Complexity], png_path: PathLike) -> None:
    """Draw a panel for each family, multiply-adds above and parameters below.

    Args:
        counts: of each row of Figure 4 and of the competitors, by `Reported.key`.
        png_path: written; its folder must exist.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        panels = figure.subplots(2, len(FAMILIES), sharey="col")
        for column, family in enumerate(FAMILIES):
            for axes, cost in zip(panels[:, column], (_multiply_adds, _parameters)):
                _family(axes, family, counts, cost)
            panels[0, column].set(title=f"({'abcd'[column]}) {family}", xlabel="multiply-adds (G)")
            panels[1, column].set(xlabel="parameters (M)")
            panels[0, column].legend(loc="lower right", handlelength=1.6, borderaxespad=0.2, fontsize=8)
        for axes in panels[:, 0]:
            axes.set_ylabel("ImageNet top-1, paper (%)")
        figure.supxlabel(NOTE, fontsize=8, color="#555555")
        figure.savefig(png_path, dpi=110)


def _multiply_adds(row: Reported, counts: Mapping[str, Complexity]) -> float:
    return counts[row.key].macs(row.convention) / 1e9


def _parameters(row: Reported, counts: Mapping[str, Complexity]) -> float:
    return counts[row.key].params / 1e6


def _family(axes, family: str, counts: Mapping[str, Complexity], cost) -> None:
    rows = [row for row in FIGURE4 if row.family == family]
    mixed = [row for row in rows if row.model.startswith("acmix_")]
    plain = [row for row in rows if row not in mixed]
    if family == "ResNet":
        for name, (colour, marker) in OTHERS.items():
            points = [row for row in COMPETITORS if row.family == name]
            _line(axes, points, counts, cost, label=name, color=colour, marker=marker, linewidth=1, markersize=5)
    _line(axes, plain, counts, cost, label=family, color=BLUE, marker="o", linestyle="--", linewidth=1.4, markersize=5)
    _line(axes, mixed, counts, cost, label=f"{family}-ACmix", color=VERMILION, marker="*", linewidth=1.6, markersize=10)
    for row in mixed:
        size = row.label.rpartition(" ")[2].rpartition("-")[2]  # "ResNet-ACmix 26" -> 26, "PVT-ACmix-T" -> T
        place = (cost(row, counts), float(row.top1))
        axes.annotate(size, place, (0, 7), textcoords="offset points", ha="center", color=VERMILION, fontsize=8)
    axes.margins(0.14, 0.16)


def _line(axes, rows: list[Reported], counts: Mapping[str, Complexity], cost, **style) -> None:
    axes.plot([cost(row, counts) for row in rows], [float(row.top1) for row in rows], **style)
