"""How a kernel reaches its meaning: a function of arrays, which may lie in the memory of the device."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from acmix_ms.deploy.ascend.launches import Launch, Operand

KERNELS: dict[str, Callable[..., None]] = {}


class NoMeaningError(ValueError):
    """A form of a kernel that nothing here was written for, because no graph of ours launches it."""


def kernel(*names: str):
    """Register a function of arrays, which writes into its outputs, under the names that CANN has for it.

    Of aclnn it gets the arguments in their order; of operators of the graph engine inputs and outputs, and the
    attributes as keywords.
    """

    def register(function):
        KERNELS.update(dict.fromkeys(names, function))
        return function

    return register


def compute(launch: Launch) -> None:
    """Compute a launch in the memory of the device.

    Raises:
        NoMeaningError: nothing here says what it is.
    """
    call(launch.name, (*_arrays(launch.arguments), *_arrays(launch.outputs)), launch.attributes)


def call(name: str, arguments: Sequence, attributes: Mapping) -> None:
    """Compute the kernel of a name; the outputs are the last of its arguments.

    Raises:
        NoMeaningError: nothing here says what it is.
    """
    if name not in KERNELS:
        raise NoMeaningError(name)
    with np.errstate(all="ignore"):
        KERNELS[name](*arguments, **attributes)


def view(operand: Operand) -> np.ndarray:
    """The tensor in the memory of the device, as it lies there."""
    dtype = np.dtype(operand.dtype)
    if operand.address == 0:
        raise ValueError(f"{operand} has no memory")
    at = operand.address + operand.offset * dtype.itemsize
    if 0 in operand.shape:
        return np.empty(operand.shape, dtype)
    last = sum((size - 1) * stride for size, stride in zip(operand.shape, operand.strides))
    memory = np.frombuffer((ctypes.c_char * ((last + 1) * dtype.itemsize)).from_address(at), dtype)
    strides = [stride * dtype.itemsize for stride in operand.strides]
    return np.lib.stride_tricks.as_strided(memory, operand.shape, strides)


def scalar(value: dict) -> float:
    """The number in an aclScalar."""
    if value["scalar"] is None:
        bits = struct.pack("<H", value["bits"])
        return float(np.frombuffer(bits, np.float16)[0])
    return value["scalar"]


def wide(x: np.ndarray) -> np.ndarray:
    """In the format that sums are taken in."""
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def _arrays(values: tuple) -> tuple:
    def array(value):
        if isinstance(value, tuple):
            return _arrays(value)
        if isinstance(value, dict):
            return scalar(value)
        return view(value) if isinstance(value, Operand) else value

    return tuple(map(array, values))
