"""A folder that looks like CANN to MindSpore's Ascend plugin, so that the plugin works where there is no Ascend.

MindSpore's package holds the whole plugin; what is missing are CANN's libraries. `stand_in` reads from the plugin which
functions of theirs it wants, and compiles two libraries: one keeps graphs of the graph engine (`standins/graph.cc`),
the other has all else (`standins/device.c`): memory of the device is memory of the host, and what is launched is
written to a log instead of being computed. A process that runs in `environment` finds an Ascend, selects kernels, plans
memory, launches, and exports AIR; what CANN itself would say to a launch or a graph stays unseen.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

from acmix_ms import runtime
from acmix_ms.errors import UserError

SOURCES = Path(__file__).with_name("standins")
MACHINES = ("x86_64", "aarch64")
CANN_VERSION = "8.5.0"  # what MindSpore 2.8 asks for

# Libraries that the plugin opens by name instead of needing them.
OPENED = ("libopapi.so", "libnnopbase.so", "libacl_op_compiler.so", "libacl_tdt_channel.so", "libacl_tdt_queue.so",
          "libmsprofiler.so", "libruntime.so", "libascend_ml.so")  # fmt: skip
# Functions that it looks up by name: those of aclnn, and by their manners those of CANN's other interfaces.
LOOKED_UP = re.compile(
    r"(acl|rt|Hccl|Hcom|Msprof|msprof|Prof|prof|hal|drv|Aoe|gmem)\w*[A-Z]\w+"
    r"|\w*(HugeMem|PTACache|PTAHashKey|PTAGetExecCache|PTAFindExecCache|AddTensorAddrToCachedList)\w*"
)
ACLNN = re.compile(r"aclnn[A-Z]\w+")
OF_MINDSPORE = ("AllFinite",)  # it has operators for Ascend of its own, in a library that it opens
WORKSPACE = "GetWorkspaceSize"
NOT_FOR_CANN = re.compile(r"_?Py[A-Z_]\w*")  # of the interpreter, which is there when they are needed
STRING = re.compile(rb"(?<=\0)[A-Za-z_]\w{3,59}(?=\0)")

# What MindSpore imports of CANN's Python packages, beside `te` itself: their versions.
PACKAGES = {
    "te/version.py": f'version = "{CANN_VERSION}.1"\n',
    "hccl/__init__.py": "",
    "hccl/sys_version.py": f'__sys_version__ = "{CANN_VERSION}"\n',
}


def stand_in() -> Path:
    """The folder of the stand-in for the installed MindSpore, made at the first call: some seconds.

    Raises:
        UserError: there is no compiler, or no stand-in can be made for this machine or this MindSpore.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise UserError(
            f"the dry run needs Linux on {' or '.join(MACHINES)}, this is {sys.platform} on {platform.machine()}"
        )
    compilers = {"device.c": runtime.compiler(), "graph.cc": runtime.compiler("CXX", "c++")}
    if None in [shutil.which(name) for name in (*compilers.values(), "nm", "readelf")]:
        raise UserError("the dry run needs compilers of C and C++ and binutils (cc, c++, nm, readelf): apt install g++")
    sources = [path.read_text() for path in sorted(SOURCES.iterdir()) if path.is_file()]
    made_from = [*sources, Path(__file__).read_text(), metadata.version("mindspore")]
    key = hashlib.sha256("".join(made_from).encode())
    # The plugin looks for a folder of the name "cann" in the path.
    folder = runtime.cache_folder() / f"stand-in-{key.hexdigest()[:16]}" / "cann"
    if not folder.is_dir():
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent.parent, prefix=".making.") as making:
            _make(Path(making) / "cann", compilers)
            folder.parent.mkdir(exist_ok=True)
            try:
                (Path(making) / "cann").rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def environment(folder: Path, soc: str, log: Path) -> dict[str, str]:
    """The environment of a process that finds an Ascend of the kind ``soc``, which notes in ``log`` what it is told."""
    libraries = _libraries()
    found = {
        "ASCEND_HOME_PATH": str(folder),
        "ASCEND_OPP_PATH": str(folder / "opp"),
        "STAND_IN_LOG": str(log),
        "STAND_IN_SOC": soc,
    }
    searched = {
        "LD_LIBRARY_PATH": [folder / "lib64", libraries / "plugin" / "ascend", libraries],
        "PYTHONPATH": [folder / "python"],
    }
    return runtime.changed_environment(found, searched)


def _libraries() -> Path:
    """Where the installed MindSpore has its libraries; it is not imported, which would load them."""
    found = util.find_spec("mindspore")
    if found is None or found.origin is None:
        raise UserError("MindSpore is not installed: make env")
    return Path(found.origin).parent / "lib"


def _make(folder: Path, compilers: dict[str, str]) -> None:
    for name in ("lib64", "opp", "compiler"):
        (folder / name).mkdir(parents=True)
    (folder / "compiler" / "version.info").write_text(f"Version={CANN_VERSION}\n")
    for name, text in PACKAGES.items():
        (folder / "python" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "python" / name).write_text(text)
    shutil.copyfile(SOURCES / "te.py", folder / "python" / "te" / "__init__.py")

    libraries = _libraries()
    users = _users(libraries)
    if not any(path.name.startswith("libmindspore_ascend") for path in users):
        raise UserError(f"{libraries} has no Ascend plugin: install the mindspore of PyPI, which has one")
    graph, device = folder / "lib64" / "libgraph.so", folder / "lib64" / "libascendcl.so"
    _compile(compilers, "graph.cc", graph, "-std=c++17", "-D_GLIBCXX_USE_CXX11_ABI=0")
    defined = set(re.findall(r"^[a-z][\w ]*[ *](\w+)\(", (SOURCES / "device.c").read_text(), re.MULTILINE))
    functions = sorted(_wanted(users, libraries) - defined - _symbols(graph)[1])
    (folder / "stand_ins.h").write_text("".join(f"STAND_IN({name})\n" for name in functions))
    _compile(compilers, "device.c", device, f"-I{folder}", "-lpthread")
    for name in {*_absent(users, libraries), *OPENED} - {graph.name, device.name}:
        (folder / "lib64" / name).symlink_to(device.name)


def _compile(compilers: dict[str, str], source: str, library: Path, *options: str) -> None:
    command = [compilers[source], "-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{library.name}", "-o", str(library)]
    done = subprocess.run([*command, str(SOURCES / source), *options], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{compilers[source]} cannot make the stand-in: {done.stderr.strip().splitlines()[0]}")


def _users(libraries: Path) -> list[Path]:
    """The libraries of MindSpore that call CANN."""
    plugin = libraries / "plugin"
    names = ["libmindspore_ge_backend.so", "libmindspore_ms_backend.so", "libmindspore_backend_common.so"]
    found = [*plugin.glob("libmindspore*ascend.so*"), *(libraries / name for name in names)]
    for pattern in ("*.so", "ms_kernels_internal/**/*.so", "ms_kernels_symmetric_memory/**/*.so"):
        found += (plugin / "ascend").glob(pattern)
    return [path for path in found if path.name != "libmindspore_cpu_kernels.so"]  # that one is of the AI CPU


def _symbols(path: Path) -> tuple[set[str], set[str]]:
    """The symbols that a library wants (weak ones apart), and those it has."""
    wanted, offered = set(), set()
    for line in subprocess.run(["nm", "-D", str(path)], capture_output=True, text=True).stdout.splitlines():
        *address, kind, name = line.split()
        if address:
            offered.add(name.split("@")[0])
        elif kind == "U" and "@" not in name:
            wanted.add(name)
    return wanted, offered


def _wanted(users: list[Path], libraries: Path) -> set[str]:
    """Functions that the plugin's libraries ask for and nobody has, and those that they may look up by name."""
    wanted, offered = set(), set()
    looked_up = {f"aclnn{name}{end}" for name in OF_MINDSPORE for end in ("", WORKSPACE)}
    for path in users:
        for names, found in zip((wanted, offered), _symbols(path)):
            names |= found
        for text in {match.group().decode() for match in STRING.finditer(path.read_bytes())}:
            if ACLNN.fullmatch(text):
                base = text[: -len(WORKSPACE)] if text.endswith(WORKSPACE) else text
                looked_up |= {base, base + WORKSPACE}
            elif LOOKED_UP.fullmatch(text):
                looked_up.add(text)
    for path in {*libraries.rglob("*.so*"), *libraries.parent.glob("*.so")} - set(users):
        offered |= _symbols(path)[1]
    system = [ctypes.CDLL(name) for name in (None, "libstdc++.so.6")]  # the C library and its like
    missing = {
        name
        for name in wanted - offered
        if not NOT_FOR_CANN.fullmatch(name) and not any(hasattr(library, name) for library in system)
    }
    return missing | {name for name in looked_up if name not in offered or ACLNN.fullmatch(name)}


def _absent(users: list[Path], libraries: Path) -> set[str]:
    """Names of libraries that are needed and nowhere."""
    needed: set[str] = set()
    for path in users:
        text = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True).stdout
        needed |= set(re.findall(r"NEEDED.*\[(.*?)\]", text))
    there = {path.name for path in libraries.rglob("*.so*")}
    system = re.compile(r"(ld-linux|lib(c|m|dl|rt|z|pthread|gcc_s|stdc\+\+|gomp|util)\.so).*")
    return {name for name in needed - there if name.startswith("lib") and not system.match(name)}
