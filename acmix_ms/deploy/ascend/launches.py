"""What a stand-in for CANN noted (`standins/device.c`), as launches of kernels."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

# Number formats as CANN numbers them (aclDataType, ge::DataType).
DTYPES = {
    0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 6: "int16", 7: "uint16", 8: "uint32", 9: "int64",
    10: "uint64", 11: "float64", 12: "bool",
}  # fmt: skip
SIZES = {
    1: ("bool", "int8", "uint8"),
    2: ("int16", "uint16", "float16", "bfloat16"),
    4: ("int32", "uint32", "float32"),
    8: ("int64", "uint64", "float64", "complex64"),
    16: ("complex128",),
}
BYTES = {dtype: size for size, dtypes in SIZES.items() for dtype in dtypes}
WIDE = ("int64", "uint64", "float64", "complex64", "complex128")
CUBE = ("Conv", "MatMul", "Matmul", "Mm", "Bmm", "Addmm", "Baddbmm")  # kernels that the matrix unit computes
# Options of the compiler of single operators (aclCompileOpt), and how it may treat float32 in the matrix unit.
PRECISION_MODE, KEEPS = 0, ("must_keep_origin_dtype", "force_fp32", "")
MAY_USE_HALF = (1, 2)  # cubeMathType of aclnn: ALLOW_FP32_DOWN_PRECISION, USE_FP16


@dataclass(frozen=True)
class Operand:
    """A tensor of a launch, where it lies in the memory of the device; strides and offset in elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    format: int
    address: int

    @classmethod
    def of(cls, record: dict) -> Operand:
        """From what the stand-in notes of a tensor."""
        shape, strides = tuple(record["shape"]), tuple(record["strides"])
        return cls(record["dtype"], shape, strides, record["offset"], record["format"], record["at"])

    @property
    def bytes(self) -> int:
        """That are read or written."""
        return math.prod(self.shape) * BYTES.get(self.dtype, 0)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Launch:
    """A kernel that was launched.

    Attributes:
        kind: ``"aclnn"``, or ``"aclop"`` of a single operator of CANN's graph engine.
        name: as CANN calls it.
        arguments: of aclnn in its order: an `Operand`, a number, a list of them, or a dictionary for a scalar; of aclop
            the inputs, None where one is left out.
        outputs: of aclop; those of aclnn are among its arguments.
        attributes: of aclop.
        floats: the bits of the floating-point registers of an aclnn call, its arguments of that kind in their order.
    """

    kind: str
    name: str
    arguments: tuple
    outputs: tuple[Operand, ...] = ()
    attributes: dict = field(default_factory=dict)
    floats: tuple[int, ...] = ()

    @property
    def operands(self) -> list[Operand]:
        """All tensors, those in lists too."""
        return list(_operands((self.arguments, self.outputs)))

    @property
    def bytes(self) -> int:
        """That the kernel reads and writes."""
        return sum(operand.bytes for operand in self.operands)

    @property
    def is_cast(self) -> bool:
        """Whether it changes the number format only."""
        return self.name in ("aclnnCast", "Cast")

    @property
    def is_transpose(self) -> bool:
        """Whether it only moves numbers to another order."""
        return self.name in ("aclnnPermute", "Transpose", "TransposeD", "TransData")

    @property
    def wide(self) -> list[Operand]:
        """Operands of 64 bits that are more than some axes, sizes or strides, which the host reads."""
        return [one for one in self.operands if one.dtype in WIDE and math.prod(one.shape) > 8]

    def computes_in_half(self, precision_mode: str) -> bool:
        """Whether the matrix unit may compute in float16 what is given in float32."""
        if not any(part in self.name for part in CUBE) or "float32" not in {one.dtype for one in self.operands}:
            return False
        if self.kind == "aclop":
            return precision_mode not in KEEPS
        numbers = [argument for argument in self.arguments if isinstance(argument, int)]
        return bool(numbers) and numbers[-1] in MAY_USE_HALF  # cubeMathType comes last

    def __str__(self) -> str:
        inputs = ", ".join(map(str, _operands(self.arguments)))
        outputs = ", ".join(map(str, self.outputs))
        return f"{self.name}({inputs})" + (f" -> {outputs}" if outputs else "")


def launch_of(record: dict) -> Launch | None:
    """From a line of the log; None where that is no launch."""
    if "aclnn" in record:
        return Launch("aclnn", record["aclnn"], _parsed(record["args"]), floats=tuple(record["floats"]))
    if "aclop" in record:
        return Launch("aclop", record["aclop"], _parsed(record["in"]), _parsed(record["out"]), record["attr"])
    return None


@dataclass
class Recording:
    """What was noted between two marks.

    Attributes:
        launches: in their order.
        calls: of all other functions of CANN, how often.
        copied: bytes between host and device.
        ways: of copies, such as ``"host to device"``, how often.
        options: of the compiler of single operators.
    """

    launches: list[Launch] = field(default_factory=list)
    calls: Counter = field(default_factory=Counter)
    copied: int = 0
    ways: Counter = field(default_factory=Counter)
    options: dict[int, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """That all kernels read and write."""
        return sum(launch.bytes for launch in self.launches)

    @property
    def waits(self) -> int:
        """How often the host waited for the device."""
        return sum(count for name, count in self.calls.items() if "Synchronize" in name)

    def names(self, kind: str) -> Counter:
        """How many kernels of a kind were launched, by name."""
        return Counter(launch.name for launch in self.launches if launch.kind == kind)

    @property
    def in_half(self) -> list[Launch]:
        """Launches of the matrix unit that may compute float32 in float16."""
        mode = self.options.get(PRECISION_MODE, "")
        return [launch for launch in self.launches if launch.computes_in_half(mode)]

    @property
    def fall_backs(self) -> list[str]:
        """What was launched on the AI CPU: such kernels have functions of their own, or names."""
        functions = [name for name in self.calls if "Launch" in name and not name.endswith("Callback")]
        return sorted({*functions, *(one.name for one in self.launches if one.name.startswith(("Cust", "aclnnCust")))})


def read(path: str | os.PathLike) -> Iterator[tuple[str, Recording]]:
    """The recordings of a process's log, each under the mark that it begins with."""
    mark, found = "", Recording()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a process that ended in the middle of it
                continue
            if "mark" in record:
                yield mark, found
                mark, found = record["mark"], Recording(options=dict(found.options))
            elif "option" in record:
                found.options[record["option"]] = record["value"]
            elif "call" in record:
                found.calls[record["call"]] += 1
                found.copied += record.get("bytes", 0)
                found.ways.update([record["way"]] if "way" in record else [])
            else:
                found.launches.append(launch_of(record))
    yield mark, found


def _parsed(value):
    """Arguments as the stand-in notes them, tensors as `Operand`."""
    if isinstance(value, list):
        return tuple(map(_parsed, value))
    return Operand.of(value) if isinstance(value, dict) and "at" in value else value


def _operands(value) -> Iterator[Operand]:
    if isinstance(value, Operand):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _operands(part)
