"""What every segmentor promises to data, training, evaluation and export."""

from __future__ import annotations

from abc import abstractmethod

from mindspore import Tensor, nn
from mindspore.common.initializer import Normal

from ..layers import DropChannels
from .losses import cross_entropy


class Head(nn.Cell):
    """Base class of heads: what a class makes of maps gets a dropout of channels and one last convolution.

    Args:
        num_classes: channels of the logits.
        channels: of what the convolution takes.
        drop: rate of dropout.
    """

    def __init__(self, num_classes: int, channels: int, drop: float):
        super().__init__()
        self.num_classes = num_classes
        self.dropout = DropChannels(drop, channels)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1, has_bias=True, weight_init=Normal(0.01), bias_init="zeros")

    def classified(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> logits (B, num_classes, h, w)."""
        return self.conv_seg(self.dropout(x))


class Segmentor(nn.Cell):
    """Base class: images (B, 3, H, W) -> logits (B, num_classes, h, w) of the head's own stride; with labels (B, H, W)
    -> a tuple of losses, float32, named by ``terms``.

    Attributes:
        num_classes: of pixels; there is no class for what does not count.
        in_half: names of the Cells that compute in 16 bits where a training does; losses stay in float32.
        terms: names of the losses, whose sum is minimised; mmsegmentation's.
        head_names: first parts of the names of parameters that another ``num_classes`` changes.
        least_images: so many on one device are needed in training.
        auxiliary_weight: of the losses of further heads.
    """

    terms: tuple[str, ...] = ("decode.loss_ce",)
    in_half: tuple[str, ...] = ("backbone", "neck", "decode_head")
    head_names: tuple[str, ...] = ("decode_head.conv_seg",)
    least_images = 1
    auxiliary_weight = 1.0

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def construct(self, x: Tensor, *targets: Tensor):
        found = self.all_logits(self.backbone(x), bool(targets))
        return self.losses(found, *targets) if targets else found[0]

    def losses(self, found: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, ...]:
        """Of what `all_logits` gives for an image and its labels."""
        terms = (cross_entropy(found[0], labels),)
        for logits in found[1:]:
            terms += (cross_entropy(logits, labels) * self.auxiliary_weight,)
        return terms

    @abstractmethod
    def all_logits(self, maps: tuple[Tensor, ...], with_losses: bool) -> tuple[Tensor, ...]:
        """Logits from the maps of the backbone: of the head, and of further ones that only losses want."""
