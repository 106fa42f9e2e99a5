"""How ready a graph is for an Ascend: every primitive held against the installed MindSpore, and what costs speed there.

`acmix_ms.deploy.ascend.registries` says what the sources of truth are, and what they cannot see. A primitive is

* ``compiler``: part of the language of graphs, never a kernel (`STRUCTURE`);
* ``aclnn``: run by a kernel that MindSpore registers for Ascend;
* ``ge``: an operator of CANN's graph engine, without a kernel of the AI CPU in MindSpore's registrations;
* ``either``: an operator of the graph engine that both processors may run: CANN chooses, the AI Core first;
* ``rewritten``: replaced by a pass of the backend before kernels are chosen;
* ``AI CPU``: served by the AI CPU alone; or ``either`` with 64-bit tensors, which the AI Core seldom takes;
* ``documented``: nothing but the docstring says that there is an Ascend kernel;
* ``unknown``: none of these; then the graph cannot be expected to run.

What depends on the size of the images: shapes, so ranks and channels hold at any size, but which operators are chosen
may depend on whether a map can be divided into blocks without padding. Therefore the audit can export at any size.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable

import numpy as np

from acmix_ms.deploy.ascend import graph as graphs
from acmix_ms.deploy.ascend import registries
from acmix_ms.deploy.ascend.graph import CALL, Graph, Operator, Tensor

STRUCTURE = {
    "Return": "the end of a graph",
    "Depend": "an order of execution",
    "Load": "a Parameter is read",
    "UpdateState": "an order of side effects",
    "MakeTuple": "values are bundled",
    "TupleGetItem": "a bundle is opened",
    "Partial": "a subgraph with some of its arguments",
    "Switch": "a choice of subgraphs, made on the host",
    "SwitchLayer": "a choice of subgraphs, made on the host",
    CALL: "a subgraph is entered",
}  # MindSpore's AnfUtils::IsRealKernel excludes them, or its control flow runs them between kernel graphs
UNKNOWN, AI_CPU = "unknown", "AI CPU"
PLACES = ("compiler", "aclnn", "ge", "either", "rewritten", "documented", AI_CPU, UNKNOWN)

WIDE = ("int64", "uint64", "float64", "complex64", "complex128")
LARGEST_RANK = 6  # of a transposition: more dimensions are split into several, or fall to the AI CPU
LARGEST_HALF = 65504.0  # of float16
BLOCK = 16  # the cube unit multiplies blocks of 16x16; other sizes are filled up with zeros

# Kinds of findings, with the heading of their column.
FINDINGS = {"wide": "64-bit", "rank": f"transposes >{LARGEST_RANK}d", "half": "beyond fp16", "channels": "not x16",
            "air": "not in AIR"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that may cost speed, exactness or the export: of kind `FINDINGS`, at an operator or a constant."""

    kind: str
    where: str
    what: str


@dataclasses.dataclass
class Use:
    """One primitive in one graph."""

    place: str
    count: int = 0
    dtypes: set[str] = dataclasses.field(default_factory=set)
    rank: int = 0  # largest of its tensors


@dataclasses.dataclass
class Audit:
    """What was found in one graph; ``note`` tells where the installed MindSpore could not be asked."""

    name: str
    uses: dict[str, Use]
    findings: list[Finding]
    note: str | None = None

    def kinds(self, place: str) -> list[str]:
        """Primitives of one place, in order."""
        return sorted(name for name, use in self.uses.items() if use.place == place)

    def count(self, kind: str) -> int:
        """Findings of one kind."""
        return sum(finding.kind == kind for finding in self.findings)

    def record(self) -> dict:
        """All of it as JSON values."""
        uses = {
            name: {"place": use.place, "count": use.count, "dtypes": sorted(use.dtypes), "largest_rank": use.rank}
            for name, use in sorted(self.uses.items())
        }
        return {
            "name": self.name,
            "unknown": self.kinds(UNKNOWN),
            "primitives": uses,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "note": self.note,
        }


def audit_files(files: Iterable[tuple[str, str | os.PathLike]]) -> list[Audit]:
    """Audit MINDIR files, given as (name, path); the plugin is asked once for all.

    Raises:
        UserError: a file that cannot be read.
    """
    read = [(name, graphs.read(path)) for name, path in files]
    return audit_graphs(read)


def audit_graphs(named: Iterable[tuple[str, Graph]]) -> list[Audit]:
    """`audit_files` of graphs that have been read."""
    named = list(named)
    names = {operator.primitive for _, graph in named for operator in graph.operators}
    entries, reason = registries.look_up(names - set(STRUCTURE))
    note = reason and f"{reason}: neither aclnn kernels nor adapters to the graph engine could be looked up"
    return [_audit(name, graph, entries, note) for name, graph in named]


def _audit(name: str, graph: Graph, entries: dict[str, registries.Entry], note: str | None) -> Audit:
    uses: dict[str, Use] = {}
    findings: list[Finding] = []
    for operator in graph.operators:
        tensors = [tensor for value in (*operator.inputs, operator.output) for tensor in value.tensors]
        entry = entries.get(operator.primitive)
        use = uses.setdefault(operator.primitive, Use(place(operator.primitive, entry)))
        use.count += 1
        use.dtypes.update(tensor.dtype for tensor in tensors)
        use.rank = max([use.rank, *(len(tensor.shape) for tensor in tensors)])
        if use.place != "compiler":
            findings += _operator_findings(operator, entry)
    for use in uses.values():
        if use.place == "either" and use.dtypes & set(WIDE):
            use.place = AI_CPU
    findings += [finding for value in (*graph.constants, *graph.given) for finding in _value_findings(value)]
    return Audit(name, uses, findings, note)


def place(primitive: str, entry: registries.Entry | None) -> str:
    """Where a primitive runs, by what the sources say."""
    if primitive in STRUCTURE:
        return "compiler"
    if entry.aclnn:
        return "aclnn"
    if entry.ge:
        return "ge" if entry.aicpu is None else "either"
    if entry.rewritten:
        return "rewritten"
    if entry.aicpu is not None:
        return AI_CPU
    return "documented" if "Ascend" in (entry.documented or "") else UNKNOWN


# -------------------------------------------------------------------------------------------------------- findings
def _operator_findings(operator: Operator, entry: registries.Entry) -> list[Finding]:
    name = f"{operator.primitive} in {operator.scope or 'the graph'}"
    found = [Finding("wide", name, f"gives {_text(tensor)}") for tensor in operator.output.tensors
             if tensor.dtype in WIDE]  # fmt: skip
    if operator.primitive.startswith("Transpose") and operator.inputs and operator.inputs[0].tensors:
        tensor = operator.inputs[0].tensors[0]
        if len(tensor.shape) > LARGEST_RANK:
            found.append(Finding("rank", name, f"transposes {_text(tensor)}"))
    odd = {label: size for label, size in channels(operator).items() if size % BLOCK}
    if odd:
        said = ", ".join(f"{label} {size}" for label, size in odd.items())
        found.append(Finding("channels", name, f"{said}: no multiple of {BLOCK}"))
    if entry.ge is False and not entry.rewritten:
        found.append(Finding("air", name, "no adapter to the graph engine: AIR and jit_level O2 cannot hold it"))
    return found


def _value_findings(value: graphs.Value) -> list[Finding]:
    """Of constants, parameters and inputs. Numbers that are no tensors, such as axes, never reach a kernel's memory."""
    found = [Finding("wide", value.name, f"holds {_text(tensor)}") for tensor in value.tensors if tensor.dtype in WIDE]
    numbers = value.numbers
    if numbers is not None and numbers.dtype.kind == "f" and numbers.size:
        largest = numbers[np.argmax(np.abs(numbers))]
        if not np.abs(largest) <= LARGEST_HALF:  # "not <=", so that nan counts
            found.append(Finding("half", value.name, f"has {largest:.6g}, and float16 ends at {LARGEST_HALF:.0f}"))
    return found


def channels(operator: Operator) -> dict[str, int]:
    """What the cube unit divides into blocks: channels of convolutions (of each group), sides of matrices."""
    shapes = [value.tensors[0].shape if value.tensors else () for value in operator.inputs]
    if operator.primitive == "Conv2D" and len(shapes[1]) == 4:
        groups = max(1, int(operator.attributes.get("group") or 1))
        out, depth = shapes[1][:2]
        return {"channels in": depth, "channels out": out // groups}
    if operator.primitive in ("MatMul", "BatchMatMul") and all(len(shape) >= 2 for shape in shapes[:2]):
        left, right = shapes[:2]
        flags = [bool(value.numbers is not None and value.numbers[0]) for value in operator.inputs[2:4]]
        flags = flags if len(flags) == 2 else [bool(operator.attributes.get(f"transpose_{side}")) for side in "ab"]
        return {"depth": left[-2] if flags[0] else left[-1], "columns": right[-2] if flags[1] else right[-1]}
    return {}


def _text(tensor: Tensor) -> str:
    return f"{tensor.dtype} ({', '.join(map(str, tensor.shape))})"


# ------------------------------------------------------------------------------------------------------------ tables
HEADER = ("graph", "primitives", "aclnn", "ge", "either", "rewritten", "documented", AI_CPU, UNKNOWN,
          *FINDINGS.values())  # fmt: skip


def row(audit: Audit) -> tuple[str, ...]:
    """One line of the table: kinds of primitives, how many of each place, and findings."""
    total = sum(use.place != "compiler" for use in audit.uses.values())
    places = [len(audit.kinds(place)) for place in PLACES[1:]]
    return (audit.name, *map(str, (total, *places, *map(audit.count, FINDINGS))))


def table(audits: Iterable[Audit]) -> str:
    """A Markdown table, a line for each graph, that reads as plain text too."""
    rows = [HEADER, *map(row, audits)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEADER))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in rows]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def details(audit: Audit) -> str:
    """Every primitive of one graph with its place, number formats and largest rank, then the findings."""
    lines = [audit.name]
    for kind in PLACES:
        for name in audit.kinds(kind):
            use = audit.uses[name]
            reason = f" ({STRUCTURE[name]})" if name in STRUCTURE else ""
            formats = ", ".join(sorted(use.dtypes)) or "no tensor"
            lines.append(f"  {kind:<10} {name}{reason}: {use.count} times, {formats}, up to {use.rank} dimensions")
    for (kind, what), count in Counter((finding.kind, finding.what) for finding in audit.findings).items():
        where = next(f.where for f in audit.findings if (f.kind, f.what) == (kind, what))
        lines.append(f"  {FINDINGS[kind]:<15} {count} times, first: {where}: {what}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------ export
def write_graph(cell, inputs: Iterable, path: str | os.PathLike) -> None:
    """The graph of a Cell for ``inputs`` as MINDIR, with every device's own operators; nothing is run or compared."""
    import mindspore as ms

    from acmix_ms.ops import kernels

    with kernels.native():  # as `deploy.export` does: what an Ascend would run, not what this machine is fast at
        ms.export(cell, *inputs, file_name=os.fspath(path), file_format="MINDIR")
