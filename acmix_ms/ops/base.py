"""What the four forms of ACmix share: argument checks, the shift convolution, the convolution path and the sum."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import HeUniform, initializer

from acmix_ms.errors import UserError
from acmix_ms.ops import fold, kernels
from acmix_ms.ops import functional as F

SHIFTS = ("tensor", "fixed", "random", "learned")
MIXES = ("attention", "conv", "sum", "alpha_one", "alpha", "learned")


def check_positive(**values: int) -> None:
    """Raise UserError, naming the argument, unless every value is an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name}={value!r}: give an integer of at least 1")


def check_odd(**values: int) -> None:
    """Raise UserError, naming the argument, unless every value is an odd integer of at least 1."""
    check_positive(**values)
    for name, value in values.items():
        if value % 2 == 0:
            raise UserError(f"{name}={value}: a kernel needs a centre, give an odd size such as {value - 1 or 1}")


def check_choice(choices: tuple[str, ...], **values: str) -> None:
    """Raise UserError, naming the argument, unless every value is one of ``choices``."""
    for name, value in values.items():
        if value not in choices:
            raise UserError(f"{name}={value!r}: choose from {', '.join(choices)}")


def check_multiple(**values: int) -> None:
    """Raise UserError unless the first of two arguments is a multiple of the second."""
    (name, value), (divisor_name, divisor) = values.items()
    if value % divisor:
        raise UserError(f"{name}={value} is not a multiple of {divisor_name}={divisor}: change one of them")


def check_operator(*, num_heads: int, conv_kernel_size: int, shift: str, mix: str, **channels: int) -> None:
    """The checks of every form; ``channels`` is the argument, under its own name, that the heads divide."""
    check_positive(num_heads=num_heads, **channels)
    check_odd(conv_kernel_size=conv_kernel_size)
    ((name, value),) = channels.items()
    if value % num_heads:
        raise UserError(f"{name}={value} is not divisible by num_heads={num_heads}: change one of them")
    check_choice(SHIFTS, shift=shift)
    check_choice(MIXES, mix=mix)


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


class TwoPaths(nn.Cell):
    """What every form shares: the convolution path over q, k, v and the learned sum of the two paths (eq. 13)."""

    def build_conv_path(
        self, channels: int, num_heads: int, kernel_size: int, stride: int, dilation: int, shift: str, fc_bias: bool
    ) -> None:
        self.num_heads, self.conv_kernel_size = num_heads, kernel_size
        self.stride, self.dilation, self.shift = stride, dilation, shift
        self.fc = nn.Conv2d(3 * num_heads, kernel_size * kernel_size, 1, has_bias=fc_bias)
        if shift != "tensor":
            self.dep_conv = ShiftConv(channels, channels // num_heads, kernel_size, stride, dilation, shift)

    def build_rates(self, mix: str) -> None:
        self.mix = mix
        if mix in ("alpha_one", "alpha", "learned"):
            self.rate1 = Parameter(Tensor([0.5], ms.float32), name="rate1")
        if mix == "learned":
            self.rate2 = Parameter(Tensor([0.5], ms.float32), name="rate2")

    def conv_path(self, qkv: Tensor) -> Tensor:
        """(B, 3C, H, W) -> (B, C, Ho, Wo).

        An Ascend multiplies no more for a group convolution over the 3N maps than over their k*k mixtures
        (`fold.merged_groups`), so there the layer that mixes them is merged into its weights.
        """
        bias = self.fc.bias if self.fc.has_bias else None
        if kernels.on_ascend() and self.shift != "tensor":
            return F.grouped_path(qkv, self.fc.weight, bias, self.dep_conv.weight, self.stride, self.dilation)
        return self.shift_and_sum(F.mix_features(qkv, self.fc.weight, bias))

    def dense_conv_path(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`conv_path` of the projection of x by (3C, Cin) weights as one dense convolution: the same linear map.

        (B, Cin, H, W) -> (B, C, Ho, Wo).
        """
        fc_bias = self.fc.bias if self.fc.has_bias else None
        return F.dense_path(x, weight, bias, self.fc.weight, fc_bias, self.dep_conv.weight, self.stride, self.dilation)

    def prefers_dense(self, x: Tensor, in_channels: int, channels: int) -> bool:
        """Whether `dense_conv_path` is the cheaper form here. Slices and additions have no weights to merge."""
        if self.shift == "tensor" or (kernels.on_cpu() and x.dtype != ms.float32):
            return False
        sizes = (in_channels, channels, self.num_heads, self.conv_kernel_size, self.stride)
        return fold.dense_is_cheaper(kernels.device(), *sizes)

    def shift_and_sum(self, f: Tensor) -> Tensor:
        """(B, d*k*k, H, W) -> (B, C, Ho, Wo)."""
        if self.shift == "tensor":
            return F.tensor_shift(f, self.num_heads, self.conv_kernel_size, self.stride, self.dilation)
        return self.dep_conv(f)

    def sum_paths(self, attention: Tensor, conv: Tensor) -> Tensor:
        """alpha * attention + beta * conv, alpha and beta as ``mix`` says (Table 6)."""
        if self.mix == "sum":
            return attention + conv
        attention = kernels.scale(attention, self.rate1)
        if self.mix == "alpha_one":
            return attention + conv
        return attention + kernels.scale(conv, self.rate2 if self.mix == "learned" else 1 - self.rate1)


def recompute_operators(net: nn.Cell) -> int:
    """Let the backward pass compute what is inside the operators again instead of keeping it: memory for time.

    Returns how many operators there are.

    Raises:
        UserError: there is none.
    """
    operators = [cell for _, cell in net.cells_and_names() if isinstance(cell, TwoPaths)]
    if not operators:
        raise UserError("train.recompute=true: this model has no ACmix operator to recompute, leave it out")
    for cell in operators:
        cell.recompute()
    return len(operators)
