"""The sliding-window form of ACmix, for ResNet."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from acmix_ms.ops import functional as F
from acmix_ms.ops import inputs
from acmix_ms.ops.base import TwoPaths, check_choice, check_odd, check_operator, check_positive
from acmix_ms.ops.fold import Costs
from acmix_ms.ops.fused import FusedACmix
from acmix_ms.ops.neighborhood import neighborhood_attention

BACKENDS = ("halo", "unfold")


class ACmix(TwoPaths):
    """Sliding-window ACmix, a drop-in for a 3x3 `nn.Conv2d` of the same channels and stride (Section 4.2).

    x (B, in_channels, H, W) -> (B, out_channels, ceil(H/stride), ceil(W/stride)), in the dtype of x (float32 or
    float16; softmax and position term stay in float32). Any H and W: borders of the attention path are mirrored,
    again and again where the map is smaller than the reach; the convolution path pads with zeros.

    Parameters are named as in the official code (``conv1/2/3`` = q/k/v, ``conv_p``, ``fc``, ``dep_conv``, ``rate1`` =
    alpha, ``rate2`` = beta). Departures from it: odd sizes with stride 2, any odd ``conv_kernel_size`` and
    ``dilation`` (of both paths) work; the position encoding is subtracted from the keys, which is exact.

    Args:
        in_channels, out_channels: as of the convolution replaced; ``out_channels`` divisible by ``num_heads``.
        num_heads: N.
        attn_kernel_size: k_a, side of the attention window, odd.
        conv_kernel_size: k_c, side of the convolution, odd.
        stride: of the output.
        dilation: distance between taps, of both paths.
        shift: ``"learned"``, ``"random"``, ``"fixed"`` or ``"tensor"`` (Table 7).
        mix: ``"learned"`` (alpha, beta), ``"alpha"`` (alpha, 1 - alpha), ``"alpha_one"`` (alpha, 1), ``"sum"`` (1, 1),
            ``"attention"`` or ``"conv"`` (one path alone, without the parameters of the other) (Table 6).
        backend: ``"halo"`` (fast) or ``"unfold"`` (plain form, for comparison).

    Raises:
        UserError: (a ValueError) an argument, or an input, that cannot work, named with its value.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_heads: int = 4,
        attn_kernel_size: int = 7,
        conv_kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        shift: str = "learned",
        mix: str = "learned",
        backend: str = "halo",
    ):
        super().__init__()
        check_positive(in_channels=in_channels, stride=stride, dilation=dilation)
        check_odd(attn_kernel_size=attn_kernel_size)
        check_operator(
            out_channels=out_channels, num_heads=num_heads, conv_kernel_size=conv_kernel_size, shift=shift, mix=mix
        )
        check_choice(BACKENDS, backend=backend)
        self.in_channels, self.out_channels, self.num_heads = in_channels, out_channels, num_heads
        self.attn_kernel_size, self.stride, self.dilation = attn_kernel_size, stride, dilation
        self.backend = backend

        # Stage I: the shared projections
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, has_bias=True)  # q
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, has_bias=True)  # k
        self.conv3 = nn.Conv2d(in_channels, out_channels, 1, has_bias=True)  # v
        # Stage II
        if mix != "conv":
            self.conv_p = nn.Conv2d(2, out_channels // num_heads, 1, has_bias=True)
        if mix != "attention":
            self.build_conv_path(out_channels, num_heads, conv_kernel_size, stride, dilation, shift, fc_bias=False)
        self.build_rates(mix)

    def construct(self, x: Tensor) -> Tensor:
        inputs.check_map(self.cls_name, x, self.in_channels)
        # One product for the three: fewer passes over x, and what the convolution path takes.
        weight = ops.cat((self.conv1.weight, self.conv2.weight, self.conv3.weight), 0)
        bias = ops.cat((self.conv1.bias, self.conv2.bias, self.conv3.bias), 0)
        qkv = F.project(x, weight, bias)  # (B, 3C, H, W)
        if self.mix == "attention":
            return self.attention_path(*ops.split(qkv, self.out_channels, 1))
        if self.prefers_dense(x, self.in_channels, self.out_channels):
            conv = self.dense_conv_path(x, weight.reshape(3 * self.out_channels, self.in_channels), bias)
        else:
            conv = self.conv_path(qkv)
        if self.mix == "conv":
            return conv
        return self.sum_paths(self.attention_path(*ops.split(qkv, self.out_channels, 1)), conv)

    def attention_path(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, C, H, W) each -> (B, C, Ho, Wo)."""
        # The grid and its projection stay in float32: half precision would blur neighbouring coordinates.
        grid = F.position_grid(q.shape[2], q.shape[3])
        position = F.project(grid, self.conv_p.weight, self.conv_p.bias)  # (1, d, H, W)
        return neighborhood_attention(
            q, k, v, position, self.num_heads, self.attn_kernel_size, self.stride, self.dilation, self.backend
        )

    def fused(self, norm: nn.BatchNorm2d | None, costs: Costs) -> FusedACmix:
        """Deploy form, for `acmix_ms.ops.fuse`."""
        return FusedACmix(self, norm, costs)
