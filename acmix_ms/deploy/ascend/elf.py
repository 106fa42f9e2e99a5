"""Shared libraries of Linux: the symbols that one asks for and offers; and stand-ins, which offer some and do nothing.

Of a stand-in every function gives 0. `registries` puts them where the libraries of CANN would be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DYNSYM = 11  # section type of the symbols that a loader sees
# Instructions of a function that gives 0, and the machine's number in a file: `platform.machine()` -> both.
RETURN_ZERO = {"x86_64": (62, b"\x31\xc0\xc3"), "aarch64": (183, b"\x00\x00\x80\xd2\xc0\x03\x5f\xd6")}
PAGE = 0x10000  # the largest page of the two machines


class Symbols(NamedTuple):
    """Names in a library: those it needs from others (weak ones apart) and those it has."""

    wanted: set[str]
    offered: set[str]


def symbols(path: Path) -> Symbols:
    """Read the dynamic symbols of a 64-bit little-endian library.

    Raises:
        ValueError: it is no such file.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path} is no 64-bit ELF file")
    sections_at, _, _, _, _, size, count, _ = struct.unpack_from("<QIHHHHHH", data, 0x28)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, sections_at + i * size) for i in range(count)]
    found = Symbols(set(), set())
    for _, kind, _, _, offset, length, link, _, _, entry in headers:
        if kind != DYNSYM:
            continue
        names_at = headers[link][4]
        for at in range(offset + entry, offset + length, entry):
            name_at, info, _, section = struct.unpack_from("<IBBH", data, at)
            start = names_at + name_at
            name = data[start : data.index(b"\0", start)].decode()
            if section:
                found.offered.add(name)
            elif info >> 4 == 1:  # global; a weak one may stay away
                found.wanted.add(name)
    return found


def write_stand_in(path: Path, names: Iterable[str], machine: str) -> None:
    """Write a library, known to the loader by the name of its file, whose functions ``names`` give 0.

    Raises:
        ValueError: no instructions are known for that machine.
    """
    if machine not in RETURN_ZERO:
        raise ValueError(f"no stand-in can be made for {machine}")
    number, code = RETURN_ZERO[machine]
    names = sorted(set(names))
    strings, places = b"\0", []
    for name in (path.name, *names):
        places.append(len(strings))
        strings += name.encode() + b"\0"
    header, segment, symbol = 64, 56, 24
    code_at = header + 3 * segment
    table_at = _aligned(code_at + len(code))
    strings_at = table_at + symbol * (1 + len(names))
    hash_at = _aligned(strings_at + len(strings))
    # One bucket, in which every symbol leads to the next.
    chain = [*range(2, len(names) + 1), 0] if names else []
    hashes = struct.pack(f"<{4 + len(chain)}I", 1, 1 + len(names), 1 if names else 0, 0, *chain)
    dynamic_at = -(-(hash_at + len(hashes)) // PAGE) * PAGE
    # DT_SONAME, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL
    entries = ((14, places[0]), (4, hash_at), (5, strings_at), (6, table_at), (10, len(strings)), (11, symbol), (0, 0))
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    table = bytes(symbol)
    for place in places[1:]:
        table += struct.pack("<IBBHQQ", place, 0x12, 0, 1, code_at, len(code))  # a global function
    end = dynamic_at + len(dynamic)
    out = bytearray(end)
    identification = b"\x7fELF\x02\x01\x01" + bytes(9)
    struct.pack_into("<16sHHIQQQIHHHHHH", out, 0, identification, 3, number, 1, 0, header, 0, 0, header, segment, 3,
                     64, 0, 0)  # fmt: skip
    readable, executable, writable = 4, 1, 2
    for index, (kind, flags, at, size) in enumerate(
        [
            (1, readable | executable, 0, hash_at + len(hashes)),  # PT_LOAD
            (1, readable | writable, dynamic_at, len(dynamic)),
            (2, readable | writable, dynamic_at, len(dynamic)),  # PT_DYNAMIC
        ]
    ):
        struct.pack_into("<IIQQQQQQ", out, header + index * segment, kind, flags, at, at, at, size, size, PAGE)
    for at, piece in (
        (code_at, code), (table_at, table), (strings_at, strings), (hash_at, hashes), (dynamic_at, dynamic)
    ):  # fmt: skip
        out[at : at + len(piece)] = piece
    path.write_bytes(out)


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8
