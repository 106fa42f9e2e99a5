"""SAN and SAN-ACmix (paper Figure 4b): pre-activation bottlenecks around patchwise attention, plain or mixed.

The official repository never released SAN-ACmix; this is the variant whose cost the paper prints: all five layers are
ACmix, and the convolution path sees q and k repeated to the channels of v.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from acmix_ms.backbone import Backbone
from acmix_ms.ops import PatchwiseACmix

from .layers import block_layers, init_convnet
from .registry import register_model, split_arguments

KERNELS = (3, 7, 7, 7, 7)
WIDTH = 64  # of the first layer


class Bottleneck(nn.Cell):
    """BN ReLU -> patchwise operator (c -> c/4) -> BN ReLU -> 1x1 (c/4 -> c), plus the identity."""

    FOLD = (("sam", "bn2"),)

    def __init__(self, channels: int, kernel_size: int, operator: dict):
        super().__init__()
        middle = channels // 4
        self.bn1 = nn.BatchNorm2d(channels)
        self.sam = PatchwiseACmix(
            channels, middle, rel_channels=channels // 16, attn_kernel_size=kernel_size, **operator
        )
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv = nn.Conv2d(middle, channels, 1, has_bias=True)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        y = self.sam(self.relu(self.bn1(x)))
        return self.conv(self.relu(self.bn2(y))) + x


class SAN(Backbone):
    """Images (B, in_channels, H, W) -> logits (B, num_classes), or the maps of the last four layers.

    Args:
        depths: blocks of each of the five layers.
        num_classes: size of the classifier.
        features_only: return the maps of layers 1 to 4 (strides 4, 8, 16, 32; sizes rounded down by the max-pools)
            instead of logits; ``feature_channels`` and ``feature_strides`` tell what they are.
        operator: further arguments of `PatchwiseACmix`.
        in_channels: of the images.
        width: channels of the first layer, a multiple of 16; 4, 8, 16, 32 times as many follow.
        kernels: side of the attention window in each of the five layers.
    """

    FOLD = (("conv_in", "bn_in"),)

    def __init__(
        self,
        depths: tuple[int, int, int, int, int],
        num_classes: int = 1000,
        *,
        features_only: bool = False,
        operator: dict | None = None,
        in_channels: int = 3,
        width: int = WIDTH,
        kernels: tuple[int, int, int, int, int] = KERNELS,
    ):
        super().__init__()
        channels = tuple(width * factor for factor in (1, 4, 8, 16, 32))
        self.features_only = features_only
        self.feature_strides = (4, 8, 16, 32)
        self.feature_channels = channels[1:]
        self.head_names = ("fc",)
        blocks = [block_layers(f"layer{i}", depths[i], (f"conv{i}",), (f"bn{i}",)) for i in range(5)]
        self.stages = ((("conv_in", "bn_in"),), *blocks)  # five, of which the last four give feature maps

        self.conv_in, self.bn_in = nn.Conv2d(in_channels, width, 1), nn.BatchNorm2d(width)
        before = (width,) + channels[:-1]
        convs = [nn.Conv2d(before[i], channels[i], 1) for i in range(5)]
        layers = [
            nn.SequentialCell([Bottleneck(channels[i], kernels[i], operator or {}) for _ in range(depths[i])])
            for i in range(5)
        ]
        norms = [nn.BatchNorm2d(c) for c in channels]
        self.conv0, self.conv1, self.conv2, self.conv3, self.conv4 = convs
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.bn0, self.bn1, self.bn2, self.bn3, self.bn4 = norms
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2)
        if not features_only:
            self.fc = nn.Dense(channels[-1], num_classes)
        init_convnet(self)

    def construct(self, x: Tensor):
        x = self.relu(self.bn_in(self.conv_in(x)))
        x = self.relu(self.bn0(self.layer0(self.conv0(self.pool(x)))))
        c2 = self.relu(self.bn1(self.layer1(self.conv1(self.pool(x)))))
        c3 = self.relu(self.bn2(self.layer2(self.conv2(self.pool(c2)))))
        c4 = self.relu(self.bn3(self.layer3(self.conv3(self.pool(c3)))))
        c5 = self.relu(self.bn4(self.layer4(self.conv4(self.pool(c4)))))
        if self.features_only:
            return c2, c3, c4, c5
        return self.fc(c5.mean((2, 3)))


SIZES = {
    "10": {"depths": (2, 1, 2, 4, 1)},
    "15": {"depths": (3, 2, 3, 5, 2)},
    "19": {"depths": (3, 3, 4, 6, 3)},
    # For 32x32 images: maps of 16, 8, 4, 2 and 1.
    "digits": {"depths": (1, 1, 2, 2, 1), "width": 16, "kernels": (3, 5, 5, 3, 3)},
}


# What the net itself says of its operators and layers.
OWN = ("depths", "operator", "width", "kernels", "rel_channels", "attn_kernel_size", "stride", "dilation")


def _san(size: str, num_classes: int, fixed: dict, **kwargs) -> SAN:
    options, operator = split_arguments(kwargs, SAN, PatchwiseACmix, without=(*OWN, *fixed))
    shared = {"share_channels": 4} if size == "digits" else {}  # its first layer has 4 channels of v, not 8
    return SAN(num_classes=num_classes, operator={**shared, **fixed, **operator}, **SIZES[size], **options)


@register_model
def san10(num_classes: int = 1000, **kwargs) -> SAN:
    """Plain SAN-10 (patchwise): 11.8M parameters, 1.9G multiply-adds at 224."""
    return _san("10", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def san15(num_classes: int = 1000, **kwargs) -> SAN:
    """Plain SAN-15 (patchwise): 16.2M parameters, 2.6G multiply-adds at 224."""
    return _san("15", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def san19(num_classes: int = 1000, **kwargs) -> SAN:
    """Plain SAN-19 (patchwise): 20.5M parameters, 3.3G multiply-adds at 224."""
    return _san("19", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def acmix_san10(num_classes: int = 1000, **kwargs) -> SAN:
    """SAN-ACmix 10: 12.0M parameters. Keyword arguments of `PatchwiseACmix` (``shift``, ``mix``, ...) are passed on."""
    return _san("10", num_classes, {}, **kwargs)


@register_model
def acmix_san15(num_classes: int = 1000, **kwargs) -> SAN:
    """SAN-ACmix 15: 16.4M parameters. Keyword arguments of `PatchwiseACmix` (``shift``, ``mix``, ...) are passed on."""
    return _san("15", num_classes, {}, **kwargs)


@register_model
def acmix_san19(num_classes: int = 1000, **kwargs) -> SAN:
    """SAN-ACmix 19: 20.8M parameters. Keyword arguments of `PatchwiseACmix` (``shift``, ``mix``, ...) are passed on."""
    return _san("19", num_classes, {}, **kwargs)


@register_model
def san_digits(num_classes: int = 1000, **kwargs) -> SAN:
    """A small plain SAN (patchwise) for 32x32 images."""
    return _san("digits", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def acmix_san_digits(num_classes: int = 1000, **kwargs) -> SAN:
    """`san_digits` with ACmix; takes keyword arguments of `PatchwiseACmix` (``shift``, ``mix``, ...) too."""
    return _san("digits", num_classes, {}, **kwargs)
