"""What the operators can be given: asked when a graph is compiled, so that it costs nothing when that runs.

The conditions are of sizes and types, which a graph knows: where all is well nothing of them is left in it. Functions
that raise are `constexpr`, because what they raise reaches the caller as it is, without MindSpore's own traces.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from acmix_ms.errors import UserError

FLOATS = (ms.float32, ms.float16, ms.bfloat16)


def check_map(name: str, x: Tensor, channels: int) -> None:
    """Raise UserError, in the name of an operator, unless x is a map (B, channels, H, W) of floating point."""
    check_floats(name, "x", x)
    if x.ndim != 4 or x.shape[1] != channels or x.shape[2] == 0 or x.shape[3] == 0:
        _refuse_shape(name, x.shape, ("B", channels, "H", "W"))


def check_window(name: str, x: Tensor, mask: Tensor | None, dim: int, window: tuple[int, int]) -> None:
    """Raise UserError unless x is a map (B, H, W, dim) of whole windows, and mask None or (windows, L, L)."""
    check_floats(name, "x", x)
    if x.ndim != 4 or x.shape[3] != dim or x.shape[1] == 0 or x.shape[2] == 0:
        _refuse_shape(name, x.shape, ("B", "H", "W", dim))
    if x.shape[1] % window[0] != 0 or x.shape[2] % window[1] != 0:
        _refuse_part_windows(name, x.shape[1], x.shape[2], window)
    if mask is not None:
        check_floats(name, "mask", mask)
        length = window[0] * window[1]
        if mask.shape != (x.shape[1] * x.shape[2] // length, length, length):
            _refuse_mask(name, mask.shape, x.shape[1] * x.shape[2] // length, length)


def check_tokens(name: str, x: Tensor, dim: int, height: int, width: int, sr_ratio: int) -> None:
    """Raise UserError unless x is (B, L, dim), L = height*width, or one more in front where nothing is reduced."""
    check_floats(name, "x", x)
    if x.ndim != 3 or x.shape[2] != dim:
        _refuse_shape(name, x.shape, ("B", "H*W", dim))
    _check_count(name, x.shape[1], height, width, sr_ratio)


def check_floats(name: str, argument: str, value: Tensor) -> None:
    """Raise UserError unless an input is a Tensor of float32, float16 or bfloat16."""
    if not isinstance(value, Tensor):
        _refuse_kind(name, argument, value)
    if value.dtype not in FLOATS:
        _refuse_type(name, argument, value.dtype)


# --------------------------------------------------------------------------------------------------------- refusals
@ops.constexpr
def _refuse_kind(name, argument, value):
    raise UserError(f"{name}: {argument} is of type {type(value).__name__}; give a mindspore.Tensor")


@ops.constexpr
def _refuse_type(name, argument, dtype):
    raise UserError(
        f"{name}: {argument} is of type {dtype}; give float32, float16 or bfloat16, "
        f"such as {argument}.astype(mindspore.float32)"
    )


@ops.constexpr
def _refuse_shape(name, shape, wanted):
    said = f"{len(shape)} dimension{'' if len(shape) == 1 else 's'}"
    if len(shape) == len(wanted):
        channels = next(axis for axis, size in enumerate(wanted) if isinstance(size, int))
        said = "no pixels" if shape[channels] == wanted[channels] else f"{shape[channels]} channels"
    raise UserError(f"{name}: x has {said} {shape}; give ({', '.join(map(str, wanted))})")


@ops.constexpr
def _refuse_part_windows(name, height, width, window):
    raise UserError(
        f"{name}: x is a map of {height}x{width}; height and width must be multiples of window_size={window}, pad it"
    )


@ops.constexpr
def _refuse_mask(name, shape, windows, length):
    raise UserError(f"{name}: mask has shape {shape}; give {(windows, length, length)}, a table for each window of x")


@ops.constexpr
def _check_count(name, length, height, width, sr_ratio):
    for argument, value in (("height", height), ("width", width)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise UserError(f"{name}: {argument}={value!r}; give the pixels of the map, an integer of at least 1")
    if length == height * width + 1 and sr_ratio > 1:
        raise UserError(f"{name}: a class token has no place in a reduced map: sr_ratio={sr_ratio}, use sr_ratio=1")
    if length not in (height * width, height * width + 1):
        raise UserError(
            f"{name}: x has {length} tokens, which do not fit a map of {height}x{width}, with or without a class "
            "token; give height and width of the map that they are of"
        )
