"""The global forms of ACmix: with spatial reduction for PVT, without it for ViT and DeiT."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from acmix_ms.ops import functional as F
from acmix_ms.ops import inputs, kernels
from acmix_ms.ops.base import TwoPaths, check_operator, check_positive
from acmix_ms.ops.fold import Costs
from acmix_ms.ops.fused_tokens import FusedReductionACmix

NORM_EPS = 1e-5  # of the norm after the reduction, as in PVT's code (its other norms have 1e-6)


class SpatialReductionACmix(TwoPaths):
    """Global ACmix with spatial reduction, the PVT form (eq. 20): tokens (B, L, C) -> (B, L, C).

    Keys and values come from the map reduced R-fold by a convolution and a norm; every token attends to all of them.
    The convolution path sees q at full size and k, v brought back by nearest interpolation; because ``fc`` is linear
    that happens after its k and v columns, on few maps. A class token in front (L = H*W + 1, only without reduction)
    takes part in the attention and has no convolution term. ``mix="attention"`` is the plain attention of PVT.

    The official repository has no PVT: parameters are named as in PVT's own code (``q``, ``kv``, ``sr``, ``norm``,
    ``proj``) and as in the official Swin operator (``fc`` with bias, ``dep_conv``, ``rate1``, ``rate2``);
    ``rate1 * proj(attention) + rate2 * conv``.

    Args:
        dim: C, divisible by ``num_heads``.
        num_heads: N.
        sr_ratio: R; 1 is plain global attention. A remainder of the map below R rows or columns is not seen by keys
            and values, as in PVT; a map smaller than R is padded with zeros to R.
        qkv_bias: whether the projections have a bias.
        attn_drop, proj_drop: dropout rates of the attention weights and of the result.
        conv_kernel_size, shift, mix: as in `ACmix`.

    Raises:
        UserError: (a ValueError) an argument, or an input, that cannot work, named with its value.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        sr_ratio: int = 1,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        conv_kernel_size: int = 3,
        shift: str = "learned",
        mix: str = "learned",
    ):
        super().__init__()
        check_positive(sr_ratio=sr_ratio)
        check_operator(dim=dim, num_heads=num_heads, conv_kernel_size=conv_kernel_size, shift=shift, mix=mix)
        self.dim, self.num_heads, self.sr_ratio = dim, num_heads, sr_ratio

        # Stage I
        self.q = nn.Dense(dim, dim, has_bias=qkv_bias)
        self.kv = nn.Dense(dim, 2 * dim, has_bias=qkv_bias)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio, pad_mode="valid", has_bias=True)
            self.norm = kernels.LayerNorm(dim, NORM_EPS)
        # Stage II
        if mix != "conv":
            self.attn_drop = nn.Dropout(p=attn_drop)
            self.proj = nn.Dense(dim, dim)
        if mix != "attention":
            self.build_conv_path(dim, num_heads, conv_kernel_size, 1, 1, shift, fc_bias=True)
        self.build_rates(mix)
        self.proj_drop = nn.Dropout(p=proj_drop)

    def construct(self, x: Tensor, height: int, width: int) -> Tensor:
        """x (B, L, C), L = height*width or one more for a class token in front -> (B, L, C)."""
        inputs.check_tokens(self.cls_name, x, self.dim, height, width, self.sr_ratio)
        has_class = x.shape[1] != height * width
        q = kernels.linear(x, self.q.weight, self.q.bias if self.q.has_bias else None)  # (B, L, C)
        reduced, low_h, low_w = self.reduce(x, height, width)
        kv = kernels.linear(reduced, self.kv.weight, self.kv.bias if self.kv.has_bias else None)  # (B, h*w, 2C)
        if self.mix == "attention":
            return self.proj_drop(self.attention_path(q, kv))
        maps = (q[:, 1:], kv[:, 1:]) if has_class else (q, kv)
        conv = self.reduced_conv_path(*maps, (height, width), (low_h, low_w))
        if has_class:
            conv = kernels.zero_pad(conv, 1, 1, 0)
        if self.mix == "conv":
            return self.proj_drop(conv)
        return self.proj_drop(self.sum_paths(self.attention_path(q, kv), conv))

    def reduce(self, x: Tensor, height: int, width: int):
        """Tokens of the reduced map: (B, L, C) -> (B, h*w, C), h, w."""
        if self.sr_ratio == 1:
            return x, height, width
        return F.reduce_tokens(x, height, width, self.sr_ratio, self.sr, self.norm)

    def attention_path(self, q: Tensor, kv: Tensor) -> Tensor:
        """(B, L, C), (B, M, 2C) -> (B, L, C)."""
        heads = self.num_heads
        q = F.token_heads(q, heads)  # (B, N, L, d)
        k, v = ops.split(F.token_heads(kv, 2 * heads), heads, 1)  # (B, N, M, d)
        q = kernels.times(q, (self.dim // heads) ** -0.5)
        logits = ops.BatchMatMul(False, True)(q, k).astype(ms.float32)  # (B, N, L, M)
        out = F.weighted_sum(logits, v, self.attn_drop)  # (B, N, L, d)
        return kernels.linear(F.merge_token_heads(out), self.proj.weight, self.proj.bias)

    def reduced_conv_path(self, q: Tensor, kv: Tensor, full: tuple[int, int], low: tuple[int, int]) -> Tensor:
        """(B, H*W, C), (B, h*w, 2C) -> (B, H*W, C): fc(cat(q, up(k), up(v))), then shift and sum."""
        q = ops.transpose(q, (0, 2, 1)).reshape(-1, self.dim, *full)
        kv = ops.transpose(kv, (0, 2, 1)).reshape(-1, 2 * self.dim, *low)
        if self.sr_ratio == 1:
            out = self.conv_path(ops.cat((q, kv), 1))
        else:
            bias = self.fc.bias if self.fc.has_bias else None
            f = F.mix_features(q, self.fc.weight[:, : self.num_heads], bias)
            f = f + F.upsample_nearest(F.mix_features(kv, self.fc.weight[:, self.num_heads :], None), *full)
            out = self.shift_and_sum(f)
        return ops.transpose(out.reshape(-1, self.dim, full[0] * full[1]), (0, 2, 1))

    def fused(self, norm: None, costs: Costs) -> FusedReductionACmix:
        """Deploy form, for `acmix_ms.ops.fuse`; tokens have no BatchNorm behind them."""
        return FusedReductionACmix(self, costs)


class GlobalACmix(SpatialReductionACmix):
    """Global ACmix as in ViT and DeiT (eq. 20): `SpatialReductionACmix` without reduction."""

    def __init__(self, dim: int, num_heads: int, **kwargs):
        super().__init__(dim, num_heads, sr_ratio=1, **kwargs)
