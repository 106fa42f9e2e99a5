"""What every Cell of a network multiplies and moves: FLOPs, FLOPs of a padded matrix unit, and bytes in half precision.

A rule for each kind of Cell turns the shapes of its input and output into `Work`; `trace` finds them. Conventions:

* A multiply-add is two FLOPs. Only products count, as in convention A of `complexity`: the totals agree.
* The matrix unit ("cube") multiplies 16x16 by 16x16, so rows, depth and columns of each product are padded to multiples
  of 16; a convolution has B*Ho*Wo rows, depth Cin for each tap (the padding is in the channels) and Cout columns. Each
  group is a product of its own: 9 -> 4 channels fill 36 of 256 places. Packing three neighbouring groups into one
  block-diagonal product could fill 54; whether kernels do is not published.
* The attention is multiplied as our form does it: halo blocks with all their logits, patchwise sums as one row a pixel.
* Bytes: inputs and weights are read, outputs are written, once each, two bytes an element, not padded; logits of a
  softmax have four. No credit for caches.
* ``fused``: BatchNorm, activations, sums and moves ride on their producer; an attention reads q, k, v and writes its
  output, nothing between touches memory; the projections of one input read it once. A LayerNorm and a pooling keep
  their pass. ``unfused``: every function reads and writes memory, as our form calls them.
* Vector work (softmax, LayerNorm, shift by additions) is counted in operations on single elements.
* Functions between Cells (a residual sum, GELU, a transpose, a roll) are one pass, in ``unfused`` only: see `trace`.
* The trained form is counted: nothing is folded for inference. The position term, a constant of the map's size, is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from mindspore import nn

from acmix_ms.ops import ACmix, PatchwiseACmix, ShiftConv, SpatialReductionACmix, WindowACmix
from acmix_ms.ops.neighborhood import BLOCK

CUBE = 16  # side of the matrix unit
HALF, SINGLE = 2, 4  # bytes of an element
SOFTMAX_OPERATIONS = 6  # bias, maximum, difference, exponential, sum, division: each one operation of the vector unit
NORM_OPERATIONS = 7  # mean, difference, square, its mean, division, scale, shift


@dataclass(frozen=True)
class Work:
    """One piece of work of one Cell.

    Attributes:
        kind: ``conv``, ``dense``, ``project``, ``attention``, ``weights``, ``fc``, ``shift``, ``sum``, ``norm``, ...
        flops: two for each product of the mathematics.
        cube: what the matrix unit does for them, padding and surplus logits included.
        vector: operations of the vector unit on single elements.
        fused, unfused: bytes to and from memory under either convention.
        name: path of the Cell.
    """

    kind: str
    flops: int = 0
    cube: int = 0
    vector: int = 0
    fused: int = 0
    unfused: int = 0
    name: str = ""


# ----------------------------------------------------------------------------------------------------- building blocks
def padded(size: int) -> int:
    """The next multiple of the matrix unit's side."""
    return -(-size // CUBE) * CUBE


def product(groups: int, rows: int, depth: int, columns: int, taps: int = 1) -> tuple[int, int]:
    """(FLOPs, FLOPs of the padded matrix unit) of ``groups`` products rows x (taps*depth) x columns."""
    exact = 2 * groups * rows * taps * depth * columns
    return exact, 2 * groups * padded(rows) * taps * padded(depth) * padded(columns)


def convolution(given: tuple, out: tuple, kernel: tuple[int, int], groups: int = 1, *, kind: str = "conv") -> Work:
    """A convolution (B, Cin, H, W) -> (B, Cout, Ho, Wo), without a bias."""
    batch, columns, height, width = out
    depth, taps = given[1] // groups, prod(kernel)
    size = HALF * (prod(given) + prod(out) + columns * depth * taps)
    return Work(kind, *product(groups, batch * height * width, depth, columns // groups, taps), 0, size, size)


def linear(rows: int, depth: int, columns: int, *, kind: str = "dense") -> Work:
    """A linear layer (rows, depth) -> (rows, columns), without a bias."""
    size = HALF * (rows * (depth + columns) + depth * columns)
    return Work(kind, *product(1, rows, depth, columns), 0, size, size)


def passes(kind: str, elements: int) -> Work:
    """Moves and elementwise functions that touch ``elements`` elements: nothing where they are fused."""
    return Work(kind, unfused=HALF * elements)


def _attention(flops: int, groups: int, queries: int, keys: int, dim: int, maps: int, biases: int, copies: int = 0):
    """softmax(q k' + biases) v of ``groups`` products; ``copies``: elements that q, k, v and out have as blocks."""
    cube = product(groups, queries, dim, keys)[1] + product(groups, queries, keys, dim)[1]
    logits = groups * queries * keys
    # Written, cast to single, biases added, softmax, cast back, read.
    each = 4 * HALF + 4 * SINGLE + 2 * SINGLE * biases
    unfused = HALF * (copies or maps) + each * logits
    return Work("attention", flops, cube, SOFTMAX_OPERATIONS * logits, HALF * maps, unfused)


# ------------------------------------------------------------------------------------------------ rules of plain Cells
def _conv(cell: nn.Conv2d, given: tuple, out: tuple) -> list[Work]:
    return [convolution(given, out, tuple(cell.weight.shape[2:]), cell.group)]


def _dense(cell: nn.Dense, given: tuple, out: tuple) -> list[Work]:
    return [linear(prod(given[:-1]), given[-1], out[-1])]


def _layer_norm(cell: nn.LayerNorm, given: tuple, out: tuple) -> list[Work]:
    size = 2 * HALF * prod(given)
    return [Work("norm", 0, 0, NORM_OPERATIONS * prod(given), size, size)]


def _batch_norm(cell: nn.Cell, given: tuple, out: tuple) -> list[Work]:
    return [passes("norm", prod(given) + prod(out))]


def _activation(cell: nn.Cell, given: tuple, out: tuple) -> list[Work]:
    return [passes("activation", prod(given) + prod(out))]


def _pool(cell: nn.Cell, given: tuple, out: tuple) -> list[Work]:
    size = HALF * (prod(given) + prod(out))
    return [Work("pool", fused=size, unfused=size)]


def _move(cell: nn.Cell, given: tuple, out: tuple) -> list[Work]:
    return [passes("move", prod(given) + prod(out))]


def _shift(cell: ShiftConv, given: tuple, out: tuple) -> list[Work]:
    return [convolution(given, out, tuple(cell.weight.shape[2:]), cell.groups, kind="shift")]


def _declared(cell: nn.Cell, given: tuple, out: tuple, *rest) -> list[Work]:
    """A Cell that tells only its multiply-adds (see `complexity`): no padding, its input and output moved once."""
    pieces, maps = [], HALF * (prod(given) + prod(out))
    for piece in cell.work(given, out):
        flops, size = 2 * piece["macs"], HALF * piece.get("params", 0) + maps
        pieces.append(Work(piece["kind"], flops, flops, 0, size, size))
        maps = 0
    return pieces


# --------------------------------------------------------------------------------------------------- rules of the forms
def _projections(rows: int, depth: int, *columns: int) -> Work:
    """1x1 convolutions of one input: fused they read it once."""
    parts = [linear(rows, depth, each) for each in columns]
    total = sum(part.unfused for part in parts)
    again = HALF * rows * depth * (len(parts) - 1)
    return Work("project", sum(p.flops for p in parts), sum(p.cube for p in parts), 0, total - again, total)


def _conv_path(cell, batch: int, dim: int, full: tuple, low: tuple | None, out: tuple) -> list[Work]:
    """fc and shift: q at ``full``, k and v at ``low`` (None: the same), the output at ``out`` (height, width)."""
    heads, taps = cell.num_heads, cell.conv_kernel_size**2
    per_head, pixels, out_pixels = dim // heads, batch * prod(full), batch * prod(out)
    features = per_head * taps  # channels between fc and shift
    if low is None:
        pieces = [_fc(3 * heads, taps, per_head * pixels), passes("move", 2 * features * pixels)]
    else:
        few = batch * prod(low)
        grown = _fc(2 * heads, taps, per_head * few)
        # k and v come back to full size (two gathers) and are added: fused that is one reading of the few.
        pieces = [_fc(heads, taps, per_head * pixels), replace(grown, fused=grown.fused + HALF * features * few)]
        pieces.append(passes("move", features * (3 * pixels + 3 * few + 2 * batch * full[0] * low[1])))
        pieces.append(passes("sum", features * 3 * pixels))
    if cell.shift == "tensor":
        # Each tap: two slices with zeros, one addition; then the sums are repeated for the heads.
        size = HALF * (features * pixels + dim * out_pixels)
        slices = HALF * (taps * 7 * per_head * pixels + (dim + per_head) * out_pixels)
        return [*pieces, Work("shift", 0, 0, taps * dim * out_pixels, size, slices)]
    given = (batch, features, *full)
    return [*pieces, *_shift(cell.dep_conv, given, (batch, dim, *out))]


def _fc(maps: int, taps: int, rows: int) -> Work:
    return linear(rows, maps, taps, kind="fc")


def _sum(cell, elements: int) -> list[Work]:
    """alpha * attention + beta * conv: fused it is one more reading of the attention."""
    if cell.mix in ("attention", "conv"):
        return []
    scaled = {"sum": 0, "alpha_one": 1}.get(cell.mix, 2)
    return [Work("sum", fused=HALF * elements, unfused=HALF * elements * (3 + 2 * scaled))]


def _halo(size: tuple, kernel: int, stride: int, dilation: int) -> tuple[int, int, int]:
    """(blocks, queries in a block, keys in its halo) of `neighborhood`."""
    outs = [-(-side // stride) for side in size]
    if max(outs) <= BLOCK:
        return 1, prod(outs), prod(size)
    counts = [-(-out // BLOCK) for out in outs]
    blocks = [-(-out // count) for out, count in zip(outs, counts)]
    spans = [stride * (block - 1) + 2 * dilation * (kernel // 2) + 1 for block in blocks]
    return prod(counts), prod(blocks), prod(spans)


def _acmix(cell: ACmix, given: tuple, out: tuple) -> list[Work]:
    batch, depth, *size = given
    dim, pixels, out_pixels = cell.out_channels, batch * prod(size), batch * prod(out[2:])
    pieces = [_projections(pixels, depth, dim, dim, dim)]
    if cell.mix != "conv":
        heads, taps = cell.num_heads, cell.attn_kernel_size**2
        if cell.backend == "halo":
            blocks, queries, keys = _halo(tuple(size), cell.attn_kernel_size, cell.stride, cell.dilation)
            gathered = blocks > 1 or cell.stride > 1
        else:
            blocks, queries, keys, gathered = prod(out[2:]), 1, taps, True
        copies = 2 * batch * dim * blocks * (queries + keys)
        flops = 4 * taps * dim * out_pixels
        maps = dim * (3 * pixels + out_pixels)
        groups = batch * heads * blocks
        biases = int(cell.backend == "halo")
        pieces.append(_attention(flops, groups, queries, keys, dim // heads, maps, biases, copies))
        # Scale of q, position of k, three transposes; gathers of the blocks and of the result; a transpose of it.
        moved = 10 * dim * pixels + gathered * 2 * copies + 2 * dim * out_pixels
        pieces.append(passes("move", moved))
    if cell.mix != "attention":
        pieces += [passes("move", 6 * dim * pixels), *_conv_path(cell, batch, dim, tuple(size), None, out[2:])]
    return pieces + _sum(cell, dim * out_pixels)


def _window(cell: WindowACmix, given: tuple, out: tuple, *mask) -> list[Work]:
    batch, *size, dim = given
    pixels = batch * prod(size)
    pieces = [linear(pixels, dim, 3 * dim, kind="project")]
    if cell.mix != "conv":
        groups, heads, length = pixels // cell.length, cell.num_heads, cell.length
        biases = 1 + sum(part is not None for part in mask)
        flops, maps = 4 * length * dim * pixels, 4 * dim * pixels
        pieces.append(_attention(flops, groups * heads, length, length, dim // heads, maps, biases))
        # Windows, heads and split of q, k, v; scale of q; heads and windows of the result.
        pieces += [passes("move", 2 * (9 + 1 + 2) * dim * pixels), linear(pixels, dim, dim, kind="proj")]
    if cell.mix != "attention":
        pieces += [passes("move", 8 * dim * pixels), *_conv_path(cell, batch, dim, tuple(size), None, tuple(size))]
    return pieces + _sum(cell, dim * pixels)


def _patchwise(cell: PatchwiseACmix, given: tuple, out: tuple) -> list[Work]:
    batch, depth, *size = given
    pixels, out_pixels, dim, few = batch * prod(size), batch * prod(out[2:]), cell.out_channels, cell.rel_channels
    pieces = [_projections(pixels, depth, few, few, dim)]
    if cell.mix != "conv":
        taps, weights = cell.attn_kernel_size**2, dim // cell.share_channels
        spelled = few * (taps + 1)  # channels of a query with all its keys
        first, second = linear(out_pixels, spelled, weights), linear(out_pixels, weights, taps * weights)
        # The keys spelled out and joined to q, two norms and ReLUs; the ideal kernel reads q and k.
        around = few * pixels + out_pixels * (few * taps + 2 * spelled + 4 * spelled + 4 * weights)
        unfused = first.unfused + second.unfused + HALF * around
        fused = HALF * (2 * few * pixels + (spelled + taps * weights) * weights)
        pieces.append(Work("weights", first.flops + second.flops, first.cube + second.cube, 0, fused, unfused))
        rows = product(out_pixels * weights, 1, taps, cell.share_channels)
        values, given_weights = taps * dim * out_pixels, taps * weights * out_pixels
        ideal = HALF * dim * (pixels + out_pixels)
        # Values spelled out and read; weights transposed and read; two transposes of v, one of the result.
        moved = HALF * (3 * values + 3 * given_weights + dim * (2 * pixels + 3 * out_pixels))
        pieces.append(Work("attention", *rows, 0, ideal, moved))
    if cell.mix != "attention":
        repeated = 2 * (few + dim) * pixels + 6 * dim * pixels  # q and k repeated; joined to v
        pieces += [passes("move", repeated), *_conv_path(cell, batch, dim, tuple(size), None, out[2:])]
    return pieces + _sum(cell, dim * out_pixels)


def _reduction(cell: SpatialReductionACmix, given: tuple, out: tuple, height: int, width: int) -> list[Work]:
    batch, length, dim = given
    ratio, heads, size = cell.sr_ratio, cell.num_heads, (height, width)
    low = tuple(max(side, ratio) // ratio for side in size)
    pixels, few = batch * height * width, batch * prod(low)
    keys = length if ratio == 1 else prod(low)
    query, key_value = linear(batch * length, dim, dim), linear(batch * keys, dim, 2 * dim)
    flops, cube = query.flops + key_value.flops, query.cube + key_value.cube
    bytes_moved = query.fused + key_value.fused
    pieces = [Work("project", flops, cube, 0, bytes_moved, bytes_moved)]
    if ratio > 1:
        pieces.append(convolution((batch, dim, *size), (batch, dim, *low), (ratio, ratio), kind="reduce"))
        pieces += [passes("move", 2 * dim * (pixels + few)), *_layer_norm(cell.norm, (few, dim), (few, dim))]
    if cell.mix != "conv":
        maps = 2 * batch * dim * (length + keys)
        mathematics = 4 * batch * length * keys * dim
        pieces.append(_attention(mathematics, batch * heads, length, keys, dim // heads, maps, 0))
        # Heads and scale of q, heads and split of k and v, heads of the result.
        pieces.append(passes("move", 2 * batch * dim * (3 * length + 4 * keys)))
        pieces.append(linear(batch * length, dim, dim, kind="proj"))
    if cell.mix != "attention":
        reduced = None if ratio == 1 else low
        # Tokens to maps (and joined where nothing is reduced), and back.
        moved = 2 * dim * (2 * pixels + 2 * few) + (6 * dim * pixels if ratio == 1 else 0)
        pieces += [passes("move", moved), *_conv_path(cell, batch, dim, size, reduced, size)]
    return pieces + _sum(cell, batch * length * dim)


def rule(cell: nn.Cell) -> Callable | None:
    """The rule of a Cell, from (cell, shape given, shape out, further arguments) to a list of `Work`; None without."""
    if hasattr(cell, "work"):
        return _declared
    return next((found for kinds, found in RULES.items() if isinstance(cell, kinds)), None)


RULES: dict[tuple[type, ...], Callable] = {
    (ACmix,): _acmix,
    (WindowACmix,): _window,
    (PatchwiseACmix,): _patchwise,
    (SpatialReductionACmix,): _reduction,
    (ShiftConv,): _shift,
    (nn.Conv2d,): _conv,
    (nn.Dense,): _dense,
    (nn.LayerNorm,): _layer_norm,
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm): _batch_norm,
    (nn.ReLU, nn.ReLU6, nn.GELU, nn.Sigmoid, nn.SiLU, nn.HSwish): _activation,
    (nn.MaxPool2d, nn.AvgPool2d): _pool,
    (nn.Pad,): _move,
}
