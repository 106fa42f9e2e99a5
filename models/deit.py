"""DeiT-Tiny and its ACmix twin: global ACmix in a plain vision transformer (Section 4.5)."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal, initializer

from acmix_ms.backbone import Backbone
from acmix_ms.ops import GlobalACmix, SpatialReductionACmix
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

NORM_EPS = 1e-6
PATCH = 16


class PatchEmbed(nn.Cell):
    """Images (B, Cin, H, W) -> map (B, dim, H // 16, W // 16)."""

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, PATCH, PATCH, pad_mode="valid", has_bias=True)

    def construct(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Block(nn.Cell):
    """norm -> global operator -> + ; norm -> MLP -> + : tokens (B, L, C) -> (B, L, C)."""

    def __init__(self, dim: int, num_heads: int, drop_path: float, operator: dict):
        super().__init__()
        self.norm1 = LayerNorm(dim, NORM_EPS)
        self.attn = GlobalACmix(dim, num_heads, **operator)
        self.norm2 = LayerNorm(dim, NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def construct(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)), 1)


class VisionTransformer(Backbone):
    """Images (B, in_channels, H, W), sides of at least 16 -> logits (B, num_classes).

    With ``features_only=True`` one map (B, dim, H // 16, W // 16) in a tuple: a plain transformer is no pyramid.

    Args:
        depth, dim, num_heads: of the blocks.
        num_classes: size of the classifier.
        features_only: return the map instead of logits.
        image_size: side of the images the position embeddings are made for; they are resized to what comes in.
        drop_path_rate: largest rate of stochastic depth.
        in_channels: of the images.
        operator: further arguments of `GlobalACmix`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        depth: int = 12,
        dim: int = 192,
        num_heads: int = 3,
        features_only: bool = False,
        image_size: int = 224,
        drop_path_rate: float = 0.1,
        in_channels: int = 3,
        operator: dict | None = None,
    ):
        super().__init__()
        self.features_only = features_only
        self.feature_strides, self.feature_channels = (PATCH,), (dim,)
        self.head_names = ("head",)
        blocks = [(layer,) for layer in block_layers("blocks", depth)]
        self.stages = ((("patch_embed", "cls_token", "pos_embed"),), *blocks)  # no pyramid: each block is a stage
        self.position_tables = {"pos_embed": 1}
        self.side, self.dim = image_size // PATCH, dim
        self.patch_embed = PatchEmbed(in_channels, dim)
        self.cls_token = Parameter(initializer(TruncatedNormal(0.02), (1, 1, dim), ms.float32), name="cls_token")
        shape = (1, self.side**2 + 1, dim)
        self.pos_embed = Parameter(initializer(TruncatedNormal(0.02), shape, ms.float32), name="pos_embed")
        (rates,) = drop_path_rates(drop_path_rate, (depth,))
        self.blocks = nn.CellList([Block(dim, num_heads, rate, operator or {}) for rate in rates])
        self.norm = LayerNorm(dim, NORM_EPS)
        if not features_only:
            self.head = nn.Dense(dim, num_classes)
        init_transformer(self)

    def construct(self, x: Tensor):
        x = self.patch_embed(x)
        height, width = x.shape[2], x.shape[3]
        x = ops.transpose(x.reshape(-1, self.dim, height * width), (0, 2, 1))
        table = resize_positions(self.pos_embed[:, 1:], self.side, height, width)
        x = add_class_token(x, self.cls_token + self.pos_embed[:, :1], table)
        for block in self.blocks:
            x = block(x, height, width)
        x = self.norm(x)
        if self.features_only:
            return (ops.transpose(x[:, 1:], (0, 2, 1)).reshape(-1, self.dim, height, width),)
        return self.head(x[:, 0])

    @staticmethod
    def translate_official(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Official DeiT weights keep q, k and v in one ``qkv`` layer; ours, like PVT's, in ``q`` and ``kv``."""
        translated = {}
        for name, value in state.items():
            if ".attn.qkv." in name:
                dim = len(value) // 3
                translated[name.replace(".qkv.", ".q.")] = value[:dim]
                translated[name.replace(".qkv.", ".kv.")] = value[dim:]
            else:
                translated[name] = value
        return translated


OWN = ("operator", "sr_ratio", "qkv_bias", "attn_drop", "proj_drop")  # the net's to say


def _deit(num_classes: int, fixed: dict, **kwargs) -> VisionTransformer:
    net, operator = split_arguments(kwargs, VisionTransformer, SpatialReductionACmix, without=(*OWN, *fixed))
    return VisionTransformer(num_classes, operator={**fixed, **operator}, **net)


@register_model
def deit_tiny(num_classes: int = 1000, **kwargs) -> VisionTransformer:
    """Plain DeiT-T: 5.7M parameters."""
    return _deit(num_classes, {"mix": "attention"}, **kwargs)


@register_model
def acmix_deit_tiny(num_classes: int = 1000, **kwargs) -> VisionTransformer:
    """DeiT-T with global ACmix in every block; takes ``shift``, ``mix`` and ``conv_kernel_size`` too."""
    return _deit(num_classes, {}, **kwargs)
