"""UPerNet (Xiao et al. 2018) with mmsegmentation's settings and names of parameters, as Swin Transformer uses it."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn, ops

from acmix_ms.backbone import Backbone
from acmix_ms.errors import UserError
from acmix_ms.ops.resizing import resize_bilinear

from ..layers import NormedReLU
from ..necks.ppm import SCALES, pooled, pyramid_pooling
from .base import Head, Segmentor


@ops.constexpr(reuse_result=False)
def _require_images(count: int) -> None:
    if count < 2:
        raise UserError(
            "UPerNet cannot train with one image per device: its pooling to one value leaves BatchNorm a single value "
            "for each channel; give at least 2 (data.batch_size=2), or set train.sync_bn=true on several devices"
        )


class UPerHead(Head):
    """Maps of a backbone, the finest first -> logits (B, num_classes, h, w) in the size of the finest.

    Args:
        num_classes: of pixels.
        in_channels: of the maps.
        channels: of the pyramid.
        scales: of the pyramid pooling.
        drop: rate of dropout before the last convolution.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        channels: int = 512,
        scales: Sequence[int] = SCALES,
        drop: float = 0.1,
    ):
        super().__init__(num_classes, channels, drop)
        *finer, last = in_channels
        self.levels = len(finer)
        self.psp_modules = pyramid_pooling(last, channels, scales)
        self.bottleneck = NormedReLU(last + len(scales) * channels, channels)
        self.lateral_convs = nn.CellList([NormedReLU(given, channels, 1) for given in finer])
        self.fpn_convs = nn.CellList([NormedReLU(channels, channels) for _ in finer])
        self.fpn_bottleneck = NormedReLU((self.levels + 1) * channels, channels)

    def construct(self, maps: tuple[Tensor, ...]) -> Tensor:
        if self.training and isinstance(self.bottleneck.bn, nn.BatchNorm2d):
            _require_images(maps[0].shape[0])
        merged = self.bottleneck(ops.cat((maps[-1], *pooled(self.psp_modules, maps[-1])), 1))
        size = maps[0].shape[2:]
        found = (resize_bilinear(merged, *size),)
        for i in range(self.levels - 1, -1, -1):
            finer = self.lateral_convs[i](maps[i])
            merged = finer + resize_bilinear(merged, *finer.shape[2:])
            found = (resize_bilinear(self.fpn_convs[i](merged), *size), *found)
        return self.classified(self.fpn_bottleneck(ops.cat(found, 1)))


class FCNHead(Head):
    """One map -> logits of its size, through one 3x3 convolution; helps in training alone."""

    def __init__(self, num_classes: int, in_channels: int, channels: int = 256, drop: float = 0.1):
        super().__init__(num_classes, channels, drop)
        self.convs = nn.CellList([NormedReLU(in_channels, channels)])

    def construct(self, x: Tensor) -> Tensor:
        return self.classified(self.convs[0](x))


class UPerNet(Segmentor):
    """See `Segmentor`; the auxiliary head sees the map before the last one, if there are several.

    Args:
        backbone: with ``features_only``.
        num_classes: of pixels.
        channels: of the head.
        auxiliary_channels: of the auxiliary head.
        auxiliary_weight: of its loss.
        drop: rate of dropout before the last convolution of each head.
    """

    terms = ("decode.loss_ce", "aux.loss_ce")
    in_half = ("backbone", "decode_head", "auxiliary_head")
    head_names = ("decode_head.conv_seg", "auxiliary_head.conv_seg")
    least_images = 2

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 150,
        *,
        channels: int = 512,
        auxiliary_channels: int = 256,
        auxiliary_weight: float = 0.4,
        drop: float = 0.1,
    ):
        super().__init__(num_classes)
        self.backbone = backbone
        self.auxiliary_weight = auxiliary_weight
        self.decode_head = UPerHead(num_classes, backbone.feature_channels, channels, drop=drop)
        self.auxiliary_head = FCNHead(num_classes, backbone.feature_channels[-2:][0], auxiliary_channels, drop)

    def all_logits(self, maps: tuple[Tensor, ...], with_losses: bool) -> tuple[Tensor, ...]:
        """Those of the head and, where a loss is wanted, of the auxiliary head."""
        logits = self.decode_head(maps)
        return (logits, self.auxiliary_head(maps[-2:][0])) if with_losses else (logits,)
