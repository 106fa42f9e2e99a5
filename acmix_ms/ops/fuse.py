"""Exact re-parameterisation for inference: the train form in, a smaller net that computes the same out.

What is folded, and how a Cell takes part:

* in an `nn.SequentialCell` a Conv2d and the BatchNorm2d right behind it;
* the pairs that a Cell's class names in ``FOLD``, ``(("conv1", "bn1"), ...)``: attributes whose values follow each
  other directly in its ``construct``;
* a Cell with a method ``fused(norm, costs)`` gives what takes its place, with a BatchNorm2d that follows it (or None)
  folded in. It is called on a copy, so it may change itself. ACmix in all its forms has one (`acmix_ms.ops.fused`).
"""

from __future__ import annotations

import copy

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from acmix_ms.ops import kernels
from acmix_ms.ops.fold import Costs, costs_of, fold_norm, foldable

# Prices of a weight (`Costs.weight`), in multiply-adds of a dense convolution on the device, since these are a thousand
# times cheaper on one than on another: the first gives the fastest net, each further one a smaller.
PRICES = (0.0, 0.16, 0.54, 1.6, 5.4, 16.0, 54.0)
# What a Parameter adds to a MINDIR beside its numbers: its name, shape and operator. Measured on two ResNets.
BYTES_PER_PARAMETER = 800


def fuse(net: nn.Cell, backend: str | None = None) -> nn.Cell:
    """A net for evaluation that computes what ``net`` computes in evaluation, with less work.

    Of equivalent forms of a convolution path the fastest is built, by a rule of costs; where the weights of dense
    convolutions would make the file of the net larger than it was, those that gain least for their size give way.

    Args:
        net: any Cell; it is left as it is.
        backend: ``"Ascend"``, ``"GPU"`` or ``"CPU"``, whose costs count (`fold.COSTS`); None for the current one.

    Returns:
        A new Cell with parameters of its own, frozen where they are folded, for the kernels of this device unless it is
        called in `kernels.native`. Parts that nothing is known about are copied; a fused net is only copied.
    """
    costs, allowed = costs_of(backend or ms.get_context("device_target")), _file_size(net)
    for price in PRICES:
        fused = _fused(copy.deepcopy(net).set_train(False), None, costs._replace(weight=price * costs.dense))
        if _file_size(fused) <= allowed:
            break
    # A Cell that is put into a tree does not know the names above it.
    for name, value in fused.parameters_and_names():
        value.name = name
    return fused.set_train(False)


def fuse_for_export(net: nn.Cell, target: str | None = None) -> nn.Cell:
    """`fuse` with every device's own operators, by the costs of the device that will run the file.

    Args:
        target: this device, see `fuse`; None for the current one.
    """
    with kernels.native():
        return fuse(net, target)


def _file_size(net: nn.Cell) -> int:
    """About how many bytes the parameters of a net take in a file."""
    return sum(4 * value.size + BYTES_PER_PARAMETER for value in net.get_parameters())


def _fused(cell: nn.Cell, norm: nn.BatchNorm2d | None, costs: Costs) -> nn.Cell:
    """What takes the place of a Cell and of the BatchNorm behind it, if there is one that it can take in."""
    if hasattr(cell, "fused"):
        return cell.fused(norm, costs)
    if norm is not None:
        return fold_norm(cell, norm)
    _fold_pairs(cell, costs)
    for name, part in cell.name_cells().items():
        new = _fused(part, None, costs)
        if new is not part:
            _replace(cell, name, new)
    return cell


def _fold_pairs(cell: nn.Cell, costs: Costs) -> None:
    """Fold the BatchNorms of a Cell's own pairs; an identity takes their place."""
    parts = cell.name_cells()
    pairs = getattr(type(cell), "FOLD", ())
    if isinstance(cell, nn.SequentialCell):
        pairs = tuple(zip(parts, list(parts)[1:]))
    for producer, norm in pairs:
        first, second = parts.get(producer), parts.get(norm)
        if foldable(second) and (isinstance(first, nn.Conv2d) or hasattr(first, "fused")):
            _replace(cell, producer, _fused(first, second, costs))
            _replace(cell, norm, nn.Identity())


def _replace(cell: nn.Cell, name: str, new: nn.Cell) -> None:
    if isinstance(cell, (nn.SequentialCell, nn.CellList)):
        cell[list(cell.name_cells()).index(name)] = new
    else:
        setattr(cell, name, new)


# ------------------------------------------------------------------------------------------------------------ proof
def randomise(net: nn.Cell, seed: int = 0) -> nn.Cell:
    """Move every parameter and statistic away from where it starts, so that nothing is equal by accident.

    A fresh net proves nothing: alpha equals beta, biases are zero, a BatchNorm is the identity. Frozen kernels stay.
    """
    rng = np.random.default_rng(seed)
    for parameter in net.get_parameters():
        value, name = parameter.asnumpy(), parameter.name.rpartition(".")[2]
        if not parameter.requires_grad and not name.startswith("moving_"):
            continue
        noise = rng.standard_normal(value.shape)
        if name == "moving_variance":
            # Well above 1: else sums grow from block to block, and a softmax of huge logits magnifies rounding.
            value = 9 + 3 * np.abs(noise)
        elif value.size and value.std() > 0:  # weights keep their size, so that deep nets keep theirs
            value = value + 0.3 * value.std() * noise
        else:
            value = value + 0.2 * noise
        parameter.set_data(Tensor(value.astype(np.float32)))
    return net


def relative_difference(given: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude expected, in float64; nan where one of the two has nan."""
    given, expected = given.asnumpy().astype(np.float64), expected.asnumpy().astype(np.float64)
    return float(np.abs(given - expected).max() / np.maximum(np.abs(expected).max(), 1e-30))
