"""The window form of ACmix, for Swin."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal, initializer

from acmix_ms.errors import UserError
from acmix_ms.ops import functional as F
from acmix_ms.ops import inputs, kernels
from acmix_ms.ops.base import TwoPaths, check_operator, check_positive
from acmix_ms.ops.fold import Costs
from acmix_ms.ops.fused_tokens import FusedWindowACmix


class WindowACmix(TwoPaths):
    """Window ACmix, the Swin form (eq. 19): x (B, H, W, C) -> (B, H, W, C), H and W multiples of the window.

    Attention inside each window with a relative-position table, convolution path over the whole (rolled) map with
    zero padding: ``rate1 * proj(attention) + rate2 * conv``. ``mix="attention"`` is the plain W-MSA of Swin.
    Parameters are named as in the official code (``qkv``, ``proj``, ``relative_position_bias_table``, ``fc`` with a
    bias, ``dep_conv``, ``rate1``, ``rate2``).

    Args:
        dim: C, divisible by ``num_heads``.
        window_size: side of the window, or (height, width).
        num_heads: N.
        qkv_bias: whether the projection has a bias.
        attn_drop, proj_drop: dropout rates of the attention weights and of the result.
        conv_kernel_size, shift, mix: as in `ACmix`.

    Raises:
        UserError: (a ValueError) an argument, or an input, that cannot work, named with its value.
    """

    def __init__(
        self,
        dim: int,
        window_size: int | tuple[int, int],
        num_heads: int,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        conv_kernel_size: int = 3,
        shift: str = "learned",
        mix: str = "learned",
    ):
        super().__init__()
        window = (window_size, window_size) if isinstance(window_size, (int, np.integer)) else tuple(window_size)
        if len(window) != 2:
            raise UserError(f"window_size={window_size!r}: give an integer or (height, width)")
        check_positive(window_height=window[0], window_width=window[1])
        check_operator(dim=dim, num_heads=num_heads, conv_kernel_size=conv_kernel_size, shift=shift, mix=mix)
        self.dim, self.window_size, self.num_heads = dim, window, num_heads
        self.length = window[0] * window[1]

        # Stage I
        self.qkv = nn.Dense(dim, 3 * dim, has_bias=qkv_bias)
        # Stage II
        if mix != "conv":
            rows = (2 * window[0] - 1) * (2 * window[1] - 1)
            table = initializer(TruncatedNormal(0.02), (rows, num_heads), ms.float32)
            self.relative_position_bias_table = Parameter(table, name="relative_position_bias_table")
            self.relative_position_index = Tensor(F.relative_position_index(*window).reshape(-1))
            self.attn_drop = nn.Dropout(p=attn_drop)
            self.proj = nn.Dense(dim, dim)
        if mix != "attention":
            self.build_conv_path(dim, num_heads, conv_kernel_size, 1, 1, shift, fc_bias=True)
        self.build_rates(mix)
        self.proj_drop = nn.Dropout(p=proj_drop)

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, H, W, C), mask (nW, L, L) added to the logits or None -> (B, H, W, C)."""
        inputs.check_window(self.cls_name, x, mask, self.dim, self.window_size)
        qkv = self.project(x)  # (B, H, W, 3C)
        if self.mix == "attention":
            return self.proj_drop(self.attention_path(qkv, mask))
        if self.prefers_dense(x, self.dim, self.dim):
            conv = self.dense_window_conv_path(x)
        else:
            conv = self.window_conv_path(qkv)
        if self.mix == "conv":
            return self.proj_drop(conv)
        return self.proj_drop(self.sum_paths(self.attention_path(qkv, mask), conv))

    def dense_window_conv_path(self, x: Tensor) -> Tensor:
        """`window_conv_path` of the projection of x as one dense convolution: (B, H, W, C) -> (B, H, W, C)."""
        bias = self.qkv.bias if self.qkv.has_bias else None
        return ops.transpose(self.dense_conv_path(ops.transpose(x, (0, 3, 1, 2)), self.qkv.weight, bias), (0, 2, 3, 1))

    def project(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 3C)."""
        return kernels.linear(x, self.qkv.weight, self.qkv.bias if self.qkv.has_bias else None)

    def window_conv_path(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C): neighbours across window borders count."""
        return ops.transpose(self.conv_path(ops.transpose(qkv, (0, 3, 1, 2))), (0, 2, 3, 1))

    def attention_path(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C)."""
        heads, dim = self.num_heads, self.dim // self.num_heads
        q, k, v = ops.split(F.window_heads(qkv, 3 * heads, self.window_size), heads, 1)  # (B*nW, N, L, d)
        logits = F.window_logits(kernels.times(q, dim**-0.5), k, self.position_bias(), mask)  # (B*nW, N, L, L)
        out = F.weighted_sum(logits, v, self.attn_drop)  # (B*nW, N, L, d)
        out = F.merge_heads(out, self.window_size, qkv.shape[1], qkv.shape[2])
        return kernels.linear(out, self.proj.weight, self.proj.bias)

    def position_bias(self) -> Tensor:
        """(N, L, L) bias from the table."""
        bias = ops.gather(self.relative_position_bias_table, self.relative_position_index, 0)  # (L*L, N)
        return ops.transpose(bias, (1, 0)).reshape(self.num_heads, self.length, self.length)

    def fused(self, norm: None, costs: Costs) -> FusedWindowACmix:
        """Deploy form, for `acmix_ms.ops.fuse`; tokens have no BatchNorm behind them."""
        return FusedWindowACmix(self, costs)
