"""Parameters and multiply-adds of a Cell, counted from the Cells themselves as one forward pass meets them.

Six conventions, because papers count differently:

* ``"A"``: products of convolutions, linear layers and attention (q.k and a.v). No norms, activations, biases.
* ``"A+bias"``: A, and one for each bias added to an output element of a convolution or linear layer.
* ``"dagger"``: A+bias, and the position term of sliding-window attention (k*k*C for each output pixel, and the
  projection of the position grid, which does not depend on the image): the paper's ResNet-ACmix column.
* ``"A+position"``: dagger without the biases: the ResNet-50 column of Table 1.
* ``"A+norm"``: A, and one for each element that a LayerNorm sees, as the authors of Swin count.
* ``"mmdetection"``: A, and what mmdetection's counter adds: biases of convolutions, two for each element of a
  BatchNorm, one for each of a ReLU and before a pooling.

A shift by slices and additions has no products: its additions are counted in their place, as Table 7 does. What each
kind of Cell does is told in `rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mindspore import nn

from acmix_ms.analysis.trace import Call, trace, work
from acmix_ms.analysis.work import Work, count_params
from acmix_ms.ops import ACmix

# What each convention adds to the products: fields of Work.
CONVENTIONS = {
    "A": (),
    "A+bias": ("bias",),
    "dagger": ("bias", "position"),
    "A+position": ("position",),
    "A+norm": ("norm",),
    "mmdetection": ("counter",),
}
STAGES = ("I", "II", "rest")


@dataclass(frozen=True)
class Complexity:
    """What `complexity` found: ``items`` of work that are counted, and ``params`` of the whole Cell."""

    items: tuple[Work, ...]
    params: int

    def macs(self, convention: str = "A", stage: str | None = None) -> int:
        """Multiply-adds in a convention, of everything or of one stage."""
        if convention not in CONVENTIONS:
            raise ValueError(f"convention={convention!r}: choose from {', '.join(CONVENTIONS)}")
        chosen = [item for item in self.items if stage is None or item.stage == stage]
        return sum(getattr(item, name) for item in chosen for name in ("macs", *CONVENTIONS[convention]))

    def stage_params(self, stage: str) -> int:
        """Parameters of one stage."""
        return sum(item.params for item in self.items if item.stage == stage)


def complexity(
    cell: nn.Cell,
    *input_shapes: tuple[int, ...],
    parts: Iterable[tuple[nn.Cell, tuple[int, ...]]] = (),
    strided_projections: bool = False,
) -> Complexity:
    """Count a Cell for inputs of the given shapes (float32, usually with a batch of 1), by letting them pass once.

    Args:
        cell: what is counted.
        input_shapes: of its inputs.
        parts: of it that no image passes, such as the heads for regions, each with the shape of its input.
        strided_projections: count `ACmix` with a stride as if it projected only the pixels that stay. The released code
            and ours project all, because the convolution path needs the others.
    """
    calls = list(trace(cell, *input_shapes))
    for part, shape in parts:
        calls += trace(part, shape)
    if strided_projections:
        calls = [_at_stride(call) if isinstance(call.cell, ACmix) else call for call in calls]
    return Complexity(tuple(piece for piece in work(calls) if piece.is_counted), count_params([cell]))


def _at_stride(call: Call) -> Call:
    return replace(call, given=(*call.given[:2], *call.out[2:]))
