"""Swin Transformer and Swin-ACmix (paper Figure 4d), for images of any size.

Plain Swin is the same net with ``mix="attention"``: window attention alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from mindspore import Tensor, nn, ops

from acmix_ms.backbone import Backbone
from acmix_ms.ops import WindowACmix
from acmix_ms.ops.kernels import Dense, LayerNorm, on_cpu, permute_rows, zero_pad

from .layers import DropPath, Mlp, block_layers, drop_path_rates, init_transformer, round_up
from .registry import register_model, split_arguments

# What the official code adds to logits across a border; exp(-100) vanishes in fp32, and it fits fp16.
MASKED = -100.0


@ops.constexpr
def _attention_mask(height: int, width: int, window: int, shift: int):
    """Mask (nW, L, L) that keeps apart what the shift or the padding brought into one window; None if nothing did.

    Sizes are those of the map before padding. Tokens attend to each other if they were neighbours in the map before
    it was rolled, and nobody attends to padding.
    """
    padded_h, padded_w = round_up(height, window), round_up(width, window)
    if shift == 0 and (padded_h, padded_w) == (height, width):
        return None

    def bands(size: int, padded: int) -> np.ndarray:  # region of each position of the rolled, padded axis
        position = np.arange(padded)
        band = np.zeros(padded, np.int32)
        if shift:
            band = (position >= padded - window).astype(np.int32) + (position >= padded - shift)
        return np.where(np.roll(position, -shift) < size, band, -1)

    rows, cols = bands(height, padded_h), bands(width, padded_w)
    region = np.where((rows[:, None] >= 0) & (cols[None, :] >= 0), rows[:, None] * 3 + cols[None, :], -1)
    region = region.reshape(padded_h // window, window, padded_w // window, window)
    region = region.transpose(0, 2, 1, 3).reshape(-1, window * window)  # (nW, L)
    return Tensor(np.where(region[:, :, None] == region[:, None, :], 0.0, MASKED).astype(np.float32))


def pad_bottom_right(x: Tensor, height: int, width: int) -> Tensor:
    """Zeros below and to the right: (B, H, W, C) -> (B, height, width, C)."""
    x = zero_pad(x, 1, 0, height - x.shape[1])
    return zero_pad(x, 2, 0, width - x.shape[2])


@ops.constexpr
def _roll_rows(height: int, width: int, shift: int):
    order = np.roll(np.arange(height * width).reshape(height, width), shift, (0, 1)).reshape(-1)
    return Tensor(order.astype(np.int32)), Tensor(np.argsort(order).astype(np.int32))


def roll(x: Tensor, shift: int) -> Tensor:
    """Cyclic shift of both spatial axes of (B, H, W, C): out[i, j] = x[i - shift, j - shift]."""
    if on_cpu():  # whole tokens are copied faster than slices of maps
        _, height, width, channels = x.shape
        order, inverse = _roll_rows(height, width, shift)
        return permute_rows(x.reshape(-1, height * width, channels), order, inverse).reshape(x.shape)
    x = ops.cat((x[:, -shift:], x[:, :-shift]), 1)
    return ops.cat((x[:, :, -shift:], x[:, :, :-shift]), 2)


class PatchEmbed(nn.Cell):
    """Images (B, 3, H, W) -> tokens (B, ceil(H/p), ceil(W/p), dim), p = patch_size: a p x p / p convolution, a norm."""

    def __init__(self, in_channels: int, dim: int, patch_size: int = 4):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size, pad_mode="valid", has_bias=True)
        self.norm = LayerNorm(dim)

    def construct(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        full_h, full_w = round_up(height, self.patch_size), round_up(width, self.patch_size)
        if (full_h, full_w) != (height, width):
            x = ops.transpose(pad_bottom_right(ops.transpose(x, (0, 2, 3, 1)), full_h, full_w), (0, 3, 1, 2))
        return self.norm(ops.transpose(self.proj(x), (0, 2, 3, 1)))


class MapConv(nn.Cell):
    """Dense 3x3 convolution over (B, H, W, C): what Conv-Swin-T of Table 6 has in place of window attention."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, pad_mode="pad", padding=1)

    def construct(self, x: Tensor) -> Tensor:
        return ops.transpose(self.conv(ops.transpose(x, (0, 3, 1, 2))), (0, 2, 3, 1))


class SwinBlock(nn.Cell):
    """norm -> (shifted) window operator -> + ; norm -> MLP -> + : (B, H, W, C) -> (B, H, W, C), any H and W.

    Args:
        dim, num_heads, window_size: of the operator.
        shift_size: cyclic shift; a map that fits into one window is not shifted (as in the official code).
        mlp_ratio: hidden size of the MLP over dim.
        drop, drop_path: rates of dropout and stochastic depth.
        released: as the released detectors have it, and their weights expect, any map is shifted, and the zeros that
            make whole windows of it are attended to; else nobody attends to them.
        operator: further arguments of `WindowACmix`, or ``"conv"`` for a dense 3x3 convolution, without windows.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        released: bool = False,
        operator: dict | str | None = None,
    ):
        super().__init__()
        self.window_size, self.shift_size, self.released = window_size, shift_size, released
        self.norm1 = LayerNorm(dim)
        self.windowed = operator != "conv"
        if self.windowed:
            self.attn = WindowACmix(dim, window_size, num_heads, proj_drop=drop, **(operator or {}))
        else:
            self.attn = MapConv(dim)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def construct(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.drop_path(self.windows(y) if self.windowed else self.attn(y))
        return x + self.drop_path(self.mlp(self.norm2(x)), 1)

    def windows(self, x: Tensor) -> Tensor:
        """Pad to whole windows, roll, apply the operator, roll back, crop."""
        height, width = x.shape[1], x.shape[2]
        shift = self.shift_size if self.released or min(height, width) > self.window_size else 0
        padded_h, padded_w = round_up(height, self.window_size), round_up(width, self.window_size)
        x = pad_bottom_right(x, padded_h, padded_w)
        if shift:
            x = roll(x, -shift)
        known = (padded_h, padded_w) if self.released else (height, width)
        x = self.attn(x, _attention_mask(*known, self.window_size, shift))
        if shift:
            x = roll(x, shift)
        return x[:, :height, :width] if (padded_h, padded_w) != (height, width) else x


class PatchMerging(nn.Cell):
    """2x2 neighbours -> one token of twice the channels: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = LayerNorm(4 * dim)
        self.reduction = Dense(4 * dim, 2 * dim, has_bias=False)

    def construct(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        half_h, half_w = (height + 1) // 2, (width + 1) // 2
        x = pad_bottom_right(x, 2 * half_h, 2 * half_w)
        x = x.reshape(-1, half_h, 2, half_w, 2, channels)
        x = ops.transpose(x, (0, 1, 3, 4, 2, 5))  # official order: column of the pair before its row
        return self.reduction(self.norm(x.reshape(-1, half_h, half_w, 4 * channels)))


class SwinStage(nn.Cell):
    """Blocks with alternating shift; `construct` gives the map, `downsample` (if any) makes the next stage's input."""

    def __init__(self, dim: int, num_heads: int, window_size: int, rates: list[float], last: bool, **block):
        super().__init__()
        self.blocks = nn.CellList(
            [
                SwinBlock(dim, num_heads, window_size, 0 if i % 2 == 0 else window_size // 2, drop_path=rate, **block)
                for i, rate in enumerate(rates)
            ]
        )
        self.has_downsample = not last
        if not last:
            self.downsample = PatchMerging(dim)

    def construct(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class SwinTransformer(Backbone):
    """Images (B, in_channels, H, W) of any size -> logits (B, num_classes), or the maps of the four stages.

    Args:
        depths, num_heads: of each stage; dim doubles from stage to stage.
        num_classes: size of the classifier.
        features_only: return four normalised maps (B, C, h, w) of stride 4, 8, 16, 32 (with patches of 4) instead of
            logits, as Swin's detectors take them; ``feature_channels`` and ``feature_strides`` tell what they are.
            Plain Swin then treats borders as its released detectors do, see `SwinBlock`.
        dim: channels of the first stage.
        patch_size: side of the patches that become tokens.
        window_size: side of the windows.
        mlp_ratio: hidden size of the MLPs over dim.
        drop_rate, drop_path_rate: dropout and the largest rate of stochastic depth.
        in_channels: of the images.
        operator: further arguments of `WindowACmix` (``shift``, ``mix``, ...), or ``"conv"`` (see `SwinBlock`).
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        *,
        features_only: bool = False,
        dim: int = 96,
        num_heads: tuple[int, int, int, int] = (3, 6, 12, 24),
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        in_channels: int = 3,
        operator: dict | str | None = None,
    ):
        super().__init__()
        self.features_only = features_only
        self.head_names = ("norm", "norms", "head") if features_only else ("head",)
        # A downsampling belongs to the stage before it, as in the official code.
        merges = [(f"layers.{i}.downsample",) if i < 3 else () for i in range(4)]
        blocks = [block_layers(f"layers.{i}.blocks", depths[i], after=merges[i]) for i in range(4)]
        self.stages = ((("patch_embed", "pos_drop"),), *blocks)
        self.feature_strides = tuple(patch_size * 2**i for i in range(4))
        self.feature_channels = tuple(dim * 2**i for i in range(4))
        self.patch_embed = PatchEmbed(in_channels, dim, patch_size)
        self.pos_drop = nn.Dropout(p=drop_rate)
        rates = drop_path_rates(drop_path_rate, depths)
        self.layers = nn.CellList(
            [
                SwinStage(
                    self.feature_channels[i],
                    num_heads[i],
                    window_size,
                    rates[i],
                    last=i == 3,
                    mlp_ratio=mlp_ratio,
                    drop=drop_rate,
                    released=features_only and operator == {"mix": "attention"},
                    operator=operator,
                )
                for i in range(4)
            ]
        )
        if features_only:
            self.norms = nn.CellList([LayerNorm(c) for c in self.feature_channels])
        else:
            self.norm = LayerNorm(self.feature_channels[-1])
            self.head = nn.Dense(self.feature_channels[-1], num_classes)
        init_transformer(self)

    def construct(self, x: Tensor):
        x = self.pos_drop(self.patch_embed(x))
        maps = ()
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if self.features_only:
                maps = maps + (ops.transpose(self.norms[i](x), (0, 3, 1, 2)),)
            if stage.has_downsample:
                x = stage.downsample(x)
        if self.features_only:
            return maps
        return self.head(self.norm(x).mean((1, 2)))

    @staticmethod
    def translate_official(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The norms of the maps are ``norm0`` to ``norm3`` in Swin's code for detection, ``norms.0`` ... here."""
        return {re.sub(r"^norm(\d)\.", r"norms.\1.", name): value for name, value in state.items()}


SIZES = {
    "tiny": {"depths": (2, 2, 6, 2), "drop_path_rate": 0.2},
    "small": {"depths": (2, 2, 18, 2), "drop_path_rate": 0.3},
    # For small images: 32x32 gives maps of 16, 8, 4 and 2, 16x16 of 8, 4, 2 and 1.
    "digits": {
        "depths": (2, 1, 2, 1),
        "drop_path_rate": 0.0,
        "dim": 32,
        "num_heads": (2, 4, 8, 16),
        "patch_size": 2,
        "window_size": 4,
    },
}


OWN = ("operator", "qkv_bias", "attn_drop", "proj_drop")  # the net's to say


def _swin(size: str, num_classes: int, operator: dict | str, **kwargs) -> SwinTransformer:
    net, _ = split_arguments(kwargs, SwinTransformer, without=OWN)
    return SwinTransformer(num_classes=num_classes, operator=operator, **{**SIZES[size], **net})


def _acmix_swin(size: str, num_classes: int, **kwargs) -> SwinTransformer:
    net, operator = split_arguments(kwargs, SwinTransformer, WindowACmix, without=OWN)
    return SwinTransformer(num_classes=num_classes, operator=operator, **{**SIZES[size], **net})


@register_model
def swin_tiny(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """Plain Swin-T: 28.3M parameters, 4.5G multiply-adds at 224."""
    return _swin("tiny", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def swin_small(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """Plain Swin-S: 49.6M parameters, 8.7G multiply-adds at 224."""
    return _swin("small", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def conv_swin_tiny(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """Conv-Swin-T of Table 6: a dense 3x3 convolution in place of window attention. 39.0M parameters."""
    return _swin("tiny", num_classes, "conv", **kwargs)


@register_model
def acmix_swin_tiny(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """Swin-ACmix-T: 28.6M parameters; takes ``shift``, ``mix`` (Tables 6 and 7) and ``conv_kernel_size`` too."""
    return _acmix_swin("tiny", num_classes, **kwargs)


@register_model
def acmix_swin_small(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """Swin-ACmix-S: 50.3M parameters; takes ``shift``, ``mix`` (Tables 6 and 7) and ``conv_kernel_size`` too."""
    return _acmix_swin("small", num_classes, **kwargs)


@register_model
def swin_digits(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """A small plain Swin for 32x32 images."""
    return _swin("digits", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def conv_swin_digits(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """`swin_digits` with a dense 3x3 convolution in place of window attention, as Conv-Swin-T of Table 6."""
    return _swin("digits", num_classes, "conv", **kwargs)


@register_model
def acmix_swin_digits(num_classes: int = 1000, **kwargs) -> SwinTransformer:
    """`swin_digits` with ACmix; takes ``shift``, ``mix`` (Tables 6 and 7) and ``conv_kernel_size`` too."""
    return _acmix_swin("digits", num_classes, **kwargs)
