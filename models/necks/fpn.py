"""The feature pyramid of detectors and segmentors (Lin et al. 2017), with mmdetection's names of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn
from mindspore.common.initializer import XavierUniform

from acmix_ms.ops import kernels

EXTRA = ("conv", "pool")


class ConvModule(nn.Cell):
    """A convolution under the name ``conv``, which keeps the size, or with stride 2 halves it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, weight_init=None):
        super().__init__()
        init = {"weight_init": weight_init} if weight_init is not None else {}
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=kernel_size // 2, has_bias=True,
            bias_init="zeros", **init,
        )  # fmt: skip

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FPN(nn.Cell):
    """Maps of a backbone, the finest first -> ``num_outs`` maps (B, out_channels, h, w).

    Args:
        in_channels: of the maps that come in.
        out_channels: of all that come out.
        num_outs: how many; those beyond the ones that come in are each half as large as the one before.
        start_level: number of the first map that is used.
        extra: of those beyond, ``"conv"`` makes the first from the last map that comes in and each of the others from
            the one before (RetinaNet: P6 and P7, without a ReLU between them), ``"pool"`` takes every second value of
            the last map (Mask R-CNN: P6).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        num_outs: int = 5,
        start_level: int = 0,
        extra: str = "pool",
    ):
        super().__init__()
        if extra not in EXTRA:
            raise ValueError(f"extra={extra!r}: choose from {', '.join(EXTRA)}")
        used = list(in_channels)[start_level:]
        if num_outs < len(used):
            raise ValueError(f"num_outs={num_outs}: must be at least {len(used)}, the maps that come in")
        self.start_level, self.extra, self.num_extra = start_level, extra, num_outs - len(used)
        self.lateral_convs = nn.CellList([ConvModule(c, out_channels, 1, weight_init=XavierUniform()) for c in used])
        convs = [ConvModule(out_channels, out_channels, 3, weight_init=XavierUniform()) for _ in used]
        if extra == "conv":
            for given in [used[-1]] + [out_channels] * (self.num_extra - 1):
                convs.append(ConvModule(given, out_channels, 3, 2, weight_init=XavierUniform()))
        self.fpn_convs = nn.CellList(convs)
        self.levels = len(used)

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        maps = maps[self.start_level :]
        merged = self.lateral_convs[self.levels - 1](maps[self.levels - 1])
        outs = (self.fpn_convs[self.levels - 1](merged),)
        for i in range(self.levels - 2, -1, -1):
            finer = self.lateral_convs[i](maps[i])
            merged = finer + kernels.resize_nearest(merged, *finer.shape[2:])
            outs = (self.fpn_convs[i](merged), *outs)
        last = maps[self.levels - 1]
        for i in range(self.num_extra):
            if self.extra == "conv":
                last = self.fpn_convs[self.levels + i](last)
            else:
                last = outs[self.levels + i - 1][:, :, ::2, ::2]
            outs = (*outs, last)
        return outs
