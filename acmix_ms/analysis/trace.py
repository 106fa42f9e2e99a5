"""Which Cells a forward pass meets, with which shapes, and the `Work` of them.

Functions between Cells are seen by what they leave: where the input of a Cell is not the very tensor that a Cell before
it has given, something worked on it (a residual sum, GELU, a transpose, a roll): one pass that reads and writes it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from mindspore import Tensor, nn

from acmix_ms import runtime
from acmix_ms.analysis.rules import rule
from acmix_ms.analysis.shapes import shape_of
from acmix_ms.analysis.work import Work, passes


@dataclass(frozen=True)
class Call:
    """A Cell as the forward pass met it.

    Attributes:
        name: its path.
        cell: itself.
        given, out: the shapes of its first input and of its output; tuples of shapes where these are several tensors.
        rest: its further arguments, shapes in place of tensors.
        made: elements of its first input that functions have made, not a Cell.
    """

    name: str
    cell: nn.Cell
    given: tuple
    out: tuple
    rest: tuple
    made: int


def trace(net: nn.Cell, *input_shapes: tuple[int, ...]) -> tuple[Call, ...]:
    """Note every Cell that has a rule while inputs of these shapes pass, in PyNative mode and evaluation.

    Cells of which `shape_of` knows the output give zeros instead of computing it. Mode, training flag and Cells are
    restored.
    """
    calls: list[Call] = []
    known: list[Tensor] = []  # kept alive, or another tensor might get the id of a dead one
    seen: set[int] = set()

    def note(value) -> int:
        """Elements that are met for the first time."""
        new = [tensor for tensor in _tensors(value) if id(tensor) not in seen]
        seen.update(map(id, new))
        known.extend(new)
        return sum(tensor.size for tensor in new)

    def recorder(name: str) -> Callable:
        def record(part, inputs, output):
            given, *rest = map(_shapes, inputs)
            made = note(inputs[0])
            note(output)
            calls.append(Call(name, part, given, _shapes(output), tuple(rest), made))

        return record

    parts = list(_counted(net))
    handles = [part.register_forward_hook(recorder(name)) for name, part in parts]
    training = net.training
    images = [Tensor(np.zeros(shape, np.float32)) for shape in input_shapes]
    note(images)
    try:
        with runtime.pynative(), _idle(part for _, part in parts):
            net.set_train(False)
            net(*images)
    finally:
        for handle in handles:
            handle.remove()
        net.set_train(training)
    return tuple(calls)


@contextlib.contextmanager
def _idle(cells: Iterable[nn.Cell]) -> Iterator[None]:
    """Cells that compute nothing in the meantime, where their output's shape is known without."""
    changed = [cell for cell in cells if "construct" not in vars(cell)]
    for cell in changed:
        cell.construct = functools.partial(_zeros, cell, cell.construct)
    try:
        yield
    finally:
        for cell in changed:
            del cell.construct


def _zeros(cell: nn.Cell, construct: Callable, x, *rest):
    shape = shape_of(cell, tuple(x.shape)) if isinstance(x, Tensor) else None
    # Zeros of NumPy take no memory until somebody writes to them.
    return construct(x, *rest) if shape is None else Tensor.from_numpy(np.zeros(shape, np.float32))


def work(calls: Iterable[Call], times: int = 1) -> list[Work]:
    """The work of traced Cells for ``times`` as many images: the first axis of what a Cell takes and gives grows."""
    found = []
    for call in calls:
        pieces = rule(call.cell)(call.cell, _grown(call.given, times), _grown(call.out, times), *call.rest)
        if call.made:
            pieces = [passes("between", 2 * times * call.made), *pieces]
        found += [replace(piece, name=call.name) for piece in pieces]
    return found


def _counted(net: nn.Cell) -> Iterator[tuple[str, nn.Cell]]:
    """(path, Cell) of every Cell that has a rule; what is inside of one is its own business."""
    covered: list[str] = []
    for name, part in net.cells_and_names():
        if rule(part) is None or any(name.startswith(f"{outer}.") or outer == "" for outer in covered):
            continue
        covered.append(name)
        yield name, part


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _shapes(value):
    """Shapes in place of tensors; anything else as it is."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(map(_shapes, value)) if isinstance(value, (tuple, list)) else value


def _grown(shape: tuple, times: int) -> tuple:
    if shape and isinstance(shape[0], tuple):
        return tuple(_grown(part, times) for part in shape)
    return (times * shape[0], *shape[1:]) if shape else shape
