"""Small Cells and initialisers that several backbones share."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeNormal, TruncatedNormal, Zero, initializer

from acmix_ms.ops.fold import Costs, array
from acmix_ms.ops.kernels import Dense, gelu, on_cpu, zero_pad
from acmix_ms.ops.resizing import bilinear_matrix


class DropPath(nn.Cell):
    """Stochastic depth: drops the whole residual branch of a sample with probability ``rate`` while training.

    Args:
        rate: 0 to below 1.
    """

    BRANCHES = 2  # of a block, which share one rate but not their random numbers

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate
        self.dropout = nn.Dropout(p=rate)
        self.draws, self.first = None, 0

    def use_draws(self, draws: Parameter, first: int) -> None:
        """Take random numbers from elsewhere (`acmix_ms.engine.draws`) instead of from a kernel of MindSpore, whose
        state can be neither saved nor restored.

        Args:
            draws: (rows, B) float32, uniform in [0, 1), renewed before every step. No weight of this Cell.
            first: row for the first branch; those of the others follow.
        """
        object.__setattr__(self, "draws", draws)  # Cell would register it
        self.first = first

    def construct(self, x: Tensor, branch: int = 0) -> Tensor:
        """x (B, ...) -> (B, ...); ``branch``: number of the residual branch within its block."""
        if self.rate == 0.0 or not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        if self.draws is None:
            return x * self.dropout(ops.ones(shape, x.dtype))  # 0 or 1 / (1 - rate)
        kept = (self.draws[self.first + branch] >= self.rate).astype(x.dtype) / (1 - self.rate)
        return x * kept.reshape(shape)


class DropChannels(DropPath):
    """Dropout of whole channels of a map while training, `nn.Dropout2d` of PyTorch: (B, C, H, W) -> the same.

    Args:
        rate: 0 to below 1.
        channels: C.
    """

    def __init__(self, rate: float, channels: int):
        super().__init__(rate)
        self.BRANCHES = channels  # so many rows of random numbers

    def construct(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        batch, channels = x.shape[:2]
        if self.draws is None:
            return x * self.dropout(ops.ones((batch, channels, 1, 1), x.dtype))
        kept = ops.transpose(self.draws[self.first : self.first + channels], (1, 0)) >= self.rate
        return x * (kept.astype(x.dtype) / (1 - self.rate)).reshape(batch, channels, 1, 1)


def kaiming() -> HeNormal:
    """What mmdetection and mmsegmentation give to convolutions in front of a ReLU."""
    return HeNormal(mode="fan_out", nonlinearity="relu")


class NormedConv(nn.Cell):
    """A convolution ``conv`` with a BatchNorm ``bn`` behind it; keeps the size."""

    FOLD = (("conv", "bn"),)

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, pad_mode="pad", padding=padding, weight_init=kaiming()
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def construct(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class NormedReLU(NormedConv):
    """`NormedConv` and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__(in_channels, out_channels, kernel_size)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class ZeroPadMaxPool(nn.Cell):
    """Max-pool 3x3 of stride 2 with a border of zeros, for maps without negative values: (B, C, H, W) ->
    (B, C, ceil(H/2), ceil(W/2)).

    After a ReLU zeros change no maximum, and unlike a border of -inf every backend and export has them.
    """

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2)

    def construct(self, x: Tensor) -> Tensor:
        return self.pool(zero_pad(zero_pad(x, 2, 1, 1), 3, 1, 1))


class Mlp(nn.Cell):
    """Two linear layers with the exact (erf) GELU between them, over the last axis."""

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0):
        super().__init__()
        self.fc1 = Dense(dim, hidden_dim)
        self.fc2 = Dense(hidden_dim, dim)
        self.drop = nn.Dropout(p=drop)

    def construct(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(gelu(self.fc1(x)))))

    def fused(self, norm: None, costs: Costs) -> nn.Cell:
        """Deploy form, for `acmix_ms.ops.fuse`: the layers take GELU's factors where it is no kernel of its own."""
        return ScaledMlp(self) if on_cpu() else self


class ScaledMlp(nn.Cell):
    """Deploy form of `Mlp`: gelu(h) = (y + y * erf(y)) / sqrt(2) with y = h / sqrt(2), both factors in the weights."""

    def __init__(self, mlp: Mlp):
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2
        for value in (self.fc1.weight, self.fc1.bias, self.fc2.weight):
            value.set_data(Tensor((array(value) * 0.5**0.5).astype(np.float32)))

    def construct(self, x: Tensor) -> Tensor:
        y = self.fc1(x)
        return self.fc2(y + y * ops.erf(y))


def init_convnet(net: nn.Cell) -> None:
    """Kaiming normal (fan out) for every `nn.Conv2d`, as torchvision does.

    The shift kernels of ACmix live in `ShiftConv`, which is no `nn.Conv2d`: they stay as built.
    """
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            cell.weight.set_data(initializer(HeNormal(mode="fan_out", nonlinearity="relu"), cell.weight.shape))


def init_transformer(net: nn.Cell) -> None:
    """Truncated normal of std 0.02 and zero bias for every `nn.Dense`, as in DeiT, PVT and Swin."""
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.Dense):
            cell.weight.set_data(initializer(TruncatedNormal(0.02), cell.weight.shape))
            if cell.has_bias:
                cell.bias.set_data(initializer(Zero(), cell.bias.shape))


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Linearly growing stochastic-depth rates, one for each block of each stage."""
    total = sum(depths)
    rates = [rate * i / max(total - 1, 1) for i in range(total)]
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths)]


def block_layers(
    blocks: str, depth: int, before: tuple[str, ...] = (), after: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], ...]:
    """The layers of one stage, for ``stages`` of a `acmix_ms.backbone.Backbone`, as prefixes of parameters.

    Each of the ``depth`` blocks ``<blocks>.<i>`` is one; what comes before and after them goes with the first and last.
    """
    names = [(f"{blocks}.{i}",) for i in range(depth)]
    names[0] = before + names[0]
    names[-1] = names[-1] + after
    return tuple(names)


def round_up(size: int, multiple: int) -> int:
    """Smallest multiple of ``multiple`` that is at least ``size``."""
    return math.ceil(size / multiple) * multiple


def resize_positions(table: Tensor, side: int, height: int, width: int) -> Tensor:
    """Position embeddings of a side x side map, resized: (1, side*side, C) -> (1, height*width, C).

    Bilinear as PyTorch's ``interpolate`` without aligned corners, written as two matrix products, which train and
    export everywhere.
    """
    if (height, width) == (side, side):
        return table
    channels, table = table.shape[2], table.astype(ms.float32)
    # Products of two plain matrices: `ops.matmul` becomes a primitive that CANN's graph engine does not have.
    table = ops.MatMul()(bilinear_matrix(height, side), table.reshape(side, side * channels))  # (H, side*C)
    table = ops.transpose(table.reshape(height, side, channels), (1, 0, 2)).reshape(side, height * channels)
    table = ops.MatMul()(bilinear_matrix(width, side), table).reshape(width, height, channels)
    return ops.transpose(table, (1, 0, 2)).reshape(1, height * width, channels)


def add_class_token(x: Tensor, token: Tensor, table: Tensor) -> Tensor:
    """Positions added, and the class token put in front: (B, L, C), (1, 1, C), (1, L, C) -> (B, L + 1, C)."""
    return zero_pad(x, 1, 1, 0) + ops.cat((token, table), 1).astype(x.dtype)


def resize_table(table: Tensor, rows: int) -> Tensor:
    """A table of relative distances for a map of another size: (2S - 1, d) -> (rows, d), bilinear."""
    if rows == table.shape[0]:
        return table
    return ops.MatMul()(bilinear_matrix(rows, table.shape[0]).astype(table.dtype), table)
