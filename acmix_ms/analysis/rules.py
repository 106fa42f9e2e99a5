"""The work of every kind of Cell: one rule for each, from the shapes of what it takes and gives to pieces of `Work`.

The attention of a window is counted as its mathematics has it (k*k taps for a query), and multiplied as our form does
it: halo blocks with all their logits, patchwise sums as one row a pixel. The trained form is described: nothing is
folded for inference. The position term, a constant of the map's size, moves nothing.

A Cell of another package joins in with a method ``work(given, out, *rest)``: from the shapes of its first input and of
its output (a tuple of shapes where these are several tensors), and what comes after its first input, to a list of
dictionaries, fields of `Work`. Without ``cube`` its multiply-adds fill the matrix unit, and without ``unfused`` its
input, output and parameters are moved once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from mindspore import nn

from acmix_ms.analysis.work import HALF, Work, attention, convolution, joined, layer_norm, linear, passes, product, size
from acmix_ms.ops import ACmix, PatchwiseACmix, ShiftConv, SpatialReductionACmix, WindowACmix
from acmix_ms.ops.neighborhood import BLOCK


# ---------------------------------------------------------------------------------------------------------- plain Cells
def _conv(cell: nn.Conv2d, given: tuple, out: tuple) -> list[Work]:
    height, width = cell.weight.shape[2:]
    bias = prod(out) if cell.has_bias else 0
    counts = {"bias": bias, "counter": bias, **size(cell)}
    if height * width > 1:
        counts.update(kernel=f"{height}x{width}", additions=prod(out) * height * width)
    return [convolution(given, out, (height, width), cell.group, **counts)]


def _transposed(cell: nn.Conv2dTranspose, given: tuple, out: tuple) -> list[Work]:
    """Each pixel that comes in is multiplied with the whole kernel."""
    bias, window = prod(out) if cell.has_bias else 0, tuple(cell.kernel_size)
    moved = HALF * (prod(given) + prod(out) + cell.weight.size)
    rows = given[0] * prod(given[2:])
    multiplied = product(cell.group, rows, given[1] // cell.group, prod(window) * out[1] // cell.group)
    return [Work("deconv", **multiplied, bias=bias, counter=bias, fused=moved, unfused=moved, **size(cell))]


def _dense(cell: nn.Dense, given: tuple, out: tuple) -> list[Work]:
    bias = prod(out) if cell.has_bias else 0
    return [linear(prod(given[:-1]), given[-1], out[-1], bias=bias, **size(cell))]


def _layer_norm(cell: nn.LayerNorm, given: tuple, out: tuple) -> list[Work]:
    return [layer_norm(prod(given), norm=prod(given), **size(cell))]


def _shift(cell: ShiftConv, given: tuple, out: tuple) -> list[Work]:
    counts = {"stage": "II", "params": cell.weight.size}
    return [convolution(given, out, tuple(cell.weight.shape[2:]), cell.groups, "shift", **counts)]


def _pool(cell: nn.Cell, given: tuple, out: tuple) -> list[Work]:
    moved = HALF * (prod(given) + prod(out))
    return [Work("pool", counter=prod(given), fused=moved, unfused=moved)]


def _pass(kind: str, counter: int = 0) -> Callable:
    def rule_of(cell: nn.Cell, given: tuple, out: tuple) -> list[Work]:
        return [replace(passes(kind, prod(given) + prod(out)), counter=counter * prod(out))]

    return rule_of


def _declared(cell: nn.Cell, given: tuple, out: tuple, *rest) -> list[Work]:
    """A Cell that this module does not know tells its work itself."""
    pieces, maps = [], HALF * (elements(given) + elements(out))
    for fields in cell.work(given, out, *rest):
        moved = HALF * fields.get("params", 0) + maps
        pieces.append(Work(**{"cube": 2 * fields["macs"], "fused": moved, "unfused": moved, **fields}))
        maps = 0
    return pieces


def elements(shape: tuple) -> int:
    """Of a tensor of this shape, or of tensors of these shapes."""
    return sum(map(elements, shape)) if shape and isinstance(shape[0], tuple) else prod(shape)


# --------------------------------------------------------------------------------------------------- the forms of ACmix
def _projections(rows: int, depth: int, *columns: int, **counts) -> Work:
    """1x1 convolutions of one input: fused they read it once."""
    parts = [linear(rows, depth, each) for each in columns]
    return joined("project", parts, rows * depth * (len(parts) - 1), stage="I", **counts)


def _proj(cell, tokens: int, dim: int) -> Work:
    return linear(tokens, dim, dim, "proj", bias=dim * tokens, **size(cell.proj))


def _conv_path(cell, batch: int, dim: int, full: tuple, low: tuple | None, out: tuple) -> list[Work]:
    """fc and shift: q at ``full``, k and v at ``low`` (None: the same), the output at ``out`` (height, width)."""
    heads, taps = cell.num_heads, cell.conv_kernel_size**2
    per_head, pixels, out_pixels = dim // heads, batch * prod(full), batch * prod(out)
    features = per_head * taps  # channels between fc and shift
    bias = features * pixels if cell.fc.has_bias else 0
    counts = {"bias": bias, "counter": bias, **size(cell.fc)}
    if low is None:
        pieces = [_fc(3 * heads, taps, per_head * pixels, **counts), passes("move", 2 * features * pixels)]
    else:
        few = batch * prod(low)
        grown = _fc(2 * heads, taps, per_head * few)
        # k and v come back to full size (two gathers) and are added: fused that is one reading of the few.
        grown = replace(grown, fused=grown.fused + HALF * features * few)
        pieces = [_fc(heads, taps, per_head * pixels, **counts), grown]
        pieces.append(passes("move", features * (3 * pixels + 3 * few + 2 * batch * full[0] * low[1])))
        pieces.append(passes("sum", features * 3 * pixels))
    if cell.shift == "tensor":
        # Additions instead of products, one for each tap and output channel: papers count them in their place.
        # Each tap: two slices with zeros, one addition; then the sums are repeated for the heads.
        additions = taps * dim * out_pixels
        moved = HALF * (features * pixels + dim * out_pixels)
        slices = HALF * (taps * 7 * per_head * pixels + (dim + per_head) * out_pixels)
        return [*pieces, Work("shift", "II", additions, vector=additions, fused=moved, unfused=slices)]
    return [*pieces, *_shift(cell.dep_conv, (batch, features, *full), (batch, dim, *out))]


def _fc(maps: int, taps: int, rows: int, **counts) -> Work:
    return linear(rows, maps, taps, "fc", stage="II", **counts)


def _sum(cell, elements: int) -> list[Work]:
    """alpha * attention + beta * conv: fused it is one more reading of the attention."""
    if cell.mix in ("attention", "conv"):
        return []
    scaled = {"sum": 0, "alpha_one": 1}.get(cell.mix, 2)
    rates = {"alpha_one": 1, "alpha": 1, "learned": 2}.get(cell.mix, 0)
    moved = {"fused": HALF * elements, "unfused": HALF * elements * (3 + 2 * scaled)}
    return [Work("sum", **moved), *([Work("rates", "II", params=rates)] if rates else [])]


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
    batch, depth, *sides = given
    dim, pixels, out_pixels = cell.out_channels, batch * prod(sides), batch * prod(out[2:])
    bias = 3 * dim * pixels
    counts = {"bias": bias, "counter": bias, **size(cell.conv1, cell.conv2, cell.conv3)}
    pieces = [_projections(pixels, depth, dim, dim, dim, **counts)]
    if cell.mix != "conv":
        heads, taps = cell.num_heads, cell.attn_kernel_size**2
        if cell.backend == "halo":
            blocks, queries, keys = _halo(tuple(sides), cell.attn_kernel_size, cell.stride, cell.dilation)
            gathered = blocks > 1 or cell.stride > 1
        else:
            blocks, queries, keys, gathered = prod(out[2:]), 1, taps, True
        copies = 2 * batch * dim * blocks * (queries + keys)
        window = taps * dim * out_pixels
        maps = dim * (3 * pixels + out_pixels)
        groups = batch * heads * blocks
        biases = int(cell.backend == "halo")
        per_head = dim // heads
        pieces.append(
            attention(2 * window, groups, queries, keys, per_head, maps, biases, copies, position=window)
        )  # fmt: skip
        # Scale of q, position of k, three transposes; gathers of the blocks and of the result; a transpose of it.
        moved = 10 * dim * pixels + gathered * 2 * copies + 2 * dim * out_pixels
        pieces.append(passes("move", moved))
        pieces.append(Work("position", position=2 * per_head * prod(sides), **size(cell.conv_p)))
    if cell.mix != "attention":
        pieces += [passes("move", 6 * dim * pixels), *_conv_path(cell, batch, dim, tuple(sides), None, out[2:])]
    return pieces + _sum(cell, dim * out_pixels)


def _window(cell: WindowACmix, given: tuple, out: tuple, *mask) -> list[Work]:
    batch, *sides, dim = given
    pixels = batch * prod(sides)
    bias = 3 * dim * pixels if cell.qkv.has_bias else 0
    pieces = [linear(pixels, dim, 3 * dim, "project", stage="I", bias=bias, **size(cell.qkv))]
    if cell.mix != "conv":
        groups, heads, length = pixels // cell.length, cell.num_heads, cell.length
        biases = 1 + sum(part is not None for part in mask)
        macs, maps, table = 2 * length * dim * pixels, 4 * dim * pixels, cell.relative_position_bias_table.size
        pieces.append(
            attention(macs, groups * heads, length, length, dim // heads, maps, biases, params=table)
        )  # fmt: skip
        # Windows, heads and split of q, k, v; scale of q; heads and windows of the result.
        pieces += [passes("move", 2 * (9 + 1 + 2) * dim * pixels), _proj(cell, pixels, dim)]
    if cell.mix != "attention":
        pieces += [passes("move", 8 * dim * pixels), *_conv_path(cell, batch, dim, tuple(sides), None, tuple(sides))]
    return pieces + _sum(cell, dim * pixels)


def _patchwise(cell: PatchwiseACmix, given: tuple, out: tuple) -> list[Work]:
    batch, depth, *sides = given
    pixels, out_pixels, dim, few = batch * prod(sides), batch * prod(out[2:]), cell.out_channels, cell.rel_channels
    bias = (2 * few + dim) * pixels
    counts = {"bias": bias, "counter": bias, **size(cell.conv1, cell.conv2, cell.conv3)}
    pieces = [_projections(pixels, depth, few, few, dim, **counts)]
    if cell.mix != "conv":
        taps, weights = cell.attn_kernel_size**2, dim // cell.share_channels
        spelled = few * (taps + 1)  # channels of a query with all its keys
        layers = linear(out_pixels, spelled, weights), linear(out_pixels, weights, taps * weights)
        bias = taps * weights * out_pixels
        # The two norms and ReLUs of conv_w too.
        counted = bias + 3 * (spelled + weights) * out_pixels
        counts = {"stage": "II", "bias": bias, "counter": counted, **size(cell.conv_w)}
        both = joined("weights", layers, **counts)
        # The keys spelled out and joined to q, two norms and ReLUs; the ideal kernel reads q and k.
        around = few * pixels + out_pixels * (few * taps + 2 * spelled + 4 * spelled + 4 * weights)
        ideal = HALF * (2 * few * pixels + (spelled + taps * weights) * weights)
        pieces.append(replace(both, fused=ideal, unfused=both.unfused + HALF * around))
        rows = product(out_pixels * weights, 1, taps, cell.share_channels)
        values, given_weights = taps * dim * out_pixels, taps * weights * out_pixels
        ideal = HALF * dim * (pixels + out_pixels)
        # Values spelled out and read; weights transposed and read; two transposes of v, one of the result.
        moved = HALF * (3 * values + 3 * given_weights + dim * (2 * pixels + 3 * out_pixels))
        pieces.append(Work("attention", "II", **rows, fused=ideal, unfused=moved))
    if cell.mix != "attention":
        repeated = 2 * (few + dim) * pixels + 6 * dim * pixels  # q and k repeated; joined to v
        pieces += [passes("move", repeated), *_conv_path(cell, batch, dim, tuple(sides), None, out[2:])]
    return pieces + _sum(cell, dim * out_pixels)


def _reduction(cell: SpatialReductionACmix, given: tuple, out: tuple, height: int, width: int) -> list[Work]:
    batch, length, dim = given
    ratio, heads, sides = cell.sr_ratio, cell.num_heads, (height, width)
    low = tuple(max(side, ratio) // ratio for side in sides)
    pixels, few = batch * height * width, batch * prod(low)
    keys = length if ratio == 1 else prod(low)
    layers = linear(batch * length, dim, dim), linear(batch * keys, dim, 2 * dim)
    bias = batch * dim * (length + 2 * keys) if cell.q.has_bias else 0
    pieces = [joined("project", layers, stage="I", bias=bias, **size(cell.q, cell.kv))]
    if ratio > 1:
        bias = dim * few
        # Those of its norm are here.
        counts = {"bias": bias, "counter": bias, "norm": bias, **size(cell.sr, cell.norm)}
        maps = (batch, dim, *sides), (batch, dim, *low)
        pieces.append(convolution(*maps, (ratio, ratio), kind="reduce", **counts))
        pieces += [passes("move", 2 * dim * (pixels + few)), layer_norm(few * dim)]
    if cell.mix != "conv":
        maps, macs = 2 * batch * dim * (length + keys), 2 * batch * length * keys * dim
        pieces.append(attention(macs, batch * heads, length, keys, dim // heads, maps, 0))
        # Heads and scale of q, heads and split of k and v, heads of the result.
        pieces.append(passes("move", 2 * batch * dim * (3 * length + 4 * keys)))
        pieces.append(_proj(cell, batch * length, dim))
    if cell.mix != "attention":
        reduced = None if ratio == 1 else low
        # Tokens to maps (and joined where nothing is reduced), and back.
        moved = 2 * dim * (2 * pixels + 2 * few) + (6 * dim * pixels if ratio == 1 else 0)
        pieces += [passes("move", moved), *_conv_path(cell, batch, dim, sides, reduced, sides)]
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
    (nn.Conv2dTranspose,): _transposed,
    (nn.Dense,): _dense,
    (nn.LayerNorm,): _layer_norm,
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d): _pass("norm", 2),
    (nn.GroupNorm,): _pass("norm"),
    (nn.ReLU, nn.ReLU6): _pass("activation", 1),
    (nn.GELU, nn.Sigmoid, nn.SiLU, nn.HSwish): _pass("activation"),
    (nn.MaxPool2d, nn.AvgPool2d): _pool,
    (nn.Pad,): _pass("move"),
}
