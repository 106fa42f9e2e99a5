"""The only home of device, mode, seeds, processes and what differs between MindSpore versions and machines.

Importing it sets environment variables that MindSpore reads (`setdefault`: what the user has set stays), and imports
nothing heavy, so that `import acmix_ms` sets them in time.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from acmix_ms.errors import UserError, closest

DEVICES = ("Ascend", "GPU", "CPU")  # best first: the order in which "auto" chooses
MODES = ("graph", "pynative")
JIT_LEVELS = ("O0", "O1")  # kernel by kernel, or with fused kernels; O2 gives whole graphs to CANN

# MindSpore tells every absent device library and many a compile in several lines, and the data pipeline tells each
# error as a log entry and again as the exception that reaches the caller. Errors of all else are still shown.
QUIET = {"GLOG_v": "3", "MS_SUBMODULE_LOG_v": "{MD:4}", "OPENCV_LOG_LEVEL": "ERROR"}

_SEED_STRIDE = 1_000_003  # between neighbouring ranks: far more than anybody counts seeds up

_added: set[str] = set()  # environment variables that are here because of us
_threads: int | None = None  # MindSpore takes the number of CPU kernel threads once per process
_deterministic = False  # and the switch to deterministic kernels as well
_jit_level = JIT_LEVELS[0]
_joined = False  # whether this process has met the others of its group


def mindspore_version() -> tuple[int, int] | None:
    """(major, minor) of the installed MindSpore without importing it; None when its metadata is not there."""
    try:
        match = re.match(r"(\d+)\.(\d+)", metadata.version("mindspore"))
    except metadata.PackageNotFoundError:
        return None
    return (int(match[1]), int(match[2])) if match else None


def _guard_environment() -> None:
    for name, level in QUIET.items():
        _set_default(name, level)
    # From 2.9 on MindSpore brings a oneDNN whose AVX-512 convolutions fall to the reference kernel, 50-100 times
    # slower; capped to AVX2 they are fast. oneDNN reads this at its first kernel, so it serves after
    # `import mindspore` too, only not after a convolution has run.
    version = mindspore_version()
    if version is not None and version >= (2, 9) and platform.machine() in ("x86_64", "AMD64"):
        _set_default("ONEDNN_MAX_CPU_ISA", "AVX2")


def _set_default(name: str, value: str) -> None:
    if name not in os.environ:
        os.environ[name] = value
        _added.add(name)


_guard_environment()


def foreign_environment() -> dict[str, str]:
    """The environment as the user has set it, for processes of other frameworks: PyTorch has a oneDNN too, and what
    cures MindSpore's would slow that one down.
    """
    return {name: value for name, value in os.environ.items() if name not in _added}


def lite_python() -> str | None:
    """The Python that the user names for MindSpore Lite (``ACMIX_LITE_PYTHON``)."""
    return os.environ.get("ACMIX_LITE_PYTHON") or None


def lite_environment() -> dict[str, str]:
    """The environment of a process of MindSpore Lite: its log holds errors, of which the first tells the cause."""
    return {**foreign_environment(), "GLOG_v": "3"}


def compiler(variable: str = "CC", usual: str = "cc") -> str:
    """The compiler that the user names, of C (``CC``) or C++ (``CXX``), or the system's."""
    return os.environ.get(variable, usual)


def changed_environment(variables: dict[str, str], paths: dict[str, list[Path]]) -> dict[str, str]:
    """The environment of a process: this one's with ``variables`` set, and ``paths`` in front of lists of folders."""
    changed = {**os.environ, **variables}
    for name, folders in paths.items():
        before = [os.environ[name]] if os.environ.get(name) else []
        changed[name] = os.pathsep.join([*map(str, folders), *before])
    return changed


def cpu_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where lies what can be made again: ``~/.cache/acmix_ms``, with the system's choice of that folder."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "acmix_ms"


def weights_folder() -> Path:
    """Where converted weights of known models lie: ``$ACMIX_WEIGHTS``, or `cache_folder`."""
    given = os.environ.get("ACMIX_WEIGHTS")
    return Path(given).expanduser() if given else cache_folder()


def device_peak_bytes(device: str) -> int | None:
    """Most memory that the ``device`` has held for this process; None on CPU, where it is the process's own."""
    import mindspore as ms

    return None if device == "CPU" else int(ms.runtime.max_memory_allocated())


def available(device: str) -> bool:
    """Whether this MindSpore and this machine have the ``device``."""
    import mindspore as ms

    context = getattr(ms.device_context, device.lower())
    return context.is_available() and context.device_count() > 0


def start(
    device: str = "auto",
    mode: str = "graph",
    seed: int = 0,
    deterministic: bool = False,
    threads: int | None = None,
    jit_level: str = JIT_LEVELS[0],
) -> str:
    """Choose device and mode, join the group if msrun started one, seed every generator; call it once, before the
    first Cell is built.

    In a group each process draws numbers of its own, so that no two drop the same; rank 0 draws those of a process
    alone. Only rank 0 prints: what the others print goes nowhere, their errors go to stderr as ever. msrun's scheduler
    stays in here until the group ends, and never returns.

    Args:
        device: ``"auto"`` (the best that is there), ``"Ascend"``, ``"GPU"`` or ``"CPU"``.
        mode: ``"graph"`` or ``"pynative"``.
        seed: of MindSpore, NumPy and `random`, 0 to 2**32 - 1.
        deterministic: bitwise equal runs for equal seeds, at some cost in speed. Stays on for the process.
        threads: CPU kernel threads; None leaves the choice to MindSpore. Fixed for the process once given.
        jit_level: how graphs are compiled, ``"O0"`` or ``"O1"``.

    Returns:
        The device in use.

    Raises:
        UserError: a value that cannot be, or a device that is not there.
    """
    import mindspore as ms

    device = _resolve_device(device)
    if mode not in MODES:
        raise UserError(f"runtime.mode={mode!r}: {closest(str(mode), MODES)}")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: give an integer from 0 to 2**32 - 1")

    if jit_level not in JIT_LEVELS:
        raise UserError(f"runtime.jit_level={jit_level!r}: {closest(str(jit_level), JIT_LEVELS)}")
    global _jit_level
    _jit_level = jit_level
    ms.set_device(device)
    if device == "Ascend":  # else a Cell that is called goes to CANN's graph engine on a 910A
        ms.set_context(jit_config={"jit_level": jit_level})
        ms.device_context.ascend.op_precision.conv_allow_hf32(False)  # float32 keeps its bits
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    if deterministic:
        threads = _make_deterministic(device, threads)
    if threads is not None:
        _set_threads(threads)
    _join_group()

    seed = (seed + _SEED_STRIDE * rank()) % 2**32
    ms.set_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    return device


def start_for(config, mode: str | None = None) -> str:
    """`start` as a `acmix_ms.config.Config` says; ``mode`` is taken instead of the one it has."""
    wanted = config.runtime
    return start(
        wanted.device,
        mode or wanted.mode,
        config.seed,
        config.train.deterministic,
        wanted.threads,
        wanted.jit_level,
    )


def compiled(function: Callable) -> Callable:
    """The function as a graph where the runtime is in graph mode, as it is in PyNative mode.

    By MindSpore's own backend: on an Ascend 910A `ms.jit` would choose CANN's graph engine, which lacks operators of
    train steps.
    """
    import mindspore as ms

    if ms.get_context("mode") != ms.GRAPH_MODE:
        return function
    return ms.jit(function, jit_level=_jit_level, backend="ms_backend")


@contextlib.contextmanager
def pynative() -> Iterator[None]:
    """PyNative mode for a while; the mode before comes back."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=before)


@contextlib.contextmanager
def whole_graphs() -> Iterator[None]:
    """Graphs for CANN's engine, which alone writes AIR: without this level no file comes about where another is the
    default, as on an Ascend 910B. The level of before comes back.
    """
    import mindspore as ms
    from mindspore import context

    before = context.get_jit_config() or {}
    ms.set_context(jit_config={"jit_level": "O2"})
    try:
        yield
    finally:
        ms.set_context(jit_config={"jit_level": before.get("jit_level") or _jit_level})


@contextlib.contextmanager
def own_words() -> Iterator[None]:
    """What MindSpore's C++ says to stderr, past Python, is held back while the block runs; a `UserError` that ends it
    says the same in one line, so then it is forgotten.
    """
    sys.stderr.flush()
    try:
        terminal = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        refused = False
        try:
            yield
        except UserError:
            refused = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            said.seek(0)
            with contextlib.suppress(OSError):  # nobody listens any more
                for line in () if refused else said:
                    os.write(2, line)


def to_device(array):
    """A Tensor on the device of this process; the copy is queued behind what the device has to do, and not waited for.

    A Tensor of the host would be copied when a graph is called with it, after the device has done everything else.
    """
    import mindspore as ms

    tensor, device = ms.Tensor(array), ms.get_context("device_target")
    return tensor if device == "CPU" else tensor.move_to(device, blocking=False)


def assign(parameter, value) -> None:
    """Set a Parameter to an array. An operator, because a graph that has run may go on with the value before
    ``set_data``.
    """
    import mindspore as ms

    ms.ops.assign(parameter, ms.Tensor(value, parameter.dtype))


def rank() -> int:
    """Number of this process among those that msrun started, 0 without msrun."""
    return int(os.environ["RANK_ID"]) if _is_worker() else 0


def leads() -> bool:
    """Whether this process writes what a run leaves: alone, or rank 0; never msrun's scheduler."""
    return rank() == 0 and not _is_scheduler()


def world_size() -> int:
    """How many processes msrun started, 1 without msrun."""
    return int(os.environ["MS_WORKER_NUM"]) if _is_worker() else 1


def _is_worker() -> bool:
    # RANK_ID alone may linger in the shell of an Ascend user; the role is set by msrun only.
    return os.environ.get("MS_ROLE") == "MS_WORKER"


def _is_scheduler() -> bool:
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def _join_group() -> None:
    """Meet the other processes of msrun: its workers, and its scheduler, which serves until they are done."""
    global _joined
    if _joined or not (_is_scheduler() or _is_worker()):
        return
    import mindspore as ms
    from mindspore import communication

    communication.init()
    if _is_scheduler():
        sys.exit(0)
    _joined = True
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=world_size()
    )
    if rank():
        print(f"rank {rank()} of {world_size()} on {platform.node()}: rank 0 tells how it goes", flush=True)
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # until the process ends


def _resolve_device(device: str) -> str:
    if device == "auto":
        return next(name for name in DEVICES if available(name))
    if device not in DEVICES:
        raise UserError(f"runtime.device={device!r}: {closest(str(device), ('auto', *DEVICES))}")
    if not available(device):
        there = ", ".join(name for name in DEVICES if available(name))
        raise UserError(
            f"runtime.device={device}: MindSpore finds no {device} device here, only {there}; "
            f"use runtime.device=auto, or install the driver and toolkit that MindSpore needs for {device}"
        )
    return device


def _make_deterministic(device: str, threads: int | None) -> int | None:
    """Switch to deterministic kernels; returns the number of CPU threads that needs, or the one given."""
    global _deterministic
    if device == "CPU":
        # set_deterministic changes nothing on CPU: with two kernel threads the order of summation still varies.
        if threads not in (None, 1):
            raise UserError(f"runtime.threads={threads}: deterministic runs on CPU need 1; leave one of the two out")
        return 1
    if not _deterministic:
        import mindspore as ms

        ms.set_deterministic(True)
        _deterministic = True
    return threads


def _set_threads(threads: int) -> None:
    global _threads
    if threads == _threads:
        return
    if threads < 1:
        raise UserError(f"runtime.threads={threads}: give at least 1")
    if _threads is not None:
        raise UserError(f"runtime.threads={threads}: fixed at {_threads} earlier in this process, start a new one")
    import mindspore as ms

    ms.device_context.cpu.op_tuning.threads_num(threads)
    _threads = threads
