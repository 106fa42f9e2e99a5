"""The arithmetic of re-parameterisation: NumPy in float64, rounded to float32 once, and the rule that chooses a form.

Letters as in `functional`; s input pixels for an output pixel (the stride squared), Cin channels of the map that the
projections read. ``maps`` are the 3N maps of each channel-in-head that the fully connected layer mixes: q, k and v of
every head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.ops import constexpr

from acmix_ms.ops import functional as F
from acmix_ms.ops import kernels

FORMS = ("dense", "grouped", "factored")


def array(value) -> np.ndarray:
    """A Parameter or Tensor in float64."""
    return value.asnumpy().astype(np.float64)


def parameter(value: np.ndarray, name: str) -> Parameter:
    """A frozen float32 Parameter: what is folded is not for training."""
    return Parameter(Tensor(np.ascontiguousarray(value, np.float32)), name=name, requires_grad=False)


def bias_or_zeros(cell: nn.Cell, size: int) -> np.ndarray:
    """(size,): the bias of a convolution or linear layer, zeros where it has none."""
    return array(cell.bias) if cell.has_bias else np.zeros(size)


# ------------------------------------------------------------------------------------------------------- batch norm
def foldable(norm) -> bool:
    """Whether this is a BatchNorm2d that uses its running statistics in evaluation."""
    return isinstance(norm, nn.BatchNorm2d) and norm.use_batch_statistics is not True


def affine(norm: nn.BatchNorm2d | None, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift), (C,) each, of a BatchNorm in evaluation; of the identity for None."""
    if norm is None:
        return np.ones(channels), np.zeros(channels)
    scale = array(norm.gamma) / np.sqrt(array(norm.moving_variance) + norm.eps)
    return scale, array(norm.beta) - array(norm.moving_mean) * scale


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d, channels: slice = slice(None)) -> nn.Conv2d:
    """One convolution with a bias that computes ``norm(conv(x))`` in evaluation, for these channels of the norm."""
    scale, shift = (value[channels] for value in affine(norm, norm.num_features))
    weight = array(conv.weight) * scale.reshape(-1, 1, 1, 1)
    bias = bias_or_zeros(conv, conv.out_channels) * scale + shift
    folded = kernels.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        pad_mode=conv.pad_mode,
        padding=conv.padding,
        dilation=conv.dilation,
        group=conv.group,
        has_bias=True,
        weight_init=Tensor(weight.astype(np.float32)),
        bias_init=Tensor(bias.astype(np.float32)),
    )
    for value in folded.get_parameters():
        value.requires_grad = False
    return folded


# --------------------------------------------------------------------------------------------------- the two paths
def rates(cell) -> tuple[float, float]:
    """(alpha, beta) of an operator, as its ``mix`` says; 0 for a path that it does not have."""
    if cell.mix in ("attention", "conv", "sum"):
        return float(cell.mix != "conv"), float(cell.mix != "attention")
    alpha = float(array(cell.rate1)[0])
    if cell.mix == "alpha_one":
        return alpha, 1.0
    return alpha, float(array(cell.rate2)[0]) if cell.mix == "learned" else 1.0 - alpha


def shift_weight(cell, channels: int) -> np.ndarray:
    """(C, k*k, k, k): the shift kernels, as they were learned or as slices and additions have them."""
    if cell.shift == "tensor":
        return F.shift_kernels(channels, cell.conv_kernel_size).astype(np.float64)
    return array(cell.dep_conv.weight)


def fold_fc(cell, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Fully connected layer and shift convolution as one group convolution over the maps.

    Returns (kernel (C, 3N, k, k), border (C, k, k): the kernel of the layer's bias, which enters before the zero
    padding, so that taps outside of the map have no share of it).
    """
    shift = shift_weight(cell, channels)
    fc = array(cell.fc.weight)[:, :, 0, 0]  # (k*k, 3N)
    kernel = np.einsum("ojyx,jm->omyx", shift, fc)
    return kernel, np.einsum("ojyx,j->oyx", shift, bias_or_zeros(cell.fc, len(fc)))


def fold_projection(kernel: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """(C, 3N, k, k) over maps made by a (3C, Cin) projection -> (C, Cin, k, k) over what the projection reads."""
    channels, maps, height, width = kernel.shape
    dim = len(projection) // maps
    kernel = kernel.reshape(dim, channels // dim, maps, height * width)
    # Output i*N + n has the maps of channel-in-head i: rows m*d + i of the projection. As matrices for BLAS: per i,
    # (N*k*k, 3N) times (3N, Cin).
    rows = projection.reshape(maps, dim, -1).transpose(1, 0, 2)  # (d, 3N, Cin)
    left = kernel.transpose(0, 1, 3, 2).reshape(dim, -1, maps)  # (d, N*k*k, 3N)
    folded = (left @ rows).reshape(channels, height * width, -1)  # (C, k*k, Cin)
    return folded.transpose(0, 2, 1).reshape(channels, -1, height, width)


# ------------------------------------------------------------------------------------------------------ which form
class Costs(NamedTuple):
    """What a backend needs for each kind of work, in nanoseconds.

    Attributes:
        dense: of a multiply-add in a dense convolution.
        group: of a multiply-add in a group convolution.
        column: of an element of the input that a group convolution unrolls (k*k for each of its input elements).
        moved: of an element that is copied, transposed or gathered.
        cube: channels in and out are padded to multiples of it, where it is more than 1 those of neighbouring groups
            together, see `merged_groups`.
        weight: price of a weight for an output pixel. No backend has one; `fuse` raises it until the net is small.
    """

    dense: float
    group: float
    column: float
    moved: float
    cube: int
    weight: float = 0.0


COSTS = {
    # Measured with MindSpore 2.8.0 in float32 on 2 cores, batch 4, and fitted. ms an image of the whole path:
    #   channels, heads, side    dense  grouped  factored
    #         64,     4,   56     2.13     2.43      2.24
    #         96,     3,   56     4.41     3.35      4.36
    #        128,     4,   28     3.86     2.16      2.90
    #         64,     1,   56     2.37     2.27      8.01
    #        384,    12,   14     8.6      4.4       1.8   (batch 2)
    # Unrolling dominates group convolutions: merging groups, up to 16 of 4 channels, made none of them faster.
    "CPU": Costs(dense=1 / 54, group=1 / 75, column=0.35, moved=0.4, cube=1),
    # Estimated, not measured: half of the 128 TMAC/s and of the 1.2 TB/s of an Ascend 910 in float16; its cube unit
    # multiplies tiles of 16 x 16 channels and unrolls in hardware. How groups are merged is CANN's rule.
    "Ascend": Costs(dense=1 / 64000, group=1 / 64000, column=0.0, moved=1 / 150, cube=16),
    # Estimated, not measured: half of the 7.8 TMAC/s and of the 900 GB/s of a V100 in float32; group convolutions take
    # channels by eights, unrolled in registers.
    "GPU": Costs(dense=1 / 3900, group=1 / 3900, column=0.0, moved=1 / 56, cube=8),
}


def costs_of(device: str) -> Costs:
    """The table of the device that a net will run on, which need not be this one.

    Raises:
        ValueError: it has none.
    """
    if device not in COSTS:
        raise ValueError(f"device={device!r}: choose from {', '.join(COSTS)}")
    return COSTS[device]


def merged_groups(given: int, made: int, groups: int, cube: int) -> int:
    """How many groups of a group convolution, each with so many channels in and out, are computed as one.

    So many that their channels fill blocks of ``cube``, as CANN does it:
    min(lcm(lcm(ci, 16) / ci, lcm(co, 16) / co), groups).
    """
    return min(math.lcm(math.lcm(given, cube) // given, math.lcm(made, cube) // made), groups)


def cheapest_form(
    costs: Costs,
    *,
    in_channels: int,
    channels: int,
    num_heads: int,
    kernel_size: int,
    stride: int = 1,
    shared: bool = True,
    sr_ratio: int = 1,
    channels_last: bool = False,
    ordered: bool = True,
) -> str:
    """The cheapest of `FORMS` for a convolution path, by the cost of an output pixel.

    Args:
        costs: see `costs_of`.
        in_channels: Cin; channels: C; num_heads: N; kernel_size: k; stride: of the output.
        shared: whether the attention path needs the projections in any case. If not, ``"dense"`` saves them.
        sr_ratio: R, how many times smaller the sides of k and v are; ``"dense"`` reads their source as well.
        channels_last: whether what the path reads has to be transposed first.
        ordered: whether the projections can be made in the order that ``"grouped"`` reads, see `interleaves`.
    """
    taps, dim, pixels = kernel_size**2, channels // num_heads, stride**2
    low = pixels / sr_ratio**2  # pixels of k and v

    def padded(size: int) -> int:
        return -(-size // costs.cube) * costs.cube

    def group_conv(given: int, made: int) -> float:
        merged = merged_groups(given, made, dim, costs.cube)
        multiplied = -(-dim // merged) * padded(given * merged) * padded(made * merged)
        return taps * (dim * given * costs.column + multiplied * costs.group)

    project = 0 if shared else costs.dense * in_channels * channels * (pixels + 2 * low)
    project += 0 if shared else costs.weight * 3 * in_channels * channels
    sources = in_channels if sr_ratio == 1 else 2 * in_channels
    dense = taps * padded(sources) * padded(channels) * costs.dense
    reordered = 0 if ordered and interleaves(costs) and sr_ratio == 1 and not channels_last else 3 * channels * pixels
    grouped = project + group_conv(3 * num_heads, num_heads) + reordered * costs.moved
    mixed = channels * (pixels + 2 * low)  # elements that the fully connected layer reads
    factored = project + group_conv(taps, num_heads)
    factored += mixed * (costs.moved + taps * costs.dense) + 2 * taps * dim * pixels * costs.moved
    if sr_ratio > 1:  # bring the small maps back to full size
        dense += 2 * in_channels * pixels * costs.moved
        grouped += 4 * channels * pixels * costs.moved
        factored += 3 * taps * dim * pixels * costs.moved
    if channels_last:
        dense += in_channels * (pixels + (low if sr_ratio > 1 else 0)) * costs.moved
        grouped += mixed * costs.moved
        factored += mixed * costs.moved
    dense += costs.weight * taps * sources * channels
    grouped += costs.weight * taps * 3 * num_heads * channels
    factored += costs.weight * taps * (taps * channels + 3 * num_heads)
    return min(zip((dense, grouped, factored), FORMS))[1]


def interleaves(costs: Costs) -> bool:
    """Whether projections come in the order that the group convolution reads, and the attention transposes them, all
    at once: for backends whose kernel transposes any axes as fast as it copies. That of the CPU does not.
    """
    return costs.column == 0


def form_of(cell, costs: Costs, in_channels: int, channels: int, **more) -> str:
    """`cheapest_form` of an operator that reads ``in_channels`` and gives ``channels``; ``more``: see there.

    Without a convolution path only the attention reads the projections, as beside a dense one.
    """
    if cell.mix == "attention":
        return "dense"
    common = {"num_heads": cell.num_heads, "kernel_size": cell.conv_kernel_size, "shared": cell.mix != "conv"}
    return cheapest_form(costs, in_channels=in_channels, channels=channels, **common, **more)


@constexpr
def dense_is_cheaper(
    device: str, in_channels: int, channels: int, num_heads: int, kernel_size: int, stride: int = 1
) -> bool:
    """Whether the convolution path is trained faster as one dense convolution, merged from small weights at each step.

    On an Ascend that is what `cheapest_form` estimates. On CPU it was measured, since `COSTS` weighs the forms that
    inference has: in nanoseconds for an output pixel, on two cores forward, and forward and backward in the same ratio.
    A multiply-add of a dense convolution costs 0.03. The group convolution, with few channels in a group, is bound by
    the copy of its k*k * k*k * d input elements at 1.1 each; ``fc`` and the reordering after it cost 4 for each of the
    k*k * d. Of other devices nothing is known.
    """
    taps, dim = kernel_size * kernel_size, channels // num_heads
    if device == "CPU":
        return 0.03 * taps * in_channels * channels < 1.1 * taps * taps * dim + 4.0 * taps * dim * stride * stride
    sizes = {"num_heads": num_heads, "kernel_size": kernel_size, "stride": stride}
    if device == "Ascend":
        form = cheapest_form(COSTS[device], in_channels=in_channels, channels=channels, ordered=False, **sizes)
        return form == "dense"
    return False
