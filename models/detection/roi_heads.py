"""Heads of the second stage: what is in a RoI, where exactly, and its mask, with mmdetection's names of parameters."""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal, XavierUniform

from acmix_ms.ops import boxes as geometry
from acmix_ms.ops.kernels import Dense

from ..layers import NormedConv, kaiming
from ..necks.fpn import ConvModule


class BoxHead(nn.Cell):
    """RoIs (N, C, size, size) -> logits (N, num_classes + 1), the last of background, and deltas (N, num_classes*4).

    Args:
        num_classes: of objects.
        in_channels, size: of the RoIs.
        convs, channels: so many convolutions with BatchNorm come first, of so many channels.
        fcs, hidden: so many linear layers of so many values follow.
    """

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: int = 256,
        size: int = 7,
        *,
        convs: int = 0,
        channels: int = 256,
        fcs: int = 2,
        hidden: int = 1024,
    ):
        super().__init__()
        widths = [in_channels] + [channels] * convs
        self.shared_convs = nn.CellList([NormedConv(a, b) for a, b in zip(widths, widths[1:])])
        widths = [widths[-1] * size * size] + [hidden] * fcs
        self.shared_fcs = nn.CellList([Dense(a, b, XavierUniform(), "zeros") for a, b in zip(widths, widths[1:])])
        self.fc_cls = Dense(widths[-1], num_classes + 1, Normal(0.01), "zeros")
        self.fc_reg = Dense(widths[-1], num_classes * 4, Normal(0.001), "zeros")
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.shared_convs:
            x = self.relu(conv(x))
        x = x.reshape(x.shape[0], -1)
        for fc in self.shared_fcs:
            x = self.relu(fc(x))
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Cell):
    """RoIs (N, C, 14, 14) -> logits (N, num_classes, 28, 28), a mask of each class.

    Args:
        num_classes: of objects.
        in_channels: of the RoIs.
        convs, channels: so many convolutions come first, of so many channels.
    """

    def __init__(self, num_classes: int = 80, in_channels: int = 256, *, convs: int = 4, channels: int = 256):
        super().__init__()
        widths = [in_channels] + [channels] * convs
        self.convs = nn.CellList([ConvModule(a, b, 3, weight_init=kaiming()) for a, b in zip(widths, widths[1:])])
        self.upsample = nn.Conv2dTranspose(
            widths[-1], channels, 2, 2, pad_mode="valid", has_bias=True, weight_init=kaiming(), bias_init="zeros"
        )
        self.conv_logits = nn.Conv2d(
            channels, num_classes, 1, has_bias=True, weight_init=kaiming(), bias_init="zeros", pad_mode="valid"
        )
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.relu(conv(x))
        return self.conv_logits(self.relu(self.upsample(x)))


class RoIHead(nn.Cell):
    """Holds ``bbox_head`` and ``mask_head``: one of each, or lists of those of each stage."""

    def __init__(self, bbox_head: BoxHead | nn.CellList, mask_head: MaskHead | nn.CellList):
        super().__init__()
        self.bbox_head, self.mask_head = bbox_head, mask_head


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """(N, classes, ...) and (N,) int32 -> (N, ...): of each row what belongs to its class."""
    count, classes = values.shape[:2]
    row = geometry.numbers(count).astype(labels.dtype) * classes + labels
    return ops.gather(values.reshape(count * classes, *values.shape[2:]), row, 0)
