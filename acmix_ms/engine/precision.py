"""Number formats of training: which parts compute in 16 bits, and the loss scale that keeps small gradients alive."""

from __future__ import annotations

import functools
from collections.abc import Callable

import mindspore as ms
from mindspore import nn, ops
from mindspore._c_expression import MSContext
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2

from acmix_ms import runtime
from acmix_ms.errors import UserError
from acmix_ms.ops.kernels import on_cpu

# MindSpore's levels: "auto" casts single operators (matrix products, convolutions) and keeps the rest in float32;
# "O2" casts the whole net but the norms. Weights stay float32 in both, and their names stay as they are.
AMP_LEVELS = {"mixed": ("auto", ms.float16), "fp16": ("O2", ms.float16), "bf16": ("O2", ms.bfloat16)}
SCALED = ("mixed", "fp16")  # where small gradients vanish and single steps overflow; bfloat16 has float32's range

FIRST_SCALE = 2.0**14
GROW_AFTER = 1000  # steps without overflow until the scale doubles
MAX_SKIPPED = 20  # overflowing steps in a row: by then the scale has fallen by a million


def require_precision(precision: str, device: str) -> None:
    """Refuse what the device cannot do.

    Raises:
        UserError: bf16, which MindSpore has on Ascend only: on CPU convolutions have no such kernel.
    """
    if precision == "bf16" and device != "Ascend":
        raise UserError(f"train.precision=bf16 is not supported on {device}: use fp32, mixed or fp16")


def cast(net: nn.Cell, precision: str) -> nn.Cell:
    """The net that computes in ``precision``; it shares its Parameters, and their names, with ``net``.

    Of a net with an attribute ``in_half``, names of Cells of its own, only these compute in 16 bits where otherwise all
    would: it has coordinates among its inputs. That net itself is changed, and what those Cells give stays in 16 bits.
    """
    if precision == "fp32":
        return net
    level, dtype = AMP_LEVELS[precision]
    if level == "auto" or not hasattr(net, "in_half"):
        return ms.amp.auto_mixed_precision(net, level, dtype)
    for name in net.in_half:
        ms.amp.auto_mixed_precision(functools.reduce(getattr, name.split("."), net), level, dtype)
    return net


def build_scaler(precision: str) -> ms.amp.LossScaler:
    """A dynamic loss scale where one is needed, else a constant 1."""
    if precision not in SCALED:
        return ms.amp.StaticLossScaler(1.0)
    return ms.amp.DynamicLossScaler(FIRST_SCALE, scale_factor=2, scale_window=GROW_AFTER)


_over_all = ops.HyperMap()  # a loop over many gradients would be too deep for the compiler


def all_finite(gradients: tuple[ms.Tensor, ...]) -> ms.Tensor:
    """Whether no gradient holds an infinity or nan: a bool tensor of one value."""
    if not on_cpu():
        return ms.amp.all_finite(gradients)
    return ops.isfinite(ops.AddN()(_over_all(_total, gradients))).reshape(())


def _total(gradient: ms.Tensor) -> ms.Tensor:
    """(1, 1): the sum. It shows infinities and nan, and as a matrix product takes a quarter of the time of looking at
    every value.
    """
    rows = gradient.reshape(gradient.shape[0], -1).astype(ms.float32)
    sums = ops.MatMul()(ops.ones((1, rows.shape[0]), ms.float32), rows)
    return ops.MatMul()(sums, ops.ones((rows.shape[1], 1), ms.float32))


def finite_or_zero(finite: ms.Tensor, gradients: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
    """The gradients, or where not ``finite`` (a bool tensor) zeros."""
    return _over_all(ops.partial(_or_zero, finite), gradients)


def _or_zero(finite: ms.Tensor, gradient: ms.Tensor) -> ms.Tensor:
    return ops.where(finite, gradient, ops.zeros_like(gradient))


def build_forgetting() -> Callable[[], None]:
    """What forgets the overflows from before, such as an evaluation's, where they are noted in a register; elsewhere it
    does nothing. To be called before a step: within its graph, what depends on weights alone may run earlier.
    """
    if not _saturates():
        return lambda: None
    clear = NPUClearFloatStatusV2()

    def forget():
        return ops.depend(True, clear(ms.Tensor([0] * 8, ms.int32)))

    return runtime.compiled(forget)


def _saturates() -> bool:
    """Whether the device has no infinity: an Ascend 910A notes in a register that a number was too large."""
    on_ascend = ms.get_context("device_target") == "Ascend"
    return on_ascend and MSContext.get_instance().get_ascend_soc_version() == "ascend910"


def loss_scale(scaler: ms.amp.LossScaler) -> float | None:
    """Where a dynamic scale stands; None of one that does not move."""
    return None if isinstance(scaler, ms.amp.StaticLossScaler) else float(scaler.scale_value.asnumpy())


def scaler_state(scaler: ms.amp.LossScaler) -> dict[str, ms.Parameter]:
    """What a dynamic scale remembers, by name."""
    if isinstance(scaler, ms.amp.StaticLossScaler):
        return {}
    return {"scale_value": scaler.scale_value, "counter": scaler.counter}


def single(outputs: ms.Tensor | tuple) -> ms.Tensor | tuple:
    """What a net gives, a Tensor or Tensors in tuples, in float32; integers stay what they are. For use in a graph."""
    if isinstance(outputs, (tuple, list)):
        converted = ()
        for output in outputs:
            converted += (single(output),)
        return converted
    sixteen_bits = outputs.dtype == ms.float16 or outputs.dtype == ms.bfloat16
    return outputs.astype(ms.float32) if sixteen_bits else outputs
