"""The patchwise form of ACmix, for SAN."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from acmix_ms.ops import functional as F
from acmix_ms.ops import inputs
from acmix_ms.ops.base import TwoPaths, check_multiple, check_odd, check_operator, check_positive
from acmix_ms.ops.fold import Costs, fold_norm
from acmix_ms.ops.fused import FusedPatchwise
from acmix_ms.ops.neighborhood import aggregate, unfold


class PatchwiseACmix(TwoPaths):
    """Patchwise ACmix, the SAN form (eq. 18): x (B, in_channels, H, W) -> (B, out_channels, Ho, Wo), any size.

    The weights of a pixel's window come from its query and all keys of the window at once, through two linear layers
    with BatchNorm and ReLU (``conv_w``), without a softmax; ``share_channels`` channels use the same weights:
    ``att[c](x) = sum_t w[c mod (m / share), t](x) * v[c](x + t)``. The convolution path takes q and k repeated from
    ``rel_channels`` to ``out_channels`` maps beside v. ``mix="attention"`` is the plain self-attention module of SAN.

    The official repository has no SAN: parameters are named as in SAN's own code (``conv1/2/3``, ``conv_w``) and as in
    the official operator (``fc`` without bias, ``dep_conv``, ``rate1``, ``rate2``).

    Args:
        in_channels: c, of the input.
        out_channels: m, of v and of the output.
        rel_channels: r, of q and k; ``out_channels / 4`` by default.
        share_channels: channels that share attention weights.
        num_heads: N, of the convolution path.
        attn_kernel_size, conv_kernel_size, stride, dilation, shift, mix: as in `ACmix`.

    Raises:
        UserError: (a ValueError) an argument, or an input, that cannot work, named with its value.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        rel_channels: int | None = None,
        share_channels: int = 8,
        num_heads: int = 4,
        attn_kernel_size: int = 7,
        conv_kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        shift: str = "learned",
        mix: str = "learned",
    ):
        super().__init__()
        check_positive(in_channels=in_channels, share_channels=share_channels, stride=stride, dilation=dilation)
        check_odd(attn_kernel_size=attn_kernel_size)
        check_operator(
            out_channels=out_channels, num_heads=num_heads, conv_kernel_size=conv_kernel_size, shift=shift, mix=mix
        )
        check_multiple(out_channels=out_channels, share_channels=share_channels)
        rel_channels = rel_channels or max(out_channels // 4, 1)
        check_positive(rel_channels=rel_channels)
        check_multiple(out_channels=out_channels, rel_channels=rel_channels)
        self.in_channels, self.out_channels, self.rel_channels = in_channels, out_channels, rel_channels
        self.share_channels, self.num_heads = share_channels, num_heads
        self.attn_kernel_size, self.stride, self.dilation = attn_kernel_size, stride, dilation

        # Stage I
        self.conv1 = nn.Conv2d(in_channels, rel_channels, 1, has_bias=True)  # q
        self.conv2 = nn.Conv2d(in_channels, rel_channels, 1, has_bias=True)  # k
        self.conv3 = nn.Conv2d(in_channels, out_channels, 1, has_bias=True)  # v
        # Stage II
        if mix != "conv":
            taps, weights = attn_kernel_size**2, out_channels // share_channels
            self.conv_w = nn.SequentialCell(
                nn.BatchNorm2d(rel_channels * (taps + 1)),
                nn.ReLU(),
                nn.Conv2d(rel_channels * (taps + 1), weights, 1),
                nn.BatchNorm2d(weights),
                nn.ReLU(),
                nn.Conv2d(weights, taps * weights, 1, has_bias=True),
            )
        if mix != "attention":
            self.build_conv_path(out_channels, num_heads, conv_kernel_size, stride, dilation, shift, fc_bias=False)
        self.build_rates(mix)

    def construct(self, x: Tensor) -> Tensor:
        inputs.check_map(self.cls_name, x, self.in_channels)
        q = F.project(x, self.conv1.weight, self.conv1.bias)  # (B, r, H, W)
        k = F.project(x, self.conv2.weight, self.conv2.bias)
        v = F.project(x, self.conv3.weight, self.conv3.bias)  # (B, m, H, W)
        if self.mix == "conv":
            return self.patchwise_conv_path(q, k, v)
        attention = self.attention_path(q, k, v)
        if self.mix == "attention":
            return attention
        return self.sum_paths(attention, self.patchwise_conv_path(q, k, v))

    def attention_path(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, r, H, W), (B, r, H, W), (B, m, H, W) -> (B, m, Ho, Wo)."""
        weights = self.window_weights(q, k).astype(v.dtype)
        return aggregate(v, weights, self.attn_kernel_size, self.stride, self.dilation)

    def window_weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Weights of every window from its query and keys: (B, r, H, W) each -> (B, m/share*k*k, Ho, Wo)."""
        keys = unfold(k, self.attn_kernel_size, self.stride, self.dilation)
        return self.conv_w(ops.cat((F.subsample(q, self.stride), keys), 1))

    def patchwise_conv_path(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, r, H, W), (B, r, H, W), (B, m, H, W) -> (B, m, Ho, Wo)."""
        copies = self.out_channels // self.rel_channels
        return self.conv_path(ops.cat((F.repeat_channels(q, copies), F.repeat_channels(k, copies), v), 1))

    def fused(self, norm: nn.BatchNorm2d | None, costs: Costs) -> FusedPatchwise:
        """Deploy form, for `acmix_ms.ops.fuse`."""
        if self.mix != "conv":
            # The first BatchNorm of conv_w stands before a ReLU, on maps that depend on the tap: it stays.
            self.conv_w[2], self.conv_w[3] = fold_norm(self.conv_w[2], self.conv_w[3]), nn.Identity()
        return FusedPatchwise(self, norm, costs)
