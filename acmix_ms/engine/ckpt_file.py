"""MindSpore's ``.ckpt`` files, read in Python.

MindSpore's own reader believes what it reads: a wrong dimension overwrites the memory of the process, and an entry with
too few bytes becomes a parameter without a word. Here the structure of the whole file is checked before any value is
read, and values go straight into their arrays.

A file is a protobuf message (``checkpoint.proto``), with each field as one byte (what it is), a number, and where the
number is a length, so many bytes::

    file    entries, and after them, of ``ms.save_checkpoint(crc_check=True)``, "crc_num" and a CRC-32 in ten bytes
    entry   a name and a tensor
    tensor  its dimensions, the name of its type, its content

A tensor of more than 512 MB stands in slices: entries of one name, type and shape that follow each other, each with a
part of the content.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from acmix_ms.errors import UserError

ENTRY = NAME = 0x0A  # number of the field, and what it holds, as protobuf writes them
TENSOR, TABLE = 0x12, 0x1A
DIMENSION, TYPE, CONTENT = 0x08, 0x12, 0x1A
TYPES = {
    **{name: np.dtype(name.lower()) for name in ("Int8", "Int16", "Int32", "Int64", "Float16", "Float32", "Float64")},
    **{name: np.dtype(name.lower()) for name in ("UInt8", "UInt16", "UInt32", "UInt64", "Bool")},
}
BFLOAT16 = "BFloat16"  # a type of NumPy's only where MindSpore has been loaded
TEXT, TEXT_BYTES = "str", 4  # what others add with `append_dict`, in UTF-32: no weight
CRC, CRC_BYTES = b"crc_num", 10
MAX_RANK = 32  # of NumPy's arrays
MAX_NAME = 1000
HEADS = {
    b"PK": "is a PyTorch or zip file: convert it with scripts/convert_torch.py first",
    b"\xd8^:\x7f": "is encrypted: load it with ms.load_checkpoint and its dec_key, and save it without",
}


class DamagedError(ValueError):
    """What is wrong with a file, in words that follow "is"."""


@dataclass
class _Tensor:
    """Where the values of one name are: ``slices`` are (position, length) in the file."""

    name: str
    type: str
    dims: tuple[int, ...]
    slices: list[tuple[int, int]]


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by name.

    Raises:
        UserError: the file cannot be read, is none of MindSpore's, truncated or damaged.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(64)
            _check_head(head, path)
            try:
                file.seek(0)
                tensors, end = _walk(file, size)
                if end < size:
                    _check_crc(file, end)
                return {tensor.name: _values(file, tensor) for tensor in tensors if tensor.type != TEXT}
            except DamagedError as error:
                if not _begins_like_one(head):
                    raise UserError(
                        f"checkpoint {path} is not a checkpoint: give a MindSpore .ckpt or a .safetensors file"
                    ) from error
                raise UserError(f"checkpoint {path} is {error}; take another copy") from error
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise UserError(f"checkpoint {path} does not fit into memory: free some, or use another machine") from error


def _check_head(head: bytes, path: Path) -> None:
    if not head:
        raise UserError(f"checkpoint {path} is empty; take another copy")
    for magic, words in HEADS.items():
        if head.startswith(magic):
            raise UserError(f"checkpoint {path} {words}")


def _begins_like_one(head: bytes) -> bool:
    """Whether a file begins with an entry and a name of letters, or is cut so early that it could have."""
    found = re.match(rb"\n[\x80-\xff]{0,9}[\x00-\x7f]\n([\x01-\xff])", head, re.DOTALL)
    if not found:
        return head[:1] == b"\n" and len(head) <= 12
    return all(0x20 < byte < 0x7F for byte in head[found.end() :][: min(found[1][0], 20)])


def _walk(file: BinaryIO, size: int) -> tuple[list[_Tensor], int]:
    """The tensors of a file of ``size`` bytes, checked but not read, and where the entries end."""
    tensors, last, entries = {}, None, 0
    while (start := file.tell()) < size:
        if size - start == len(CRC) + CRC_BYTES and _next_is_crc(file):
            size = start
            break
        if _byte(file) != ENTRY:
            raise DamagedError(f"damaged after {entries} entries")
        end = _number(file) + file.tell()
        if end > size:
            raise DamagedError(f"truncated after {entries} entries")
        found = _entry(file, end)
        if last and found.name == last.name and (found.type, found.dims) == (last.type, last.dims):
            last.slices += found.slices
        elif found.name in tensors:
            raise DamagedError(f"damaged: it has {found.name} twice")
        else:
            last = tensors[found.name] = found
        entries += 1
    for tensor in tensors.values():
        _check_size(tensor)
    return list(tensors.values()), size


def _next_is_crc(file: BinaryIO) -> bool:
    start = file.tell()
    found = file.read(len(CRC)) == CRC
    file.seek(start)
    return found


def _entry(file: BinaryIO, end: int) -> _Tensor:
    name, found = None, None
    while file.tell() < end:
        key, length = _byte(file), _number(file)
        if key == NAME and name is None:
            name = _text(file, length, MAX_NAME)
        elif key == TENSOR and found is None and name and file.tell() + length == end:
            found = _tensor(file, end, name)
        elif key == TABLE and name:
            raise DamagedError(f"of no use here: {name} is a hash table (MapParameter)")
        else:
            raise DamagedError(f"damaged: an entry {f'called {name} ' if name else ''}is no tensor")
    if not found or file.tell() != end:
        raise DamagedError("damaged: an entry has no name or no tensor")
    return found


def _tensor(file: BinaryIO, end: int, name: str) -> _Tensor:
    dims, kind, slices = [], None, []
    while file.tell() < end:
        key, value = _byte(file), _number(file)
        if key == DIMENSION and len(dims) < MAX_RANK:
            dims.append(value)
        elif key == TYPE and kind is None:
            kind = _text(file, value, MAX_NAME)
        elif key == CONTENT and not slices:
            slices.append((file.tell(), value))
            file.seek(value, os.SEEK_CUR)
        else:
            raise DamagedError(f"damaged: {name} is no tensor")
    if kind is None or not slices or file.tell() != end:
        raise DamagedError(f"damaged: {name} is not whole")
    return _Tensor(name, kind, tuple(dims), slices)


def _byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        raise DamagedError("truncated")
    return byte[0]


def _number(file: BinaryIO) -> int:
    """Protobuf's integers: seven bits a byte, the lowest first, the highest bit where more follow."""
    value = 0
    for shift in range(0, 63, 7):
        byte = _byte(file)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise DamagedError("damaged: a size is negative or beyond all bounds")


def _text(file: BinaryIO, length: int, most: int) -> str:
    data = file.read(min(length, most + 1))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DamagedError("damaged: a name is no text") from error
    if len(data) != length or not text or not text.isprintable():
        raise DamagedError("damaged: a name is no text")
    return text


def _check_size(tensor: _Tensor) -> None:
    """See that type and dimensions ask for as many bytes as there are."""
    given = sum(length for _, length in tensor.slices)
    if tensor.type == TEXT:
        whole = given % TEXT_BYTES == 0
    else:
        dtype = _dtype(tensor)
        if tensor.dims == (0,) and given == dtype.itemsize:  # what MindSpore once wrote of a scalar
            tensor.dims = ()
        whole = given == math.prod(tensor.dims) * dtype.itemsize
        # NumPy multiplies the dimensions of empty arrays too, in 63 bits.
        whole = whole and math.prod(size or 1 for size in tensor.dims) * dtype.itemsize < 1 << 63
    if not whole:
        raise DamagedError(f"damaged: {tensor.name} ({tensor.type}, {list(tensor.dims)}) has {given} bytes")


def bfloat16() -> np.dtype:
    """MindSpore's type. The name alone gives that of whichever library has registered it last, such as ml_dtypes."""
    from mindspore.common import np_dtype

    return np.dtype(np_dtype.bfloat16)


def _dtype(tensor: _Tensor) -> np.dtype:
    try:
        return bfloat16() if tensor.type == BFLOAT16 else TYPES[tensor.type]
    except (KeyError, TypeError) as error:
        raise DamagedError(f"damaged: {tensor.name} has the type {tensor.type}, which is not known") from error


def _values(file: BinaryIO, tensor: _Tensor) -> np.ndarray:
    data = np.empty(sum(length for _, length in tensor.slices), np.uint8)
    rest = memoryview(data)
    for position, length in tensor.slices:
        file.seek(position)
        if file.readinto(rest[:length]) != length:
            raise DamagedError("truncated while it is read")
        rest = rest[length:]
    if tensor.type == "Bool" and data.size and data.max() > 1:
        raise DamagedError(f"damaged: {tensor.name} has values that are neither true nor false")
    return data.view(_dtype(tensor)).reshape(tensor.dims)


def _check_crc(file: BinaryIO, end: int) -> None:
    crc, left = 0, end
    file.seek(0)
    while left and (block := file.read(min(left, 1 << 20))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    if file.read(len(CRC) + CRC_BYTES) != CRC + crc.to_bytes(CRC_BYTES, "big"):
        raise DamagedError("damaged: its CRC does not match")
