"""ResNet and ResNet-ACmix (paper Figure 4a): bottleneck nets whose 3x3 convolutions are plain, ACmix or another's."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import Tensor, nn

from acmix_ms.backbone import Backbone
from acmix_ms.ops import ACmix

from .layers import ZeroPadMaxPool, block_layers, init_convnet
from .registry import register_model, split_arguments

EXPANSION = 4


def spatial_builder(operator: dict | Callable | None) -> Callable[[int, int, int], nn.Cell]:
    """What builds the Cell in the place of a 3x3 convolution, from (stage 0 to 3, channels, stride)."""
    if callable(operator):
        return operator
    if operator is None:
        return lambda stage, channels, stride: nn.Conv2d(channels, channels, 3, stride, pad_mode="pad", padding=1)
    return lambda stage, channels, stride: ACmix(channels, channels, stride=stride, **operator)


class Bottleneck(nn.Cell):
    """1x1 -> spatial Cell (a 3x3 or what replaces it, with the stride) -> 1x1, plus the identity: torchvision's v1.5
    block.
    """

    FOLD = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int, spatial: nn.Cell):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = spatial
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.SequentialCell(
                nn.Conv2d(in_channels, out_channels, 1, stride, pad_mode="valid"), nn.BatchNorm2d(out_channels)
            )

    def construct(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + identity)


class ResNet(Backbone):
    """Images (B, in_channels, H, W) -> logits (B, num_classes), or the maps of the four stages.

    Args:
        depths: blocks of each stage.
        num_classes: size of the classifier.
        features_only: return (C2, C3, C4, C5) instead of logits; ``feature_channels`` and ``feature_strides`` tell
            what they are.
        operator: arguments of `ACmix` (``{}`` for the paper's), None for plain 3x3 convolutions, or a function
            ``(stage, channels, stride) -> Cell`` that builds what takes their place; stages count from 0.
        widths: channels of the 3x3 convolution of each stage; four times as many leave it.
        spatial_widths: other channels for the spatial Cells alone.
        stem: ``"imagenet"`` (7x7/2 and 3x3/2 max-pool, stride 4) or ``"small"`` (3x3/2 for small images, stride 2).
        in_channels: of the images.
    """

    FOLD = (("conv1", "bn1"),)

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        *,
        features_only: bool = False,
        operator: dict | Callable[[int, int, int], nn.Cell] | None = None,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        spatial_widths: tuple[int, int, int, int] | None = None,
        stem: str = "imagenet",
        in_channels: int = 3,
    ):
        super().__init__()
        self.features_only = features_only
        self.any_size = operator is None
        self.head_names = ("fc",)
        blocks = [block_layers(f"layer{i + 1}", depths[i]) for i in range(4)]
        self.stages = ((("conv1", "bn1"),), *blocks)
        first = 4 if stem == "imagenet" else 2
        self.feature_strides = tuple(first * 2**i for i in range(4))
        self.feature_channels = tuple(width * EXPANSION for width in widths)

        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, widths[0], 7, 2, pad_mode="pad", padding=3)
            self.maxpool = ZeroPadMaxPool()
        else:
            self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 2, pad_mode="pad", padding=1)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()

        build, channels = spatial_builder(operator), (widths[0],) + self.feature_channels
        stages = []
        for i, width in enumerate(spatial_widths or widths):
            blocks = []
            for j in range(depths[i]):
                stride, before = (1 if i == 0 or j else 2), channels[i + 1 if j else i]
                blocks.append(Bottleneck(before, width, channels[i + 1], stride, build(i, width, stride)))
            stages.append(nn.SequentialCell(blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        if not features_only:
            self.fc = nn.Dense(self.feature_channels[-1], num_classes)
        init_convnet(self)

    def construct(self, x: Tensor):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        if self.features_only:
            return c2, c3, c4, c5
        return self.fc(c5.mean((2, 3)))


DEPTHS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3)}
DIGITS = {"depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128), "stem": "small"}


def plain_resnet(num_classes: int, net: dict, **kwargs) -> ResNet:
    """A ResNet with 3x3 convolutions; ``net`` are the arguments that make the model what it is."""
    options, _ = split_arguments(kwargs, ResNet, without=tuple(net))
    return ResNet(num_classes=num_classes, **net, **options)


def operator_resnet(num_classes: int, net: dict, fixed: dict, **kwargs) -> ResNet:
    """A ResNet with ACmix in the place of its 3x3 convolutions.

    Args:
        net: arguments of `ResNet` that make the model what it is.
        fixed: such arguments of `ACmix`.
        kwargs: further ones of either.
    """
    options, operator = split_arguments(kwargs, ResNet, ACmix, without=(*OWN, *fixed))
    return ResNet(num_classes=num_classes, operator={**fixed, **operator}, **net, **options)


# What the net itself says of its operators and stages.
OWN = ("depths", "stride", "operator", "widths", "spatial_widths", "stem")


@register_model
def resnet26(num_classes: int = 1000, **kwargs) -> ResNet:
    """Plain ResNet-26: 13.7M parameters, 2.3G multiply-adds at 224."""
    return plain_resnet(num_classes, {"depths": DEPTHS[26]}, **kwargs)


@register_model
def resnet38(num_classes: int = 1000, **kwargs) -> ResNet:
    """Plain ResNet-38: 19.6M parameters, 3.2G multiply-adds at 224."""
    return plain_resnet(num_classes, {"depths": DEPTHS[38]}, **kwargs)


@register_model
def resnet50(num_classes: int = 1000, **kwargs) -> ResNet:
    """Plain ResNet-50: 25.6M parameters, 4.1G multiply-adds at 224."""
    return plain_resnet(num_classes, {"depths": DEPTHS[50]}, **kwargs)


@register_model
def resnet_digits(num_classes: int = 1000, **kwargs) -> ResNet:
    """Plain twin of `acmix_resnet_digits`."""
    return plain_resnet(num_classes, DIGITS, **kwargs)


@register_model
def acmix_resnet26(num_classes: int = 1000, **kwargs) -> ResNet:
    """ResNet-ACmix 26: 10.5M parameters. Keyword arguments of `ACmix` (``shift``, ``mix``, ...) are passed on."""
    return operator_resnet(num_classes, {"depths": DEPTHS[26]}, {}, **kwargs)


@register_model
def acmix_resnet38(num_classes: int = 1000, **kwargs) -> ResNet:
    """ResNet-ACmix 38: 14.4M parameters. Keyword arguments of `ACmix` (``shift``, ``mix``, ...) are passed on."""
    return operator_resnet(num_classes, {"depths": DEPTHS[38]}, {}, **kwargs)


@register_model
def acmix_resnet50(num_classes: int = 1000, **kwargs) -> ResNet:
    """ResNet-ACmix 50: 18.3M parameters. Keyword arguments of `ACmix` (``shift``, ``mix``, ...) are passed on."""
    return operator_resnet(num_classes, {"depths": DEPTHS[50]}, {}, **kwargs)


@register_model
def acmix_resnet_digits(num_classes: int = 1000, **kwargs) -> ResNet:
    """Small ResNet-ACmix for 32x32 images: one block in each stage, 16 to 128 channels, stem of stride 2."""
    return operator_resnet(num_classes, DIGITS, {}, **kwargs)
