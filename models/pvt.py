"""Pyramid Vision Transformer and PVT-ACmix (paper Figure 4c), for images of any size.

Plain PVT is the same net with ``mix="attention"``. The official repository never released PVT-ACmix.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal, initializer

from acmix_ms.backbone import Backbone
from acmix_ms.ops import SpatialReductionACmix
from acmix_ms.ops.functional import pad_to_at_least
from acmix_ms.ops.kernels import LayerNorm

from .layers import (
    DropPath,
    Mlp,
    add_class_token,
    block_layers,
    drop_path_rates,
    init_transformer,
    resize_positions,
)
from .registry import register_model, split_arguments

NORM_EPS = 1e-6  # of the blocks; the patch embeddings have 1e-5, as in PVT's code
DIMS, HEADS = (64, 128, 320, 512), (1, 2, 5, 8)
MLP_RATIOS, SR_RATIOS = (8, 8, 4, 4), (8, 4, 2, 1)


class PatchEmbed(nn.Cell):
    """Map (B, Cin, H, W) -> tokens (B, h*w, dim) and h, w: a convolution of stride ``patch_size`` and a norm."""

    def __init__(self, in_channels: int, dim: int, patch_size: int):
        super().__init__()
        self.patch_size, self.dim = patch_size, dim
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size, pad_mode="valid", has_bias=True)
        self.norm = LayerNorm(dim)

    def construct(self, x: Tensor):
        x = self.proj(pad_to_at_least(x, self.patch_size))
        height, width = x.shape[2], x.shape[3]
        return self.norm(ops.transpose(x.reshape(-1, self.dim, height * width), (0, 2, 1))), height, width


class Block(nn.Cell):
    """norm -> operator -> + ; norm -> MLP -> + : tokens (B, L, C) -> (B, L, C)."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: int, sr_ratio: int, drop: float, drop_path: float, operator: dict
    ):
        super().__init__()
        self.norm1 = LayerNorm(dim, NORM_EPS)
        self.attn = SpatialReductionACmix(dim, num_heads, sr_ratio=sr_ratio, proj_drop=drop, **operator)
        self.norm2 = LayerNorm(dim, NORM_EPS)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop)
        self.drop_path = DropPath(drop_path)

    def construct(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)), 1)


class PyramidVisionTransformer(Backbone):
    """Images (B, in_channels, H, W) of any size -> logits (B, num_classes), or the maps of the four stages.

    Position embeddings belong to ``image_size`` and are resized (bilinear) to whatever comes in.

    Args:
        depths: blocks of each stage.
        num_classes: size of the classifier.
        features_only: return four maps (B, C, h, w) of stride 4, 8, 16, 32 (sizes rounded down) instead of logits, as
            PVT's detectors take them: no class token, no last norm.
        image_size: side of the images the position embeddings are made for, a multiple of 32.
        drop_rate, drop_path_rate: dropout and the largest rate of stochastic depth.
        in_channels: of the images.
        operator: further arguments of `SpatialReductionACmix`.
        dims, num_heads, mlp_ratios, sr_ratios: of each stage.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        *,
        features_only: bool = False,
        image_size: int = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        in_channels: int = 3,
        operator: dict | None = None,
        dims: tuple[int, int, int, int] = DIMS,
        num_heads: tuple[int, int, int, int] = HEADS,
        mlp_ratios: tuple[int, int, int, int] = MLP_RATIOS,
        sr_ratios: tuple[int, int, int, int] = SR_RATIOS,
    ):
        super().__init__()
        self.features_only = features_only
        self.feature_strides, self.feature_channels = (4, 8, 16, 32), dims
        self.head_names = ("norm", "cls_token", "head") if features_only else ("head",)
        embeds = [(f"patch_embed{i}", f"pos_embed{i}") for i in (1, 2, 3, 4)]
        embeds[3] += () if features_only else ("cls_token",)
        blocks = [block_layers(f"block{i + 1}", depths[i], embeds[i] if i else ()) for i in range(4)]
        self.stages = ((embeds[0],), *blocks)
        self.position_tables = {"pos_embed1": 0, "pos_embed2": 0, "pos_embed3": 0, "pos_embed4": 1}
        self.sides = tuple(image_size // stride for stride in self.feature_strides)
        rates = drop_path_rates(drop_path_rate, depths)

        self.patch_embed1 = PatchEmbed(in_channels, dims[0], 4)
        self.patch_embed2 = PatchEmbed(dims[0], dims[1], 2)
        self.patch_embed3 = PatchEmbed(dims[1], dims[2], 2)
        self.patch_embed4 = PatchEmbed(dims[2], dims[3], 2)
        # The last stage has a place for the class token too, kept by a backbone so that classifier weights fit.
        lengths = [side * side + (i == 3) for i, side in enumerate(self.sides)]
        tables = [
            Parameter(
                initializer(TruncatedNormal(0.02), (1, lengths[i], dims[i]), ms.float32), name=f"pos_embed{i + 1}"
            )
            for i in range(4)
        ]
        self.pos_embed1, self.pos_embed2, self.pos_embed3, self.pos_embed4 = tables
        self.pos_drop = nn.Dropout(p=drop_rate)
        stages = [
            nn.CellList(
                [
                    Block(dims[i], num_heads[i], mlp_ratios[i], sr_ratios[i], drop_rate, rate, operator or {})
                    for rate in rates[i]
                ]
            )
            for i in range(4)
        ]
        self.block1, self.block2, self.block3, self.block4 = stages
        if not features_only:
            self.cls_token = Parameter(
                initializer(TruncatedNormal(0.02), (1, 1, dims[3]), ms.float32), name="cls_token"
            )
            self.norm = LayerNorm(dims[3], NORM_EPS)
            self.head = nn.Dense(dims[3], num_classes)
        init_transformer(self)

    def construct(self, x: Tensor):
        c2 = self.stage(x, self.patch_embed1, self.pos_embed1, self.sides[0], self.block1)
        c3 = self.stage(c2, self.patch_embed2, self.pos_embed2, self.sides[1], self.block2)
        c4 = self.stage(c3, self.patch_embed3, self.pos_embed3, self.sides[2], self.block3)
        if self.features_only:
            return c2, c3, c4, self.stage(c4, self.patch_embed4, self.pos_embed4[:, 1:], self.sides[3], self.block4)
        x, height, width = self.patch_embed4(c4)
        table = resize_positions(self.pos_embed4[:, 1:], self.sides[3], height, width)
        x = self.pos_drop(add_class_token(x, self.cls_token + self.pos_embed4[:, :1], table))
        for block in self.block4:
            x = block(x, height, width)
        return self.head(self.norm(x)[:, 0])

    def stage(self, x: Tensor, embed: nn.Cell, table: Tensor, side: int, blocks: nn.CellList) -> Tensor:
        """Map (B, Cin, H, W) -> map (B, C, h, w)."""
        x, height, width = embed(x)
        x = self.pos_drop(x + resize_positions(table, side, height, width).astype(x.dtype))
        for block in blocks:
            x = block(x, height, width)
        return ops.transpose(x, (0, 2, 1)).reshape(-1, x.shape[2], height, width)


DEPTHS = {"tiny": (2, 2, 2, 2), "small": (3, 4, 6, 3), "medium": (3, 4, 18, 3), "large": (3, 8, 27, 3)}


OWN = ("depths", "operator", "sr_ratio", "qkv_bias", "attn_drop", "proj_drop")  # the net's to say


def _pvt(size: str, num_classes: int, fixed: dict, **kwargs) -> PyramidVisionTransformer:
    net, operator = split_arguments(kwargs, PyramidVisionTransformer, SpatialReductionACmix, without=(*OWN, *fixed))
    return PyramidVisionTransformer(DEPTHS[size], num_classes, operator={**fixed, **operator}, **net)


@register_model
def pvt_tiny(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """Plain PVT-T: 13.2M parameters, 1.9G multiply-adds at 224."""
    return _pvt("tiny", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def pvt_small(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """Plain PVT-S: 24.5M parameters, 3.8G multiply-adds at 224."""
    return _pvt("small", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def pvt_medium(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """Plain PVT-M: 44.2M parameters."""
    return _pvt("medium", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def pvt_large(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """Plain PVT-L: 61.4M parameters."""
    return _pvt("large", num_classes, {"mix": "attention"}, **kwargs)


@register_model
def acmix_pvt_tiny(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """PVT-ACmix-T: 13.4M parameters; takes ``shift``, ``mix`` and ``conv_kernel_size`` too."""
    return _pvt("tiny", num_classes, {}, **kwargs)


@register_model
def acmix_pvt_small(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """PVT-ACmix-S: 24.8M parameters; takes ``shift``, ``mix`` and ``conv_kernel_size`` too."""
    return _pvt("small", num_classes, {}, **kwargs)


@register_model
def acmix_pvt_medium(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """PVT-ACmix-M; takes ``shift``, ``mix`` and ``conv_kernel_size`` too."""
    return _pvt("medium", num_classes, {}, **kwargs)


@register_model
def acmix_pvt_large(num_classes: int = 1000, **kwargs) -> PyramidVisionTransformer:
    """PVT-ACmix-L; takes ``shift``, ``mix`` and ``conv_kernel_size`` too."""
    return _pvt("large", num_classes, {}, **kwargs)
