"""Graphs of CANN's graph engine as the stand-in for it writes them (`standins/graph.cc`), and what they compute.

On an Ascend host an AIR file is GE's own; nothing here reads that.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acmix_ms.deploy.ascend import meanings
from acmix_ms.deploy.ascend.launches import DTYPES

CONSTANTS = ("Const", "Constant")


@dataclass(frozen=True)
class Node:
    """An operator of a graph.

    Attributes:
        name, type: as the graph engine calls it.
        inputs: (name of the node, its output) of each input; None for an optional one that is left out.
        outputs: (dtype, shape) of each.
        attributes: by name.
        missing: inputs and attributes that its prototype asks for and it has not.
    """

    name: str
    type: str
    inputs: tuple[tuple[str, int] | None, ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    attributes: dict
    missing: tuple[str, ...]


class Graph:
    """A graph that was exported.

    Attributes:
        nodes: by name, without those that are only a constant or an input.
        constants: their numbers, by name.
        inputs: names of the nodes that stand for what the graph is given.
        outputs: (name of the node, its output) of each.
    """

    def __init__(self, path: str | os.PathLike):
        """Read a file.

        Raises:
            ValueError: it was not written by the stand-in.
        """
        size, _, rest = Path(path).read_bytes().partition(b"\n")
        if not size.isdigit() or len(rest) < int(size):
            raise ValueError(f"{path} was not written by the stand-in for the graph engine")
        graph, self._data = json.loads(rest[: int(size)]), rest[int(size) :]
        found = {record["name"]: _node(record) for record in graph["nodes"]}
        if len(found) < len(graph["nodes"]):
            raise ValueError(f"{path}: two operators have one name")
        self.inputs = [name for name, node in found.items() if node.type == "Data"]
        self.outputs = [(name, number) for name, number in graph["outputs"]]
        self.nodes = {name: node for name, node in found.items() if node.type not in ("Data", *CONSTANTS)}
        self.constants = {
            name: self._array(node.attributes["value"]) for name, node in found.items() if node.type in CONSTANTS
        }

    @property
    def missing(self) -> list[str]:
        """Operators without something that their prototypes ask for, in words."""
        incomplete = [node for node in self.nodes.values() if node.missing]
        return [f"{node.type} {node.name} without {', '.join(node.missing)}" for node in incomplete]

    @property
    def constant_bytes(self) -> int:
        """Of all constants."""
        return sum(value.nbytes for value in self.constants.values())

    def compute(self, x: np.ndarray) -> list[np.ndarray]:
        """What it answers to its only input, each operator computed as `meanings` has it.

        Raises:
            NoMeaningError: an operator is not there.
            ValueError: it has more than one input, or an operator gives another shape than the graph says.
        """
        (name,) = self.inputs
        values = {**{name: [value] for name, value in self.constants.items()}, name: [x]}
        for node in self._ordered():
            given = [None if source is None else values[source[0]][source[1]] for source in node.inputs]
            while given and given[-1] is None:
                given.pop()
            if node.type == "IdentityN":  # whose outputs MindSpore leaves undescribed
                values[node.name] = given
                continue
            outs = [np.empty(shape, dtype) for dtype, shape in node.outputs]
            meanings.call(node.type, (*given, *outs), node.attributes)
            values[node.name] = outs
        return [values[name][number] for name, number in self.outputs]

    def _ordered(self) -> list[Node]:
        """The operators that the outputs need, each after those that it reads."""
        ordered: dict[str, Node] = {}
        waiting = [name for name, _ in reversed(self.outputs)]
        while waiting:
            name = waiting[-1]
            node = self.nodes.get(name)
            if node is None or name in ordered:
                waiting.pop()
                continue
            sources = [source[0] for source in node.inputs if source]
            left = [source for source in sources if source in self.nodes and source not in ordered]
            if left:
                waiting += left
            else:
                ordered[waiting.pop()] = node
        return list(ordered.values())

    def _array(self, tensor: dict) -> np.ndarray:
        dtype = np.dtype(DTYPES[tensor["of"]["dtype"]])
        count = tensor["size"] // dtype.itemsize
        return np.frombuffer(self._data, dtype, count, tensor["at"]).reshape(tensor["of"]["shape"])


def _node(record: dict) -> Node:
    sources, described = record["sources"], record["described"]
    return Node(
        record["name"],
        record["type"],
        tuple(tuple(sources[name]) if name in sources else None for name in record["inputs"]),
        tuple((DTYPES[one["dtype"]], tuple(one["shape"])) for one in map(described.get, record["outputs"]) if one),
        record["attributes"],
        tuple(record["missing"]),
    )
