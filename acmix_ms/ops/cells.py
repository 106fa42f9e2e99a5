"""ACmix Cells: they hold the parameters, under the official names, and call `functional`."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, TruncatedNormal, initializer

from acmix_ms.errors import UserError
from acmix_ms.ops import functional as F

SHIFTS = ("tensor", "fixed", "random", "learned")
MIXES = ("attention", "conv", "sum", "alpha", "learned")
BACKENDS = ("halo", "unfold")


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name}={value!r}: give an integer of at least 1")


def _check_odd(**values: int) -> None:
    _check_positive(**values)
    for name, value in values.items():
        if value % 2 == 0:
            raise UserError(f"{name}={value}: a kernel needs a centre, give an odd size such as {value - 1 or 1}")


def _check_choice(choices: tuple[str, ...], **values: str) -> None:
    for name, value in values.items():
        if value not in choices:
            raise UserError(f"{name}={value!r}: choose from {', '.join(choices)}")


def _check_heads(channels: int, num_heads: int, channels_name: str) -> None:
    if channels % num_heads:
        raise UserError(f"{channels_name}={channels} is not divisible by num_heads={num_heads}: change one of them")


class ShiftConv(nn.Cell):
    """Group convolution that shifts and sums (Fig. 3c): weight (C, k*k, k, k), no bias, zero padding.

    Not an `nn.Conv2d` on purpose: the usual "Kaiming for every Conv2d" loop over a network would wipe the shift
    kernels, which is what happens in the official ResNet.

    Args:
        channels: C, output channels.
        groups: d = C / N.
        kernel_size, stride, dilation: of the convolution.
        shift: ``"learned"`` (shift kernels, trainable), ``"fixed"`` (shift kernels, frozen) or ``"random"``
            (trainable, without the shift initialisation).
    """

    def __init__(
        self, channels: int, groups: int, kernel_size: int, stride: int = 1, dilation: int = 1, shift: str = "learned"
    ):
        super().__init__()
        self.groups, self.stride, self.dilation = groups, stride, dilation
        kernels = F.shift_kernels(channels, kernel_size)
        value = initializer(HeUniform(5**0.5), kernels.shape, ms.float32) if shift == "random" else Tensor(kernels)
        self.weight = Parameter(value, name="weight", requires_grad=shift != "fixed")

    def construct(self, x: Tensor) -> Tensor:
        return F.group_shift(x, self.weight, self.groups, self.stride, self.dilation)


class _TwoPaths(nn.Cell):
    """What every form shares: the convolution path over q, k, v and the learned sum of the two paths (eq. 13)."""

    def _build_conv_path(
        self, channels: int, num_heads: int, kernel_size: int, stride: int, dilation: int, shift: str, fc_bias: bool
    ) -> None:
        self.num_heads, self.conv_kernel_size = num_heads, kernel_size
        self.stride, self.dilation, self.shift = stride, dilation, shift
        self.fc = nn.Conv2d(3 * num_heads, kernel_size * kernel_size, 1, has_bias=fc_bias)
        if shift != "tensor":
            self.dep_conv = ShiftConv(channels, channels // num_heads, kernel_size, stride, dilation, shift)

    def _build_rates(self, mix: str) -> None:
        self.mix = mix
        if mix in ("alpha", "learned"):
            self.rate1 = Parameter(Tensor([0.5], ms.float32), name="rate1")
        if mix == "learned":
            self.rate2 = Parameter(Tensor([0.5], ms.float32), name="rate2")

    def conv_path(self, qkv: Tensor) -> Tensor:
        """(B, 3C, H, W) -> (B, C, Ho, Wo)."""
        f = F.mix_features(qkv, self.fc.weight, self.fc.bias if self.fc.has_bias else None, self.num_heads)
        if self.shift == "tensor":
            return F.tensor_shift(f, self.num_heads, self.conv_kernel_size, self.stride, self.dilation)
        return self.dep_conv(f)

    def sum_paths(self, attention: Tensor, conv: Tensor) -> Tensor:
        """alpha * attention + beta * conv, alpha and beta as ``mix`` says (Table 6)."""
        if self.mix == "sum":
            return attention + conv
        alpha = self.rate1.astype(attention.dtype)
        beta = self.rate2.astype(attention.dtype) if self.mix == "learned" else 1 - alpha
        return alpha * attention + beta * conv


class ACmix(_TwoPaths):
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
        mix: ``"learned"`` (alpha, beta), ``"alpha"`` (alpha, 1 - alpha), ``"sum"`` (1, 1), ``"attention"`` or
            ``"conv"`` (one path alone, without the parameters of the other) (Table 6).
        backend: ``"halo"`` (fast) or ``"unfold"`` (plain form, for comparison).

    Raises:
        UserError: (a ValueError) an argument that cannot work, named with its value.
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
        _check_positive(in_channels=in_channels, out_channels=out_channels, num_heads=num_heads)
        _check_positive(stride=stride, dilation=dilation)
        _check_odd(attn_kernel_size=attn_kernel_size, conv_kernel_size=conv_kernel_size)
        _check_heads(out_channels, num_heads, "out_channels")
        _check_choice(SHIFTS, shift=shift)
        _check_choice(MIXES, mix=mix)
        _check_choice(BACKENDS, backend=backend)
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
            self._build_conv_path(out_channels, num_heads, conv_kernel_size, stride, dilation, shift, fc_bias=False)
        self._build_rates(mix)

    def construct(self, x: Tensor) -> Tensor:
        q = F.project(x, self.conv1.weight, self.conv1.bias)  # (B, C, H, W)
        k = F.project(x, self.conv2.weight, self.conv2.bias)
        v = F.project(x, self.conv3.weight, self.conv3.bias)
        if self.mix == "conv":
            return self.conv_path(ops.cat((q, k, v), 1))
        attention = self.attention_path(q, k, v)
        if self.mix == "attention":
            return attention
        return self.sum_paths(attention, self.conv_path(ops.cat((q, k, v), 1)))

    def attention_path(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, C, H, W) each -> (B, C, Ho, Wo)."""
        # The grid and its projection stay in float32: half precision would blur neighbouring coordinates.
        grid = F.position_grid(q.shape[2], q.shape[3])
        position = F.project(grid, self.conv_p.weight, self.conv_p.bias)  # (1, d, H, W)
        return F.neighborhood_attention(
            q, k, v, position, self.num_heads, self.attn_kernel_size, self.stride, self.dilation, self.backend
        )


class WindowACmix(_TwoPaths):
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
        UserError: (a ValueError) an argument, or a map size, that cannot work.
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
        _check_positive(dim=dim, num_heads=num_heads, window_height=window[0], window_width=window[1])
        _check_odd(conv_kernel_size=conv_kernel_size)
        _check_heads(dim, num_heads, "dim")
        _check_choice(SHIFTS, shift=shift)
        _check_choice(MIXES, mix=mix)
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
            self._build_conv_path(dim, num_heads, conv_kernel_size, 1, 1, shift, fc_bias=True)
        self._build_rates(mix)
        self.proj_drop = nn.Dropout(p=proj_drop)

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, H, W, C), mask (nW, L, L) added to the logits or None -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        F.check_window(height, width, self.window_size)
        qkv = F.dense(x, self.qkv.weight, self.qkv.bias if self.qkv.has_bias else None)  # (B, H, W, 3C)
        if self.mix == "conv":
            return self.proj_drop(self.window_conv_path(qkv))
        attention = self.attention_path(qkv, mask)
        if self.mix == "attention":
            return self.proj_drop(attention)
        return self.proj_drop(self.sum_paths(attention, self.window_conv_path(qkv)))

    def window_conv_path(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C): neighbours across window borders count."""
        return ops.transpose(self.conv_path(ops.transpose(qkv, (0, 3, 1, 2))), (0, 2, 3, 1))

    def attention_path(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C)."""
        height, width = qkv.shape[1], qkv.shape[2]
        heads, dim = self.num_heads, self.dim // self.num_heads
        qkv = F.window_partition(qkv, self.window_size).reshape(-1, self.length, 3 * heads, dim)
        qkv = ops.transpose(qkv, (0, 2, 1, 3))  # (B*nW, 3N, L, d)
        q, k, v = ops.split(qkv, heads, 1)  # (B*nW, N, L, d)
        weights = F.window_attention_weights(q * dim**-0.5, k, self.position_bias(), mask)
        out = ops.BatchMatMul()(self.attn_drop(weights).astype(v.dtype), v)  # (B*nW, N, L, d)
        out = ops.transpose(out, (0, 2, 1, 3)).reshape(-1, self.length, self.dim)
        out = F.dense(out, self.proj.weight, self.proj.bias)
        return F.window_merge(out, self.window_size, height, width)

    def position_bias(self) -> Tensor:
        """(N, L, L) bias from the table."""
        bias = ops.gather(self.relative_position_bias_table, self.relative_position_index, 0)  # (L*L, N)
        return ops.transpose(bias, (1, 0)).reshape(self.num_heads, self.length, self.length)
