"""Pieces of work: the multiply-adds that papers count, and what a device multiplies and moves for them.

`rules` makes them from a Cell and its shapes, `complexity` adds up the first, `roofline` the second. Conventions:

* Multiply-adds are those of convention A of `complexity`; what other conventions add stands beside them.
* The matrix unit ("cube") multiplies 16x16 by 16x16, so rows, depth and columns of each product are padded to multiples
  of 16; a convolution has B*Ho*Wo rows, depth Cin for each tap (the padding is in the channels) and Cout columns. Each
  group is a product of its own: 9 -> 4 channels fill 36 of 256 places. Packing three neighbouring groups into one
  block-diagonal product could fill 54; whether kernels do is not published.
* Bytes, in half precision: inputs and weights are read, outputs are written, once each, two bytes an element, not
  padded; logits of a softmax have four. No credit for caches.
* ``fused``: BatchNorm, activations, sums and moves ride on their producer; an attention reads q, k, v and writes its
  output, nothing between touches memory; the projections of one input read it once. A LayerNorm and a pooling keep
  their pass. ``unfused``: every function reads and writes memory, as our form calls them.
* Vector work (softmax, LayerNorm, shift by additions) is counted in operations on single elements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from mindspore import nn

CUBE = 16  # side of the matrix unit
HALF, SINGLE = 2, 4  # bytes of an element
SOFTMAX_OPERATIONS = 6  # bias, maximum, difference, exponential, sum, division: each one operation of the vector unit
NORM_OPERATIONS = 7  # mean, difference, square, its mean, division, scale, shift


@dataclass(frozen=True)
class Work:
    """One piece of work of one Cell.

    Attributes:
        kind: what it is: ``conv``, ``dense``, ``project``, ``attention``, ``weights``, ``fc``, ``shift``, ``norm``, ...
        stage: ``"I"``, ``"II"`` (of the paper) or ``"rest"``.
        macs, bias, position, norm: multiply-adds of convention A, and what the others add.
        counter: what mmdetection's counter adds to the products: biases of convolutions, two for each element of a
            BatchNorm, one for each of a ReLU and before a pooling.
        additions: of a k x k convolution, k*k*C for each output pixel: its Stage II in Table 1, where its products are
            Stage I. No convention has them, because a multiply-add holds its addition.
        params: trainable or not, without the statistics of norms.
        biases: how many of them are biases, which the formulas of Table 1 leave out.
        cube: FLOPs of the matrix unit, padding and surplus logits included.
        vector: operations of the vector unit on single elements.
        fused, unfused: bytes to and from memory under either convention.
        kernel: of a convolution, such as ``"3x3"``.
        name: path of the Cell.
    """

    kind: str
    stage: str = "rest"
    macs: int = 0
    bias: int = 0
    position: int = 0
    norm: int = 0
    counter: int = 0
    additions: int = 0
    params: int = 0
    biases: int = 0
    cube: int = 0
    vector: int = 0
    fused: int = 0
    unfused: int = 0
    kernel: str = ""
    name: str = ""

    @property
    def label(self) -> str:
        """The kind, and of a convolution its kernel: ``conv3x3``."""
        return self.kind + self.kernel

    @property
    def flops(self) -> int:
        """Two for each multiply-add of the matrix unit; a shift by additions has none."""
        return 2 * self.macs if self.cube else 0

    @property
    def is_counted(self) -> bool:
        """Whether papers count it: moves, sums and activations have neither products nor parameters."""
        return any((self.macs, self.bias, self.position, self.norm, self.counter, self.additions, self.params))


def count_params(cells: Iterable[nn.Cell | None]) -> int:
    """Parameters of Cells, without running statistics."""
    parameters = [p for cell in cells if cell is not None for p in cell.get_parameters()]
    return sum(p.size for p in parameters if not p.name.rpartition(".")[2].startswith("moving_"))


def size(*cells: nn.Cell) -> dict[str, int]:
    """The fields ``params`` and ``biases`` of the work of these Cells."""
    biases = [p.size for cell in cells for p in cell.get_parameters() if p.name.rpartition(".")[2] == "bias"]
    return {"params": count_params(cells), "biases": sum(biases)}


# ----------------------------------------------------------------------------------------------------- building blocks
def padded(size: int) -> int:
    """The next multiple of the matrix unit's side."""
    return -(-size // CUBE) * CUBE


def product(groups: int, rows: int, depth: int, columns: int, taps: int = 1) -> dict[str, int]:
    """The fields ``macs`` and ``cube`` of ``groups`` products rows x (taps*depth) x columns."""
    cube = 2 * groups * padded(rows) * taps * padded(depth) * padded(columns)
    return {"macs": groups * rows * taps * depth * columns, "cube": cube}


def convolution(
    given: tuple, out: tuple, window: tuple[int, int], groups: int = 1, kind: str = "conv", **counts
) -> Work:
    """A convolution (B, Cin, H, W) -> (B, Cout, Ho, Wo) over a ``window``; ``counts`` are further fields."""
    batch, columns, height, width = out
    depth, taps = given[1] // groups, prod(window)
    moved = HALF * (prod(given) + prod(out) + columns * depth * taps)
    multiplied = product(groups, batch * height * width, depth, columns // groups, taps)
    return Work(kind, **multiplied, fused=moved, unfused=moved, **counts)


def linear(rows: int, depth: int, columns: int, kind: str = "dense", **counts) -> Work:
    """A linear layer (rows, depth) -> (rows, columns); ``counts`` are further fields."""
    moved = HALF * (rows * (depth + columns) + depth * columns)
    return Work(kind, **product(1, rows, depth, columns), fused=moved, unfused=moved, **counts)


def joined(kind: str, parts: Iterable[Work], shared: int = 0, **counts) -> Work:
    """Products as one piece; fused they read ``shared`` elements of their input less."""
    parts = list(parts)
    moved = sum(part.unfused for part in parts)
    macs, cube = sum(part.macs for part in parts), sum(part.cube for part in parts)
    return Work(kind, macs=macs, cube=cube, fused=moved - HALF * shared, unfused=moved, **counts)


def layer_norm(elements: int, **counts) -> Work:
    """A norm over some axis of ``elements`` elements."""
    moved = 2 * HALF * elements
    return Work("norm", vector=NORM_OPERATIONS * elements, fused=moved, unfused=moved, **counts)


def passes(kind: str, elements: int) -> Work:
    """Moves and elementwise functions that touch ``elements`` elements: nothing where they are fused."""
    return Work(kind, unfused=HALF * elements)


def attention(
    macs: int, groups: int, queries: int, keys: int, dim: int, maps: int, biases: int, copies: int = 0, **counts
) -> Work:
    """softmax(q k' + biases) v of ``groups`` products.

    Args:
        macs: of the mathematics, where the products hold more than that.
        groups, queries, keys, dim: of the two products.
        maps: elements of q, k, v and out.
        biases: how many are added to the logits.
        copies: elements that q, k, v and out have as blocks, if they are made.
        counts: further fields.
    """
    cube = product(groups, queries, dim, keys)["cube"] + product(groups, queries, keys, dim)["cube"]
    logits = groups * queries * keys
    # Written, cast to single, biases added, softmax, cast back, read.
    each = 4 * HALF + 4 * SINGLE + 2 * SINGLE * biases
    moved = {"fused": HALF * maps, "unfused": HALF * (copies or maps) + each * logits}
    return Work("attention", "II", macs, cube=cube, vector=SOFTMAX_OPERATIONS * logits, **moved, **counts)
