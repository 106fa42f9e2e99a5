"""What shape a Cell would give, so that large nets are traced without computing their layers."""

from __future__ import annotations

from mindspore import nn

from acmix_ms.ops import ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix

AS_GIVEN = (
    *(WindowACmix, SpatialReductionACmix, nn.LayerNorm, nn.ReLU, nn.ReLU6, nn.GELU),
    *(nn.BatchNorm1d, nn.BatchNorm2d),
)
MAPS = (ACmix, PatchwiseACmix)


def shape_of(cell: nn.Cell, given: tuple[int, ...]) -> tuple[int, ...] | None:
    """Of the output of a Cell for an input of a shape; None where only computing tells."""
    if isinstance(cell, AS_GIVEN):
        return given
    if isinstance(cell, nn.Dense):
        return None if cell.activation_flag else (*given[:-1], cell.out_channels)
    if isinstance(cell, MAPS):
        return (given[0], cell.out_channels, *(-(-side // cell.stride) for side in given[2:]))
    if isinstance(cell, nn.Conv2d) and not isinstance(cell, nn.Conv2dTranspose):
        return (given[0], cell.out_channels, *map(_side, [cell] * 2, (0, 1), given[2:]))
    return None


def _side(cell: nn.Conv2d, axis: int, side: int) -> int:
    """Of the output of a convolution along one axis."""
    stride = cell.stride[axis]
    if cell.pad_mode == "same":
        return -(-side // stride)
    padding = cell.padding if isinstance(cell.padding, tuple) else (cell.padding,) * 4
    around = sum(padding[2 * axis : 2 * axis + 2]) if cell.pad_mode == "pad" else 0
    return (side + around - cell.dilation[axis] * (cell.kernel_size[axis] - 1) - 1) // stride + 1
