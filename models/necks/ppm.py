"""Pyramid pooling (Zhao et al. 2017): what is seen of a map as a whole, with mmsegmentation's order of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from mindspore import Tensor, nn

from acmix_ms.ops.resizing import average_pool, resize_bilinear

from ..layers import NormedReLU

SCALES = (1, 2, 3, 6)


class AveragePool(nn.Cell):
    """(B, C, H, W) -> (B, C, side, side), see `average_pool`."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def construct(self, x: Tensor) -> Tensor:
        return average_pool(x, self.side)

    def work(self, given: tuple, out: tuple) -> list[dict]:
        """For `acmix_ms.analysis`: means have no products; mmdetection's counter has one for each value."""
        return [{"kind": "pool", "macs": 0, "counter": prod(given)}]


def pyramid_pooling(in_channels: int, channels: int, scales: Sequence[int] = SCALES) -> nn.CellList:
    """For each scale: means over so many parts of each axis, and a convolution of them to so many channels."""
    return nn.CellList(
        [nn.SequentialCell(AveragePool(scale), NormedReLU(in_channels, channels, 1)) for scale in scales]
    )


def pooled(parts: nn.CellList, x: Tensor) -> tuple[Tensor, ...]:
    """What each part of a `pyramid_pooling` makes of a map (B, C, H, W): (B, channels, H, W)."""
    found = ()
    for part in parts:
        found += (resize_bilinear(part(x), *x.shape[2:]),)
    return found
