"""The operator as a picture, drawn from scratch: ``python -m acmix_ms.analysis.diagram docs/operator.png``."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from acmix_ms.analysis.figures import PathLike

INK, QUIET = "#222222", "#666666"
# The line and the fill of each part; told apart with every kind of colour vision.
SHARED = ("#8A6D00", "#FBF1CF")
ATTENTION = ("#0072B2", "#DCEBF7")
CONVOLUTION = ("#C04F00", "#FBE3D6")
SUM = ("#00795A", "#DAF0E7")
HALF_HEIGHT = 3.4  # of a box


def draw_operator(png_path: PathLike) -> None:
    """Draw ACmix: three projections (Stage I) shared by an attention and a convolution path (Stage II)."""
    figure = Figure(figsize=(10, 4.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 42))
    axes.axis("off")
    _stage(axes, 14, 31, "Stage I: project once", r"shared by both paths: $3C^2$")
    _stage(axes, 36, 84, "Stage II: aggregate twice", r"light: grows with $C$, not with $C^2$")

    top, middle, bottom = 27, 18, 9
    source = _box(axes, 6, middle, 9, SHARED, "input", r"$C\times H\times W$")
    for y, name in ((top, "q"), (middle, "k"), (bottom, "v")):
        left, right = _box(axes, 22.5, y, 13.4, SHARED, rf"$1\times 1$ conv $\rightarrow {name}$", r"$N$ heads of $d$")
        _arrow(axes, (source[1], middle), (left, y), SHARED)
        axes.plot([right, 33.5], [y, y], color=SHARED[0], linewidth=1.4)
    axes.plot([33.5, 33.5], [bottom, top], color=SHARED[0], linewidth=1.4)  # the bus: q, k and v to both paths

    attention = (
        ("similarity", r"$q\cdot(k-p)\,/\,\sqrt{d}$"),
        ("softmax", r"over $k_a\times k_a$ taps"),
        ("gather", r"weighted $v$"),
    )
    convolution = (
        ("fc over heads", r"$3N\rightarrow k_c^2$ maps"),
        ("shift", r"map $j$ by tap $j$"),
        ("sum", r"over the $k_c^2$ taps"),
    )
    for y, colour, boxes in ((top, ATTENTION, attention), (bottom, CONVOLUTION, convolution)):
        end = 33.5
        for x, (title, detail) in zip((44, 60, 76), boxes):
            left, right = _box(axes, x, y, 13, colour, title, detail)
            _arrow(axes, (end, y), (left, y), colour)
            end = right
        _arrow(axes, (end, y), (93, middle + (HALF_HEIGHT if y > middle else -HALF_HEIGHT)), colour, corner=True)
    axes.text(60, top + 5.2, "attention path", ha="center", color=ATTENTION[0], size=10, weight="bold")
    label = "convolution path (shift + sum: one group conv)"
    axes.text(60, bottom - 6.4, label, ha="center", color=CONVOLUTION[0], size=10, weight="bold")
    axes.text(94, top - 2.2, r"$\times\,\alpha$", color=ATTENTION[0], size=12)
    axes.text(94, bottom + 1.2, r"$\times\,\beta$", color=CONVOLUTION[0], size=12)
    symbols = r"$C = N\,d$ channels, $p$: position term, windows $k_a = 7$ and $k_c = 3$ by default"
    axes.text(60, middle, symbols, ha="center", va="center", color=QUIET, size=8.5)
    _box(axes, 93, middle, 12, SUM, "output", r"$\alpha F_{att}+\beta F_{conv}$")

    Path(png_path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path, dpi=150, format="png")


def _stage(axes: Axes, left: float, right: float, title: str, cost: str) -> None:
    corners = FancyBboxPatch((left, 1), right - left, 34, boxstyle="round,pad=0,rounding_size=1")
    corners.set(facecolor="#f7f7f7", edgecolor="#bbbbbb", linestyle="--", zorder=0)
    axes.add_patch(corners)
    axes.text((left + right) / 2, 39.5, title, ha="center", va="center", size=12, weight="bold", color=INK)
    axes.text((left + right) / 2, 36.9, cost, ha="center", va="center", size=9.5, color=QUIET)


def _box(axes: Axes, x: float, y: float, width: float, colour: tuple, title: str, detail: str) -> tuple[float, float]:
    """A titled box around (x, y); returns where its left and right sides are."""
    left, right = x - width / 2, x + width / 2
    box = FancyBboxPatch((left, y - HALF_HEIGHT), width, 2 * HALF_HEIGHT, boxstyle="round,pad=0,rounding_size=0.9")
    box.set(edgecolor=colour[0], facecolor=colour[1], linewidth=1.4, zorder=2)
    axes.add_patch(box)
    axes.text(x, y + 1.3, title, ha="center", va="center", size=10.5, weight="bold", color=INK)
    axes.text(x, y - 1.4, detail, ha="center", va="center", size=10, color=INK)
    return left, right


def _arrow(axes: Axes, start: tuple, end: tuple, colour: tuple, corner: bool = False) -> None:
    line = {"arrowstyle": "-|>", "color": colour[0], "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    if corner:
        line["connectionstyle"] = "angle,angleA=0,angleB=90,rad=4"
    axes.annotate("", xy=end, xytext=start, arrowprops=line, zorder=1)


if __name__ == "__main__":
    draw_operator(sys.argv[1] if len(sys.argv) > 1 else "docs/operator.png")
