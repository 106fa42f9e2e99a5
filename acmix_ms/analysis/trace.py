"""Which Cells a forward pass meets, with which shapes, and the `Work` of them for any batch.

One image runs; the batch comes in afterwards, because the first axis of what a Cell takes and gives is the batch.
Functions between Cells are seen by what they leave: where the input of a Cell is not the very tensor that a Cell before
it has given, something worked on it (a residual sum, GELU, a transpose, a roll): one pass that reads and writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from mindspore import Tensor, nn

from acmix_ms import runtime
from acmix_ms.analysis.complexity import counted
from acmix_ms.analysis.traffic import Work, passes, rule


@dataclass(frozen=True)
class Call:
    """A Cell as the forward pass met it: the shapes of its first input and output, and its further arguments."""

    name: str
    cell: nn.Cell
    given: tuple[int, ...]
    out: tuple[int, ...]
    rest: tuple
    fresh: bool  # whether functions made its input, not a Cell


def trace(net: nn.Cell, shape: tuple[int, ...]) -> tuple[Call, ...]:
    """Note every Cell that has a rule while one image of ``shape[1:]`` passes, in PyNative mode and evaluation.

    Mode and training flag are restored. The batch, ``shape[0]``, is not run: see `work`.
    """
    calls: list[Call] = []
    known: list[Tensor] = []  # kept alive, or another tensor might get the id of a dead one
    seen: set[int] = set()

    def note(tensor: Tensor) -> bool:
        if id(tensor) in seen:
            return False
        seen.add(id(tensor))
        known.append(tensor)
        return True

    def recorder(name: str) -> Callable:
        def record(part, inputs, output):
            rest = tuple(value.shape if isinstance(value, Tensor) else value for value in inputs[1:])
            fresh = note(inputs[0])
            note(output)
            calls.append(Call(name, part, tuple(inputs[0].shape), tuple(output.shape), rest, fresh))

        return record

    handles = [part.register_forward_hook(recorder(name)) for name, part in counted(net, rule)]
    training = net.training
    image = Tensor(np.zeros((1, *shape[1:]), np.float32))
    note(image)
    try:
        with runtime.pynative():
            net.set_train(False)
            net(image)
    finally:
        for handle in handles:
            handle.remove()
        net.set_train(training)
    return tuple(calls)


def work(calls: Iterable[Call], batch: int) -> list[Work]:
    """The work of traced Cells for a batch."""
    found = []
    for call in calls:
        given, out = (batch * call.given[0], *call.given[1:]), (batch * call.out[0], *call.out[1:])
        pieces = rule(call.cell)(call.cell, given, out, *call.rest)
        if call.fresh:
            pieces = [passes("between", 2 * prod(given)), *pieces]
        found += [replace(piece, name=call.name) for piece in pieces]
    return found
