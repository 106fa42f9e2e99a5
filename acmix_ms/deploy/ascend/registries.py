"""What the installed MindSpore itself has for Ascend, asked without an Ascend: the audit's sources of truth.

For one primitive, in the order in which MindSpore chooses its kernel on an Ascend (``SelectKernelInfoWithMsg``):

1. **aclnn**: whether the Ascend plugin registers a kernel that calls CANN's ``aclnn`` interface
   (``IsRegisteredAclnnOp``). Such a kernel serves graph mode and PyNative mode.
2. **ge**: whether the plugin has an adapter to an operator of CANN's graph engine (``FindAdapter``). It serves single
   operators ("aclop"), whole graphs, AIR files and therefore ATC.
3. **rewritten**: whether a pass of the backend replaces it before kernels are chosen (a C++ class named after the
   primitive, such as ``AdamWeightDecayUnifyMindIR``, in ``libmindspore_backend_common.so``). By what is not seen.
4. **aicpu**: number formats under which ``mindspore/ops/_op_impl/aicpu`` registers a kernel of the AI CPU, the
   processor's own slow ARM cores; and the list of those that the package brings itself (``cust_aicpu_kernel.json``).
5. **documented**: ``Supported Platforms`` in the docstring of the primitive, or of its only function.

The first two are functions of the plugin's libraries, which the package for CPUs contains too. They are loaded in a
process of their own, with stand-ins for the libraries of CANN that they ask for (`elf`): nothing of
CANN is called, its functions are only there to be found.

**What these sources cannot see**: CANN. Whether a CANN version really has a kernel of an operator for a number format,
a layout and a shape, how fast it is, and whether an operator of the graph engine that both processors could run is run
by the AI Core or the AI CPU; nor what GE makes of a graph by fusing.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import functools
import json
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from acmix_ms import runtime
from acmix_ms.deploy.ascend import elf

MODULE = "acmix_ms.deploy.ascend.registries"
ASK_ACLNN = "_ZN9mindspore6kernel19IsRegisteredAclnnOpERKSs"  # bool (const std::string &)
ASK_GE = "_ZN9mindspore6device6ascend11FindAdapterERKSsb"  # shared_ptr<OpAdapter> (const std::string &, bool)
OPERATORS, MANAGER = "plugin/libmindspore_ops_ascend.so", "plugin/ascend/libmindspore_ascend_res_manager.so"
BACKEND = "lib/libmindspore_backend_common.so"
COLLECTIVE, HOST = "plugin/ascend/libd_collective.so", "libmindspore_ops_host.so"
STAND_INS = ("libshmem.so", "libhccl.so")  # what the libraries above name as needed, beside MindSpore's own
SECONDS = 120  # for loading; takes three
PLATFORMS = re.compile(r"Supported Platforms:\s*\n\s*(.+)")
# Names that the AI CPU's registrations and the primitives have for the same number format.
FORMATS = {"F": "float", "I": "int", "U": "uint", "BF": "bfloat", "C": "complex"}


@dataclass(frozen=True)
class Entry:
    """What is known of one primitive; None where the plugin could not be asked."""

    aclnn: bool | None
    ge: bool | None
    rewritten: bool  # by a pass of the backend
    aicpu: frozenset[str] | None  # formats of any input or output; empty: registered without; None: not registered
    documented: str | None  # platforms as the docstring has them; None: no such primitive, or it says nothing


def look_up(names: Iterable[str]) -> tuple[dict[str, Entry], str | None]:
    """What the installed MindSpore has for these primitives, and why the plugin could not be asked, if so."""
    names = sorted(set(names))
    asked, reason = ask_plugin(names)
    found = {}
    for name in names:
        aclnn, ge = asked.get(name, (None, None))
        found[name] = Entry(aclnn, ge, rewritten(name), aicpu_formats().get(name), documented(name))
    return found, reason


# ---------------------------------------------------------------------------------------------------- Python's part
def package() -> Path:
    """Folder of the installed MindSpore."""
    import mindspore

    return Path(mindspore.__file__).parent


@functools.cache
def _passes() -> bytes:
    library = package() / BACKEND
    return library.read_bytes() if library.is_file() else b""


def rewritten(name: str) -> bool:
    """Whether the backend has a pass that replaces the primitive."""
    passes = (f"{name}{ending}" for ending in ("UnifyMindIR", "Fission"))
    # As C++ keeps the names of classes for its type information.
    return any(f"N9mindspore3opt{len(one)}{one}E".encode() in _passes() for one in passes)


@functools.cache
def aicpu_formats() -> dict[str, frozenset[str]]:
    """Primitives with a kernel of the AI CPU -> names of number formats in its registration."""
    found: dict[str, set[str]] = {}
    for path in (package() / "ops/_op_impl/aicpu").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        # Read as text: importing would register all of them in this process.
        for name, body in re.findall(r"AiCPURegOp\(\s*\"(\w+)\"\s*\)(.*?)\.get_op_info\(\)", text, re.DOTALL):
            formats = {f"{FORMATS[kind]}{bits}" for kind, bits in re.findall(r"DataType\.(F|I|U|C|BF)(\d+)", body)}
            found.setdefault(name, set()).update(formats | ({"bool"} if "DataType.BOOL" in body else set()))
    listed = package() / "lib/plugin/ascend/custom_aicpu_ops/op_impl/cpu/config/cust_aicpu_kernel.json"
    if listed.is_file():
        for name in json.loads(listed.read_text(encoding="utf-8")):
            found.setdefault(name, set())
    return {name: frozenset(formats) for name, formats in found.items()}


@functools.cache
def _primitives() -> dict[str, str]:
    """Primitive classes of the package -> their docstrings, from its sources."""
    found = {}
    for folder in ("ops/operations", "ops/auto_generate"):
        for path in (package() / folder).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, ast.get_docstring(node) or "")
    return found


@functools.cache
def documented(name: str) -> str | None:
    """``Supported Platforms`` of a primitive, such as "Ascend GPU CPU"."""
    import mindspore

    text = _primitives().get(name, "")
    platforms = PLATFORMS.search(text)
    function = re.search(r"Refer to :func:`mindspore\.([\w.]+)` for more", text)
    if not platforms and function:  # generated primitives tell what function describes them
        target = mindspore
        for part in function[1].split("."):
            target = getattr(target, part, None)
        platforms = PLATFORMS.search(target.__doc__ or "") if target is not None else None
    return platforms[1].replace("``", "").strip() if platforms else None


# ---------------------------------------------------------------------------------------------------- the plugin's part
def ask_plugin(names: Iterable[str]) -> tuple[dict[str, tuple[bool, bool]], str | None]:
    """Whether each name has an aclnn kernel and an adapter to the graph engine; or nothing, and why not."""
    library = package() / "lib"
    if not (library / OPERATORS).is_file():
        return {}, f"this MindSpore is without {OPERATORS}"
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(library / "plugin/ascend"), str(library), folder]
        environment = runtime.foreign_environment()
        if "LD_LIBRARY_PATH" in environment:
            paths.append(environment["LD_LIBRARY_PATH"])
        # MindSpore warns of every name that it does not find.
        environment.update(GLOG_v="4", LD_LIBRARY_PATH=":".join(paths))
        root = Path(__file__).resolve().parents[3]
        command = [sys.executable, "-m", MODULE, folder]
        try:
            done = subprocess.run(command, input=json.dumps(list(names)), capture_output=True, text=True, cwd=root,
                                  env=environment, timeout=SECONDS, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            return {}, f"loading the Ascend plugin took over {SECONDS} s"
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {}, f"the Ascend plugin cannot be loaded: {said[:200]}"
    return {name: tuple(answer) for name, answer in json.loads(done.stdout.splitlines()[-1]).items()}, None


def _load(folder: Path) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Load the plugin's operators and its manager, which holds the adapters."""
    import mindspore

    library, every = Path(mindspore.__file__).parent / "lib", ctypes.RTLD_GLOBAL | os.RTLD_LAZY
    for path in sorted(library.glob("libmindspore_*.so")):
        # Those that are needed are in this process already; their names are made visible to all.
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path), mode=every)
    parts = [elf.symbols(library / part) for part in (OPERATORS, MANAGER, COLLECTIVE, HOST)]
    offered = set().union(*(part.offered for part in parts))
    present = ctypes.CDLL(None)
    missing = {name for part in parts for name in part.wanted - offered if not hasattr(present, name)}
    for number, name in enumerate(STAND_INS):
        elf.write_stand_in(folder / name, missing if number == 0 else (), platform.machine())
        ctypes.CDLL(str(folder / name), mode=every)
    operators = ctypes.CDLL(str(library / OPERATORS), mode=every)
    return operators, ctypes.CDLL(str(library / MANAGER), mode=every)


class _Text:
    """A ``const std::string &`` of the ABI that MindSpore is built with: characters behind their length."""

    def __init__(self, text: str):
        raw = text.encode()
        self._buffer = ctypes.create_string_buffer(struct.pack("<qqi4x", len(raw), len(raw), 1) + raw)
        self._characters = ctypes.c_void_p(ctypes.addressof(self._buffer) + struct.calcsize("<qqi4x"))
        self.address = ctypes.addressof(self._characters)


def _answer(folder: Path, names: list[str]) -> dict[str, tuple[bool, bool]]:
    operators, manager = _load(folder)
    aclnn, ge = operators[ASK_ACLNN], manager[ASK_GE]
    aclnn.restype, aclnn.argtypes = ctypes.c_bool, [ctypes.c_void_p]
    ge.restype, ge.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_bool]
    found = {}
    for name in names:
        text, adapter = _Text(name), (ctypes.c_uint64 * 2)()  # room for the shared_ptr that comes back
        ge(ctypes.addressof(adapter), text.address, False)
        found[name] = (bool(aclnn(text.address)), adapter[0] != 0)
    return found


if __name__ == "__main__":
    print(json.dumps(_answer(Path(sys.argv[1]), json.load(sys.stdin))), flush=True)
    os._exit(0)  # the plugin was never started, so it must not clean up
