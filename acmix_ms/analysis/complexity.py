"""Parameters and multiply-adds of a Cell, counted from the Cells themselves as one forward pass meets them.

Five conventions, because papers count differently:

* ``"A"``: products of convolutions, linear layers and attention (q.k and a.v). No norms, activations, biases.
* ``"A+bias"``: A, and one for each bias added to an output element of a convolution or linear layer.
* ``"dagger"``: A+bias, and the position term of sliding-window attention (k*k*C for each output pixel, and the
  projection of the position grid, which does not depend on the image): the paper's ResNet-ACmix column.
* ``"A+position"``: dagger without the biases: the ResNet-50 column of Table 1.
* ``"A+norm"``: A, and one for each element that a LayerNorm sees, as the authors of Swin count.

The attention of a window is counted as its mathematics has it (k*k taps for a query), not as a backend computes it.
A shift by slices and additions has no products: its additions are counted in their place, as Table 7 does.

A Cell of another package joins in with a method ``work(given, out)``: from the shapes of its first input and of its
output to a list of dictionaries, the fields of `Item` without ``cell``; inputs after the first are passed on to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from mindspore import Tensor, nn

from acmix_ms import runtime
from acmix_ms.ops import ACmix, PatchwiseACmix, ShiftConv, SpatialReductionACmix, WindowACmix

# What each convention adds to the products: fields of Item.
CONVENTIONS = {
    "A": (),
    "A+bias": ("bias",),
    "dagger": ("bias", "position"),
    "A+position": ("position",),
    "A+norm": ("norm",),
}
STAGES = ("I", "II", "rest")


@dataclass(frozen=True)
class Item:
    """One counted piece of work.

    Attributes:
        cell: path of the Cell it belongs to.
        kind: what it is: ``conv``, ``dense``, ``project``, ``attention``, ``weights``, ``fc``, ``shift``, ``proj``, ...
        stage: ``"I"``, ``"II"`` (of the paper) or ``"rest"``.
        macs, bias, position, norm: multiply-adds of convention A, and what the others add.
        additions: of a k x k convolution, k*k*C for each output pixel: its Stage II in Table 1, where its products are
            Stage I. No convention has them, because a multiply-add holds its addition.
        params: trainable or not, without the statistics of norms.
        biases: how many of them are biases, which the formulas of Table 1 leave out.
    """

    cell: str
    kind: str
    stage: str
    macs: int
    bias: int = 0
    position: int = 0
    norm: int = 0
    additions: int = 0
    params: int = 0
    biases: int = 0


@dataclass(frozen=True)
class Complexity:
    """What `complexity` found: ``items`` of work and ``params`` of the whole Cell."""

    items: tuple[Item, ...]
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


def count_params(cells: Iterable[nn.Cell | None]) -> int:
    """Parameters of Cells, without running statistics."""
    parameters = [p for cell in cells if cell is not None for p in cell.get_parameters()]
    return sum(p.size for p in parameters if not p.name.rpartition(".")[2].startswith("moving_"))


def _size(*cells: nn.Cell) -> dict[str, int]:
    """The fields ``params`` and ``biases`` of an Item."""
    biases = [p.size for cell in cells for p in cell.get_parameters() if p.name.rpartition(".")[2] == "bias"]
    return {"params": count_params(cells), "biases": sum(biases)}


def complexity(cell: nn.Cell, *input_shapes: tuple[int, ...]) -> Complexity:
    """Count a Cell for inputs of the given shapes (float32, usually with a batch of 1), by running it once.

    Runs in PyNative mode and evaluation; mode and training flag are restored.
    """
    items: list[Item] = []
    handles = []
    for name, part in counted(cell, _rule):
        handles.append(part.register_forward_hook(_recorder(items, name, _rule(part))))
    training = cell.training
    try:
        with runtime.pynative():
            cell.set_train(False)
            cell(*(Tensor(np.zeros(shape, np.float32)) for shape in input_shapes))
    finally:
        for handle in handles:
            handle.remove()
        cell.set_train(training)
    return Complexity(tuple(items), count_params([cell]))


def _recorder(items: list[Item], name: str, rule: Callable) -> Callable:
    def record(part, inputs, output):
        items.extend(rule(name, part, tuple(inputs[0].shape), tuple(output.shape), *inputs[1:]))

    return record


def counted(cell: nn.Cell, rule_of: Callable) -> Iterable[tuple[str, nn.Cell]]:
    """(path, Cell) of every Cell that ``rule_of`` has a rule for; what is inside of one is its own business."""
    covered: list[str] = []
    for name, part in cell.cells_and_names():
        if rule_of(part) is None or any(name.startswith(f"{outer}.") or outer == "" for outer in covered):
            continue
        covered.append(name)
        yield name, part


# ------------------------------------------------------------------------------------------------------------ rules
def _rule(cell: nn.Cell) -> Callable | None:
    if hasattr(cell, "work"):
        return _declared
    for kind, rule in RULES.items():
        if isinstance(cell, kind):
            return rule
    return None


def _declared(name: str, cell: nn.Cell, given: tuple, out: tuple, *more) -> list[Item]:
    """A Cell that this module does not know tells its work itself: ``cell.work(given, out) -> [fields of Item]``."""
    return [Item(name, **piece) for piece in cell.work(given, out, *more)]


def _conv(name: str, cell: nn.Conv2d, given: tuple, out: tuple) -> list[Item]:
    macs, (height, width) = prod(out) * prod(cell.weight.shape[1:]), cell.weight.shape[2:]
    kind, additions = (f"conv{height}x{width}", prod(out) * height * width) if height * width > 1 else ("conv", 0)
    return [Item(name, kind, "rest", macs, prod(out) if cell.has_bias else 0, additions=additions, **_size(cell))]


def _dense(name: str, cell: nn.Dense, given: tuple, out: tuple) -> list[Item]:
    macs = prod(out) * given[-1]
    return [Item(name, "dense", "rest", macs, prod(out) if cell.has_bias else 0, **_size(cell))]


def _norm(name: str, cell: nn.LayerNorm, given: tuple, out: tuple) -> list[Item]:
    return [Item(name, "norm", "rest", 0, norm=prod(given), **_size(cell))]


def _shift(name: str, cell: ShiftConv, given: tuple, out: tuple) -> list[Item]:
    return [Item(name, "shift", "II", prod(out) * prod(cell.weight.shape[1:]), params=cell.weight.size)]


def _conv_path(name: str, cell, batch: int, dim: int, full: int, low: int | None, out_pixels: int) -> list[Item]:
    """fc and shift of any form: ``full`` pixels for q, ``low`` for k and v (None: the same), C = ``dim``."""
    taps = cell.conv_kernel_size**2
    per_map = dim // cell.num_heads * taps * cell.num_heads  # fc: N maps of d channels each to k*k
    macs = batch * per_map * (full + 2 * (full if low is None else low))
    bias = batch * taps * dim // cell.num_heads * full if cell.fc.has_bias else 0
    items = [Item(name, "fc", "II", macs, bias, **_size(cell.fc))]
    if cell.shift == "tensor":  # additions instead of products: one for each tap and output channel
        return [*items, Item(name, "shift", "II", batch * taps * dim * out_pixels)]
    return [*items, Item(name, "shift", "II", batch * taps * taps * dim * out_pixels, params=cell.dep_conv.weight.size)]


def _acmix(name: str, cell: ACmix, given: tuple, out: tuple) -> list[Item]:
    batch, in_channels, height, width = given
    pixels, dim, out_pixels = height * width, cell.out_channels, out[2] * out[3]
    projections = [cell.conv1, cell.conv2, cell.conv3]
    macs, bias = 3 * batch * in_channels * dim * pixels, 3 * batch * dim * pixels
    items = [Item(name, "project", "I", macs, bias, **_size(*projections))]
    if cell.mix != "conv":
        window = batch * cell.attn_kernel_size**2 * dim * out_pixels
        items.append(Item(name, "attention", "II", 2 * window, position=window))
        grid = 2 * dim // cell.num_heads * pixels
        items.append(Item(name, "position", "rest", 0, position=grid, **_size(cell.conv_p)))
    if cell.mix != "attention":
        items += _conv_path(name, cell, batch, dim, pixels, None, out_pixels)
    return items + _rates(name, cell)


def _window(name: str, cell: WindowACmix, given: tuple, out: tuple, *mask) -> list[Item]:
    batch, height, width, dim = given
    pixels = height * width
    bias = 3 * batch * dim * pixels if cell.qkv.has_bias else 0
    items = [Item(name, "project", "I", 3 * batch * dim * dim * pixels, bias, **_size(cell.qkv))]
    if cell.mix != "conv":
        table = cell.relative_position_bias_table.size
        items.append(Item(name, "attention", "II", 2 * batch * cell.length * dim * pixels, params=table))
        items.append(_proj(name, cell, batch, dim, pixels))
    if cell.mix != "attention":
        items += _conv_path(name, cell, batch, dim, pixels, None, pixels)
    return items + _rates(name, cell)


def _patchwise(name: str, cell: PatchwiseACmix, given: tuple, out: tuple) -> list[Item]:
    batch, in_channels, height, width = given
    pixels, out_pixels, dim = height * width, out[2] * out[3], cell.out_channels
    maps = 2 * cell.rel_channels + dim
    projections = [cell.conv1, cell.conv2, cell.conv3]
    macs, bias = batch * in_channels * maps * pixels, batch * maps * pixels
    items = [Item(name, "project", "I", macs, bias, **_size(*projections))]
    if cell.mix != "conv":
        taps, weights = cell.attn_kernel_size**2, dim // cell.share_channels
        per_pixel = cell.rel_channels * (taps + 1) * weights + weights * weights * taps
        items.append(
            Item(name, "weights", "II", batch * per_pixel * out_pixels, batch * taps * weights * out_pixels,
                 **_size(cell.conv_w))
        )  # fmt: skip
        items.append(Item(name, "attention", "II", batch * taps * dim * out_pixels))
    if cell.mix != "attention":
        items += _conv_path(name, cell, batch, dim, pixels, None, out_pixels)
    return items + _rates(name, cell)


def _reduction(name: str, cell: SpatialReductionACmix, given: tuple, out: tuple, height: int, width: int) -> list[Item]:
    batch, length, dim = given
    pixels = height * width
    low = (max(height, cell.sr_ratio) // cell.sr_ratio) * (max(width, cell.sr_ratio) // cell.sr_ratio)
    keys = length if cell.sr_ratio == 1 else low
    has_bias = cell.q.has_bias
    macs, bias = batch * dim * dim * (length + 2 * keys), batch * dim * (length + 2 * keys) * has_bias
    items = [Item(name, "project", "I", macs, bias, **_size(cell.q, cell.kv))]
    if cell.sr_ratio > 1:
        reduce = batch * dim * dim * cell.sr_ratio**2 * low
        seen = batch * dim * low
        items.append(Item(name, "reduce", "rest", reduce, seen, norm=seen, **_size(cell.sr, cell.norm)))
    if cell.mix != "conv":
        items.append(Item(name, "attention", "II", 2 * batch * length * keys * dim))
        items.append(_proj(name, cell, batch, dim, length))
    if cell.mix != "attention":
        items += _conv_path(name, cell, batch, dim, pixels, None if cell.sr_ratio == 1 else low, pixels)
    return items + _rates(name, cell)


def _proj(name: str, cell, batch: int, dim: int, tokens: int) -> Item:
    return Item(name, "proj", "rest", batch * dim * dim * tokens, batch * dim * tokens, **_size(cell.proj))


def _rates(name: str, cell) -> list[Item]:
    count = {"alpha_one": 1, "alpha": 1, "learned": 2}.get(cell.mix, 0)
    return [Item(name, "rates", "II", 0, params=count)] if count else []


RULES: dict[type, Callable] = {
    ACmix: _acmix,
    WindowACmix: _window,
    PatchwiseACmix: _patchwise,
    SpatialReductionACmix: _reduction,
    ShiftConv: _shift,
    nn.Conv2d: _conv,
    nn.Dense: _dense,
    nn.LayerNorm: _norm,
}
