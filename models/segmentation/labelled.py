"""Segmentors whose answer is the class of each pixel, in plain operators of fixed shapes: what is exported."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from acmix_ms.ops.resizing import resize_bilinear

from .base import Segmentor


class Labelled(nn.Cell):
    """Images (B, 3, H, W) which fill a canvas (H, W) -> the class of each pixel (B, H, W) int32.

    Logits are enlarged and compared in float32, whatever the net computes in.

    Args:
        net: in the forms that the file shall have.
        canvas: (H, W).
    """

    def __init__(self, net: Segmentor, canvas: tuple[int, int]):
        super().__init__(auto_prefix=False)
        self.net, self.canvas = net, canvas
        self.in_half = tuple(f"net.{name}" for name in net.in_half)
        self.best = ops.Argmax(1, ms.int32)

    def construct(self, images: Tensor) -> Tensor:
        height, width = self.canvas
        return self.best(resize_bilinear(self.net(images).astype(ms.float32), height, width))
