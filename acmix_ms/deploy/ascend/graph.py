"""A MINDIR file as a list of operators: what each is, and the number formats and shapes that go in and come out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from acmix_ms.deploy import mindir
from acmix_ms.errors import UserError

# Of mind_ir.proto's TensorProto.DataType. bfloat16 has no NumPy type; no constant of ours has it.
NUMBER_FORMATS = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
                  10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
                  16: "bfloat16", 17: "float64"}  # fmt: skip
CONSTANT = "Constant"  # a node that is a value, not an operator
REFERENCE = "REF::"  # before the key of a primitive, the name of a function, or of a node
CALL = "call"  # our name for a node that calls a subgraph


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Number format and shape; -1 where any size will do."""

    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass
class Value:
    """Something that has a name in a graph: the tensors in it (more than one for a tuple), and its numbers, if fixed.

    Numbers that belong to no tensor, such as an axis or a shape, are in ``numbers`` alone.
    """

    name: str
    tensors: tuple[Tensor, ...] = ()
    numbers: np.ndarray | None = None


@dataclasses.dataclass
class Operator:
    """One node: its primitive, where it stands in the net, what goes in and what comes out."""

    primitive: str
    scope: str
    inputs: list[Value]
    output: Value
    attributes: dict[str, object]


@dataclasses.dataclass
class Graph:
    """All operators of a file, those of subgraphs too; its constants, parameters and inputs."""

    operators: list[Operator] = dataclasses.field(default_factory=list)
    constants: list[Value] = dataclasses.field(default_factory=list)
    given: list[Value] = dataclasses.field(default_factory=list)


def read(path: str | os.PathLike) -> Graph:
    """Read a MINDIR file.

    Raises:
        UserError: it does not exist or is no MINDIR file.
    """
    model = mindir.parse(path)
    if not model.graph.node:
        raise UserError(f"{path} holds no operators: it is no MINDIR file, or one whose graph is kept elsewhere")
    primitives = {primitive.name: primitive for primitive in model.primitives}
    graph, everything = Graph(), {}
    graphs = [model.graph, *model.functions]
    for part in graphs:
        for given in (*map(_parameter, part.parameter), *map(_input, part.input)):
            graph.given.append(given)
            everything[given.name] = given
    names = [_names(part, graph, everything) for part in graphs]
    for part, local in zip(graphs, names):
        graph.operators += [
            _operator(node, primitives, local, everything) for node in part.node if node.op_type != CONSTANT
        ]
    return graph


def _names(part, graph: Graph, everything: dict[str, Value]) -> dict[str, Value]:
    """The values that the nodes of one graph make; the names of constants are its own."""
    local = {}
    for node in part.node:
        value = _constant(node) if node.op_type == CONSTANT else _output(node)
        local[node.output[0]] = value
        if node.op_type == CONSTANT:
            graph.constants.append(value)
        else:
            everything[value.name] = value
    return local


def _parameter(proto) -> Value:
    return Value(proto.name, (_tensor(proto),), _numbers(proto))


def _input(proto) -> Value:
    return Value(proto.name, tuple(map(_tensor, proto.tensor)))


def _output(node) -> Value:
    inferred = next((attribute for attribute in node.attribute if attribute.name == "shape"), None)
    return Value(node.output[0], tuple(_tensors(inferred)) if inferred is not None else ())


def _tensors(attribute) -> Iterator[Tensor]:
    """Of an attribute that holds tensors or tuples of such."""
    yield from map(_tensor, attribute.tensors)
    if attribute.HasField("t"):
        yield _tensor(attribute.t)
    for value in attribute.values:
        yield from _tensors(value)


def _tensor(proto) -> Tensor:
    return Tensor(NUMBER_FORMATS.get(proto.data_type, f"format {proto.data_type}"), tuple(proto.dims))


def _constant(node) -> Value:
    value = next((attribute for attribute in node.attribute if attribute.name == "value"), None)
    if value is None:
        return Value(node.output[0])
    found = [one for one in _arrays(value) if one is not None and one.size]
    numbers = np.concatenate([one.ravel() for one in found]) if found else None
    return Value(node.output[0], tuple(_tensors(value)), numbers)


def _arrays(attribute) -> Iterator[np.ndarray | None]:
    """The numbers of a constant: of a tensor, a scalar or a tuple of them."""
    for proto in (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])):
        yield _numbers(proto)
    for field in ("f", "i", "d"):
        if attribute.HasField(field):
            yield np.asarray([getattr(attribute, field)])
    for field in ("floats", "doubles", "ints"):
        yield np.asarray(getattr(attribute, field))
    for value in attribute.values:
        yield from _arrays(value)


def _numbers(proto) -> np.ndarray | None:
    """What a tensor holds; None where the file keeps it elsewhere."""
    name = NUMBER_FORMATS.get(proto.data_type)
    if name in (None, "bfloat16") or not proto.raw_data:
        return None
    return np.frombuffer(proto.raw_data, name)


def _operator(node, primitives, local: dict[str, Value], everything: dict[str, Value]) -> Operator:
    own = primitives.get(node.op_type[len(REFERENCE) :]) if node.op_type.startswith(REFERENCE) else None
    # What refers to no primitive calls a subgraph, or what another node gives, such as a Switch.
    name = own.op_type if own is not None else CALL if node.op_type.startswith(REFERENCE) else node.op_type
    attributes = {a.name: _plain(a) for a in (*(own.attribute if own is not None else ()), *node.attribute)}
    inputs = [local.get(given) or everything.get(given) or Value(given) for given in node.input]
    return Operator(name, node.domain, inputs, local[node.output[0]], attributes)


def _plain(attribute):
    """An attribute of a primitive as Python has it, of the kinds that the audit asks for."""
    for field in ("i", "f", "s"):
        if attribute.HasField(field):
            return getattr(attribute, field)
    return tuple(attribute.ints) or tuple(_plain(value) for value in attribute.values)
