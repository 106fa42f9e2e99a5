"""What Figure 4a compares ResNet-ACmix with: other operators in the place of the 3x3 convolutions of ResNet.

Written from their papers, in the words of `models.resnet`: SASA (our own attention path alone), attention-augmented
convolution, BoTNet and LR-Net. A Cell's ``work`` tells `acmix_ms.analysis.complexity` what it computes.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from acmix_ms.ops import functional as F
from acmix_ms.ops import kernels
from acmix_ms.ops.base import check_multiple, check_odd, check_positive
from acmix_ms.ops.fold import Costs, fold_norm
from acmix_ms.ops.neighborhood import aggregate, unfold

from .layers import resize_table
from .registry import register_model, split_arguments
from .resnet import DEPTHS, OWN, ResNet, operator_resnet, spatial_builder


def _size(*cells: nn.Cell) -> int:
    return sum(parameter.size for cell in cells for parameter in cell.get_parameters())


# ----------------------------------------------------------------------- global attention with relative positions
@ops.constexpr
def _distances(size: int) -> Tensor:
    """Row of a table of 2S - 1 distances for each query and key on a line of S positions: (S*S,) int32."""
    positions = np.arange(size, dtype=np.int32)
    return Tensor((positions - positions[:, None] + size - 1).ravel())


def relative_logits(q: Tensor, table: Tensor) -> Tensor:
    """q . (embedding of the distance to each position) along one axis, for rows of S positions.

    q (B, P, S, d), table (2S - 1, d), row j - i + S - 1 for a query at i and a key at j -> (B, P, S, S).
    """
    _, rows, size, dim = q.shape
    embeddings = ops.gather(table.astype(q.dtype), _distances(size), 0).reshape(size, size, dim)  # (query, key, d)
    x = ops.transpose(q.reshape(-1, size, dim), (1, 0, 2))  # (S, B*P, d)
    x = ops.BatchMatMul(False, True)(x, embeddings)  # (S, B*P, S)
    return ops.transpose(x, (1, 0, 2)).reshape(-1, rows, size, size)


class RelativeAttention(nn.Cell):
    """All-to-all attention of maps with relative position logits for height and width, the tables shared by heads.

    q, k (B, N*d, H, W), v (B, N*e, H, W) -> (B, N*e, H, W), any H and W: the tables are resized to the map.

    Args:
        key_dim: d, channels per head of q and k.
        num_heads: N.
        side: side of the map that the tables are made for.
    """

    def __init__(self, key_dim: int, num_heads: int, side: int):
        super().__init__()
        self.key_dim, self.num_heads = key_dim, num_heads
        shape, scale = (2 * side - 1, key_dim), Normal(key_dim**-0.5)
        self.rel_height = Parameter(initializer(scale, shape, ms.float32), name="rel_height")
        self.rel_width = Parameter(initializer(scale, shape, ms.float32), name="rel_width")

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width, dim = q.shape[2], q.shape[3], self.key_dim
        pixels, channels = height * width, v.shape[1]
        q = kernels.times(ops.transpose(q.reshape(-1, dim, pixels), (0, 2, 1)), dim**-0.5)  # (B*N, H*W, d)
        v = ops.transpose(v.reshape(-1, channels // self.num_heads, pixels), (0, 2, 1))  # (B*N, H*W, e)
        logits = ops.BatchMatMul()(q, k.reshape(-1, dim, pixels))  # (B*N, H*W, H*W)
        rows = q.reshape(-1, height, width, dim)
        across = relative_logits(rows, resize_table(self.rel_width, 2 * width - 1))  # (B*N, H, W, W)
        columns = ops.transpose(rows, (0, 2, 1, 3))  # (B*N, W, H, d)
        down = relative_logits(columns, resize_table(self.rel_height, 2 * height - 1))  # (B*N, W, H, H)
        down = ops.transpose(down, (0, 2, 1, 3)).reshape(-1, pixels, height, 1)
        logits = logits.reshape(-1, pixels, height, width) + across.reshape(-1, pixels, 1, width) + down
        weights = ops.softmax(logits.reshape(-1, pixels, pixels).astype(ms.float32), -1)
        out = ops.BatchMatMul()(weights.astype(v.dtype), v)  # (B*N, H*W, e)
        return ops.transpose(out, (0, 2, 1)).reshape(-1, channels, height, width)

    def pieces(self, batch: int, height: int, width: int, value_channels: int) -> list[dict]:
        """Its work for a map: attention, and q against the distances to each row and each column."""
        tokens, keys = batch * height * width, self.key_dim * self.num_heads
        return [
            {"kind": "attention", "stage": "II", "macs": tokens * height * width * (keys + value_channels)},
            {"kind": "relative", "stage": "II", "macs": tokens * (height + width) * keys, "params": _size(self)},
        ]


class BottleneckAttention(nn.Cell):
    """BoTNet's MHSA in the place of a 3x3 convolution: (B, C, H, W) -> (B, C, ceil(H/stride), ceil(W/stride)).

    With a stride, all-to-all attention at full size and an average pool after it.

    Args:
        channels: C, divisible by ``num_heads``.
        side: side of the map that the relative positions are made for.
        stride, num_heads: as they say.
    """

    def __init__(self, channels: int, side: int, stride: int = 1, num_heads: int = 4):
        super().__init__()
        check_positive(channels=channels, side=side, stride=stride, num_heads=num_heads)
        check_multiple(channels=channels, num_heads=num_heads)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.attention = RelativeAttention(channels // num_heads, num_heads, side)
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, stride, pad_mode="same")

    def construct(self, x: Tensor) -> Tensor:
        return self.pool(self.attention(self.query(x), self.key(x), self.value(x)))

    def fused(self, norm: nn.BatchNorm2d | None, costs: Costs) -> BottleneckAttention:
        """With a BatchNorm behind it folded into the value: attention and pool weigh with weights that sum to 1."""
        self.value = fold_norm(self.value, norm) if norm is not None else self.value
        return self

    def work(self, given: tuple, out: tuple) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        batch, channels, height, width = given
        macs, params = 3 * batch * channels**2 * height * width, _size(self.query, self.key, self.value)
        project = {"kind": "project", "stage": "I", "macs": macs, "params": params}
        return [project, *self.attention.pieces(batch, height, width, channels)]


class AugmentedConv(nn.Cell):
    """Attention-augmented 3x3 convolution: a share of the channels comes from all-to-all attention, the rest from the
    convolution. (B, C, H, W) -> (B, C, ceil(H/stride), ceil(W/stride)); with a stride the attention sees every
    stride-th pixel.

    Args:
        channels: C.
        side: side of the output map that the relative positions are made for.
        stride, num_heads: as they say.
        key_share, value_share: kappa and upsilon, channels of the keys and of the attention's output over C.
        min_key_dim: least channels per head of the keys.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        stride: int = 1,
        num_heads: int = 8,
        key_share: float = 0.2,
        value_share: float = 0.1,
        min_key_dim: int = 20,
    ):
        super().__init__()
        check_positive(channels=channels, side=side, stride=stride, num_heads=num_heads)
        key_dim = max(round(key_share * channels / num_heads), min_key_dim)
        self.keys, self.values = key_dim * num_heads, max(round(value_share * channels / num_heads), 1) * num_heads
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels - self.values, 3, stride, pad_mode="pad", padding=1)
        self.qkv = nn.Conv2d(channels, 2 * self.keys + self.values, 1)
        self.attention = RelativeAttention(key_dim, num_heads, side)
        self.proj = nn.Conv2d(self.values, self.values, 1)

    def construct(self, x: Tensor) -> Tensor:
        qkv = self.qkv(F.subsample(x, self.stride))
        q, k, v = qkv[:, : self.keys], qkv[:, self.keys : 2 * self.keys], qkv[:, 2 * self.keys :]
        return ops.cat((self.conv(x), self.proj(self.attention(q, k, v))), 1)

    def fused(self, norm: nn.BatchNorm2d | None, costs: Costs) -> AugmentedConv:
        """With a BatchNorm behind it folded into both of its parts."""
        if norm is not None:
            channels = self.conv.out_channels
            self.conv = fold_norm(self.conv, norm, slice(None, channels))
            self.proj = fold_norm(self.proj, norm, slice(channels, None))
        return self

    def work(self, given: tuple, out: tuple) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        batch, channels, height, width = out
        pixels = batch * height * width
        pieces = [
            {"kind": kind, "stage": stage, "macs": pixels * cell.weight.size, "params": _size(cell)}
            for kind, stage, cell in (
                ("conv3x3", "rest", self.conv),
                ("project", "I", self.qkv),
                ("proj", "rest", self.proj),
            )
        ]
        return pieces + self.attention.pieces(batch, height, width, self.values)


# ------------------------------------------------------------------------------------------------- local relation
class LocalRelation(nn.Cell):
    """LR-Net's local relation layer: (B, C, H, W) -> (B, C, ceil(H/stride), ceil(W/stride)), borders mirrored.

    One query and one key number for each group of channels: a neighbour weighs softmax(-(q - k)^2 + prior), where a
    small network makes the prior from its relative position; the weights sum the values of all channels of the group.

    Args:
        channels: C, a multiple of ``share_channels``.
        stride: of the output.
        kernel_size: side of the neighbourhood, odd.
        share_channels: channels that use the same weights.
    """

    def __init__(self, channels: int, stride: int = 1, kernel_size: int = 7, share_channels: int = 8):
        super().__init__()
        check_positive(channels=channels, stride=stride, share_channels=share_channels)
        check_odd(kernel_size=kernel_size)
        check_multiple(channels=channels, share_channels=share_channels)
        self.groups, self.stride, self.kernel_size = channels // share_channels, stride, kernel_size
        self.query = nn.Conv2d(channels, self.groups, 1)
        self.key = nn.Conv2d(channels, self.groups, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        # No last bias: the softmax would cancel it.
        self.prior = nn.SequentialCell(
            nn.Conv2d(2, self.groups, 1, has_bias=True), nn.ReLU(), nn.Conv2d(self.groups, self.groups, 1)
        )

    def construct(self, x: Tensor) -> Tensor:
        kernel, taps = self.kernel_size, self.kernel_size**2
        q = self.query(F.subsample(x, self.stride))  # (B, s, Ho, Wo)
        out_h, out_w = q.shape[2], q.shape[3]
        keys = unfold(self.key(x), kernel, self.stride).reshape(-1, self.groups, taps, out_h * out_w)
        grid = F.position_grid(kernel, kernel).astype(x.dtype)
        difference = (q.reshape(-1, self.groups, 1, out_h * out_w) - keys).astype(ms.float32)
        prior = self.prior(grid).astype(ms.float32).reshape(1, self.groups, taps, 1)
        weights = ops.softmax(prior - difference * difference, 2)  # (B, s, k*k, Ho*Wo)
        weights = weights.astype(x.dtype).reshape(-1, self.groups * taps, out_h, out_w)
        return aggregate(self.value(x), weights, kernel, self.stride)

    def fused(self, norm: nn.BatchNorm2d | None, costs: Costs) -> LocalRelation:
        """With a BatchNorm behind it folded into the value, whose weights sum to 1."""
        self.value = fold_norm(self.value, norm) if norm is not None else self.value
        return self

    def work(self, given: tuple, out: tuple) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        batch, channels, height, width = given
        pixels, out_pixels, taps = batch * height * width, batch * out[2] * out[3], self.kernel_size**2
        project = channels * (self.groups * out_pixels + (self.groups + channels) * pixels)
        params, prior = _size(self.query, self.key, self.value), (2 + self.groups) * self.groups * taps
        return [
            {"kind": "project", "stage": "I", "macs": project, "params": params},
            {"kind": "weights", "stage": "II", "macs": taps * self.groups * out_pixels},
            {"kind": "attention", "stage": "II", "macs": taps * channels * out_pixels},
            {"kind": "prior", "stage": "II", "macs": prior, "bias": self.groups * taps, "params": _size(self.prior)},
        ]


# --------------------------------------------------------------------------------------------------------- models
SIDES = (56, 28, 14, 7)  # of the stages' maps for images of 224


def _augmented(stage: int, channels: int, stride: int) -> nn.Cell:
    return (
        AugmentedConv(channels, SIDES[stage], stride) if stage > 0 else spatial_builder(None)(stage, channels, stride)
    )


def _bottleneck_attention(stage: int, channels: int, stride: int) -> nn.Cell:
    if stage < 3:
        return spatial_builder(None)(stage, channels, stride)
    return BottleneckAttention(channels, SIDES[stage] * stride, stride)


def _local_relation(stage: int, channels: int, stride: int) -> nn.Cell:
    return LocalRelation(channels, stride)


def _sasa(depth: int, num_classes: int, **kwargs) -> ResNet:
    return operator_resnet(num_classes, {"depths": DEPTHS[depth]}, {"mix": "attention"}, **kwargs)


def _competitor(num_classes: int, net: dict, **kwargs) -> ResNet:
    options, _ = split_arguments(kwargs, ResNet, without=OWN)
    return ResNet(DEPTHS[50], num_classes, **net, **options)


@register_model
def sasa_resnet26(num_classes: int = 1000, **kwargs) -> ResNet:
    """SASA-ResNet-26 with a convolution stem: the attention path of ACmix alone in each block."""
    return _sasa(26, num_classes, **kwargs)


@register_model
def sasa_resnet38(num_classes: int = 1000, **kwargs) -> ResNet:
    """SASA-ResNet-38 with a convolution stem: the attention path of ACmix alone in each block."""
    return _sasa(38, num_classes, **kwargs)


@register_model
def sasa_resnet50(num_classes: int = 1000, **kwargs) -> ResNet:
    """SASA-ResNet-50 with a convolution stem: the attention path of ACmix alone in each block."""
    return _sasa(50, num_classes, **kwargs)


@register_model
def aa_resnet50(num_classes: int = 1000, **kwargs) -> ResNet:
    """AA-ResNet-50: attention-augmented 3x3 convolutions in the last three stages."""
    return _competitor(num_classes, {"operator": _augmented}, **kwargs)


@register_model
def botnet50(num_classes: int = 1000, **kwargs) -> ResNet:
    """BoTNet-50: all-to-all attention with relative positions in the three blocks of the last stage."""
    return _competitor(num_classes, {"operator": _bottleneck_attention}, **kwargs)


@register_model
def lrnet50(num_classes: int = 1000, **kwargs) -> ResNet:
    """LR-Net-50: local relation layers in all blocks, on 104, 200, 400 and 800 channels; the stem stays a 7x7.

    The layers are widened to the cost of ResNet-50, as its authors did. Theirs has 100 channels in the first stage,
    which groups of 8 do not divide.
    """
    net = {"operator": _local_relation, "spatial_widths": (104, 200, 400, 800)}
    return _competitor(num_classes, net, **kwargs)
