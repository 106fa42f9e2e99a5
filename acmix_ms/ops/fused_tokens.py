"""Deploy forms of the operators of transformers, for `acmix_ms.ops.fuse`: windows, and reduced or whole maps.

The scale of the query is folded into its projection, alpha into the projection behind the attention, beta into the
convolution. Letters as in `functional`. For evaluation only.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from acmix_ms.ops import fold, inputs, kernels
from acmix_ms.ops import functional as F
from acmix_ms.ops.fold import Costs, array, bias_or_zeros, parameter
from acmix_ms.ops.fused import conv_path, size_of


def _projections(cell: nn.Cell, *layers: nn.Dense) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Weight (3C, C) and bias (3C,) or None of q, k and v, and by what the attention wants them multiplied (3C,)."""
    weight = np.concatenate([array(layer.weight) for layer in layers])
    has_bias = any(layer.has_bias for layer in layers)
    bias = np.concatenate([bias_or_zeros(layer, len(array(layer.weight))) for layer in layers]) if has_bias else None
    scale = (cell.dim // cell.num_heads) ** -0.5 if cell.mix != "conv" else 1.0
    return weight, bias, np.repeat([scale, 1.0, 1.0], cell.dim)


class _FusedTokens(nn.Cell):
    """What both forms share: which form the convolution path has, and the scaled projection behind the attention."""

    def __init__(self, cell, costs: Costs, sr_ratio: int = 1):
        super().__init__()
        self.dim, self.num_heads = cell.dim, cell.num_heads
        self.has_attention, self.has_conv = cell.mix != "conv", cell.mix != "attention"
        self.alpha, self.beta = fold.rates(cell)
        self.form = fold.form_of(cell, costs, cell.dim, cell.dim, sr_ratio=sr_ratio, channels_last=True)
        self.own_projection = self.form == "dense"  # whether the attention alone reads q, k and v
        self.projects = self.has_attention or not self.own_projection
        if self.has_attention:
            self.proj_weight = parameter(self.alpha * array(cell.proj.weight), "proj_weight")
            self.proj_bias = parameter(self.alpha * array(cell.proj.bias), "proj_bias")

    def attention_work(self, macs: int, tokens: int, params: int = 0) -> list[dict]:
        """Pieces of work of attention and the projection behind it."""
        if not self.has_attention:
            return []
        own = self.proj_weight.size + self.proj_bias.size
        proj = {"macs": tokens * self.proj_weight.size, "bias": tokens * self.dim, "params": own}
        return [
            {"kind": "attention", "stage": "II", "macs": macs, "params": params},
            {"kind": "proj", "stage": "rest", **proj},
        ]


class FusedWindowACmix(_FusedTokens):
    """Deploy form of `WindowACmix`: (B, H, W, C) -> (B, H, W, C), H and W multiples of the window.

    Args:
        cell: the operator.
        costs: of the backend, see `fold.costs_of`.
    """

    def __init__(self, cell, costs: Costs):
        super().__init__(cell, costs)
        self.window_size, self.length = cell.window_size, cell.length
        weight, bias, factors = _projections(cell, cell.qkv)
        if self.has_conv:
            self.conv = conv_path(cell, self.form, weight, bias, np.full(self.dim, self.beta), factors=factors)
        if self.projects:
            self.qkv_weight = parameter(weight * factors[:, None], "qkv_weight")
            self.has_bias = bias is not None
            if self.has_bias:
                self.qkv_bias = parameter(bias * factors, "qkv_bias")
        if self.has_attention:
            # Heads first, so that a gather gives (N, L, L). The gathered table would be 14 times larger.
            table = array(cell.relative_position_bias_table).T
            self.table, self.index = parameter(table, "table"), cell.relative_position_index

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        inputs.check_window(self.cls_name, x, mask, self.dim, self.window_size)
        source = x
        if self.projects:
            qkv = kernels.linear(x, self.qkv_weight, self.qkv_bias if self.has_bias else None)  # (B, H, W, 3C)
            source = x if self.own_projection else qkv
        if not self.has_conv:
            return self.attention_path(qkv, mask)
        conv = ops.transpose(self.conv(ops.transpose(source, (0, 3, 1, 2))), (0, 2, 3, 1))
        return self.attention_path(qkv, mask) + conv if self.has_attention else conv

    def attention_path(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C)."""
        heads, length = self.num_heads, self.length
        q, k, v = ops.split(F.window_heads(qkv, 3 * heads, self.window_size), heads, 1)  # (B*nW, N, L, d)
        bias = ops.gather(self.table, self.index, 1).reshape(heads, length, length)
        out = kernels.softmax_product(F.window_logits(q, k, bias, mask), v)  # (B*nW, N, L, d)
        out = F.merge_heads(out, self.window_size, qkv.shape[1], qkv.shape[2])
        return kernels.linear(out, self.proj_weight, self.proj_bias)

    def work(self, given: tuple, out: tuple, mask=None) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        batch, height, width, dim = given
        pixels, pieces, table = batch * height * width, [], self.table.size if self.has_attention else 0
        if self.projects:
            own = self.qkv_weight.size + (self.qkv_bias.size if self.has_bias else 0)
            work = {"macs": pixels * self.qkv_weight.size, "bias": 3 * dim * pixels * self.has_bias, "params": own}
            pieces.append({"kind": "project", "stage": "I", **work})
        pieces += self.attention_work(2 * self.length * dim * pixels, pixels, table)
        source = (batch, dim if self.own_projection else 3 * dim, height, width)
        return pieces + (self.conv.work(source, (batch, dim, height, width)) if self.has_conv else [])


class FusedReductionACmix(_FusedTokens):
    """Deploy form of `SpatialReductionACmix` and `GlobalACmix`: tokens (B, L, C) -> (B, L, C).

    Args:
        cell: the operator.
        costs: of the backend, see `fold.costs_of`.
    """

    def __init__(self, cell, costs: Costs):
        super().__init__(cell, costs, cell.sr_ratio)
        dim, self.sr_ratio = self.dim, cell.sr_ratio
        if self.sr_ratio > 1:
            self.sr, self.norm = cell.sr, cell.norm
        weight, bias, factors = _projections(cell, cell.q, cell.kv)
        if self.has_conv:
            source = weight
            if self.sr_ratio > 1:  # q reads the map, k and v the reduced one: (3C, 2C)
                source = np.concatenate([weight, np.zeros_like(weight)], 1)
                source[dim:] = np.roll(source[dim:], dim, 1)
            self.conv = conv_path(cell, self.form, source, bias, np.full(dim, self.beta), factors=factors)
        if self.projects:
            weight = weight * factors[:, None]
            self.q_weight, self.kv_weight = parameter(weight[:dim], "q_weight"), parameter(weight[dim:], "kv_weight")
            self.has_bias = bias is not None
            if self.has_bias:
                bias = bias * factors
                self.q_bias, self.kv_bias = parameter(bias[:dim], "q_bias"), parameter(bias[dim:], "kv_bias")

    def construct(self, x: Tensor, height: int, width: int) -> Tensor:
        inputs.check_tokens(self.cls_name, x, self.dim, height, width, self.sr_ratio)
        reduced, low_h, low_w = x, height, width
        if self.sr_ratio > 1:
            reduced, low_h, low_w = F.reduce_tokens(x, height, width, self.sr_ratio, self.sr, self.norm)
        q, kv = x, reduced  # what a dense convolution path reads
        if self.projects:
            q = kernels.linear(x, self.q_weight, self.q_bias if self.has_bias else None)  # (B, L, C)
            kv = kernels.linear(reduced, self.kv_weight, self.kv_bias if self.has_bias else None)  # (B, h*w, 2C)
        if not self.has_conv:
            return self.attention_path(q, kv)
        maps = (x, reduced) if self.own_projection else (q, kv)
        conv = self.tokens_conv_path(*maps, (height, width), (low_h, low_w))
        return self.attention_path(q, kv) + conv if self.has_attention else conv

    def tokens_conv_path(self, q: Tensor, kv: Tensor, full: tuple[int, int], low: tuple[int, int]) -> Tensor:
        """(B, L, C), (B, M, C or 2C) -> (B, L, C); a class token in front has no part in it."""
        has_class = q.shape[1] != full[0] * full[1]
        if has_class:
            q, kv = q[:, 1:], kv[:, 1:]
        maps = ops.transpose(q, (0, 2, 1)).reshape(-1, self.dim, *full)
        if self.sr_ratio == 1 and self.own_projection:
            out = self.conv(maps)
        else:
            small = ops.transpose(kv, (0, 2, 1)).reshape(-1, kv.shape[2], *low)
            if self.sr_ratio == 1:
                out = self.conv(ops.cat((maps, small), 1))
            elif self.form == "factored":
                # Mixed while small, then brought to full size: the layer is linear.
                fc, heads = self.conv.fc_weight, self.num_heads
                f = F.mix_features(maps, fc[:, :heads], self.conv.fc_bias if self.conv.has_fc_bias else None)
                f = f + F.upsample_nearest(F.mix_features(small, fc[:, heads:], None), *full)  # (B, d*k*k, H, W)
                out = self.conv.shift_and_sum(f)
            else:
                out = self.conv(ops.cat((maps, F.upsample_nearest(small, *full)), 1))
        conv = ops.transpose(out.reshape(-1, self.dim, full[0] * full[1]), (0, 2, 1))
        return kernels.zero_pad(conv, 1, 1, 0) if has_class else conv

    def attention_path(self, q: Tensor, kv: Tensor) -> Tensor:
        """(B, L, C), (B, M, 2C) -> (B, L, C)."""
        heads = self.num_heads
        q = F.token_heads(q, heads)  # (B, N, L, d)
        k, v = ops.split(F.token_heads(kv, 2 * heads), heads, 1)  # (B, N, M, d)
        logits = ops.BatchMatMul(False, True)(q, k).astype(ms.float32)  # (B, N, L, M)
        out = kernels.softmax_product(logits, v)  # (B, N, L, d)
        return kernels.linear(F.merge_token_heads(out), self.proj_weight, self.proj_bias)

    def work(self, given: tuple, out: tuple, height: int, width: int) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        batch, length, dim = given
        ratio, pixels = self.sr_ratio, batch * height * width
        low = batch * (max(height, ratio) // ratio) * (max(width, ratio) // ratio)
        keys, pieces = low if ratio > 1 else batch * length, []
        if self.projects:
            tokens = batch * length + 2 * keys
            own = 3 * dim * dim + (3 * dim if self.has_bias else 0)
            work = {"macs": dim * dim * tokens, "bias": dim * tokens * self.has_bias, "params": own}
            pieces.append({"kind": "project", "stage": "I", **work})
        if ratio > 1:
            own = size_of(self.sr) + size_of(self.norm)
            work = {"macs": dim * dim * ratio**2 * low, "bias": dim * low, "norm": dim * low, "params": own}
            pieces.append({"kind": "reduce", "stage": "rest", **work})
        pieces += self.attention_work(2 * length * keys * dim, batch * length)
        if not self.has_conv:
            return pieces
        if self.own_projection:
            channels = dim if ratio == 1 else 2 * dim
        else:
            channels = 3 * dim
        work = self.conv.work((batch, channels, height, width), (batch, dim, height, width))
        if self.form == "factored" and ratio > 1:  # the layer mixes k and v while they are small
            work[0]["macs"] = work[0]["macs"] // 3 // pixels * (pixels + 2 * low)
        return pieces + work
