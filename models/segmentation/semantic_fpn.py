"""Semantic FPN (Kirillov et al. 2019) with mmsegmentation's settings and names of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn

from acmix_ms.backbone import Backbone
from acmix_ms.ops.resizing import resize_bilinear

from ..layers import NormedReLU
from ..necks.fpn import FPN
from .base import Head, Segmentor


class Upsample(nn.Cell):
    """(B, C, h, w) -> (B, C, 2h, 2w), bilinear."""

    def construct(self, x: Tensor) -> Tensor:
        return resize_bilinear(x, 2 * x.shape[2], 2 * x.shape[3])


class FPNHead(Head):
    """Maps of a pyramid, the finest first -> logits (B, num_classes, h, w) in the size of the finest.

    Each map goes through as many 3x3 convolutions as it has to be doubled, at least one; then all are added up.

    Args:
        num_classes: of pixels.
        in_channels, strides: of the maps.
        channels: of the convolutions.
        drop: rate of dropout before the last one.
    """

    def __init__(
        self, num_classes: int, in_channels: int, strides: Sequence[int], channels: int = 128, drop: float = 0.1
    ):
        super().__init__(num_classes, channels, drop)
        stages = []
        for stride in strides:
            doublings, parts, given = (stride // strides[0]).bit_length() - 1, [], in_channels
            for _ in range(max(1, doublings)):
                parts += [NormedReLU(given, channels), *([Upsample()] if doublings else [])]
                given = channels
            stages.append(nn.SequentialCell(parts))
        self.scale_heads = nn.CellList(stages)

    def construct(self, maps: tuple[Tensor, ...]) -> Tensor:
        found = self.scale_heads[0](maps[0])
        for i in range(1, len(self.scale_heads)):
            # Where a side is no multiple of the stride, doubling gives another size than that of the finest map.
            found = found + resize_bilinear(self.scale_heads[i](maps[i]), *found.shape[2:])
        return self.classified(found)


class SemanticFPN(Segmentor):
    """See `Segmentor`.

    Args:
        backbone: with ``features_only``.
        num_classes: of pixels.
        channels: of the pyramid.
        head_channels: of the head.
        drop: rate of dropout before the last convolution.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 150,
        *,
        channels: int = 256,
        head_channels: int = 128,
        drop: float = 0.1,
    ):
        super().__init__(num_classes)
        self.backbone = backbone
        strides = backbone.feature_strides
        self.neck = FPN(backbone.feature_channels, channels, num_outs=len(strides))
        self.decode_head = FPNHead(num_classes, channels, strides, head_channels, drop)

    def all_logits(self, maps: tuple[Tensor, ...], with_losses: bool) -> tuple[Tensor, ...]:
        """Those of the one head."""
        return (self.decode_head(self.neck(maps)),)
