"""Reading the files that official weights come in: ``.pth``, ``.pt``, ``.npz`` and ``.safetensors``.

Nothing in a file is ever run. A ``.pth`` is a pickle, which could hold any program: PyTorch's reader of weights alone
takes it, which builds tensors and plain containers and nothing else.
"""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from acmix_ms.errors import UserError
from acmix_ms.files import sha256

from . import manifest

ENDINGS = (".pth", ".pt", ".npz", ".safetensors")
WRAPPERS = ("model", "state_dict", "state_dict_ema", "module")  # where training scripts keep it
PARALLEL = "module."  # what DataParallel puts before each name
# What training scripts of Swin, DeiT, PVT and others save beside the weights. It is read as dictionaries and empty
# objects, and then dropped; an OrderedDict is what PyTorch's reader fills both as a mapping and with attributes.
MAPPINGS = ("yacs.config.CfgNode", "argparse.Namespace")
NUMBERS = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
FLOATS, BFLOAT16 = {"F64": np.float64, "F32": np.float32, "F16": np.float16}, "BF16"  # as safetensors names them
# Of zip files with a flipped bit: RuntimeError where it says encrypted, or packed in another way.
NPZ_ERRORS = (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


class Nothing:
    """Stands for a number of NumPy's, whatever it was made from."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a file, by official names: floats as float32, what else there is as it is.

    Raises:
        UserError: missing, foreign or damaged file, torch not installed, or no state dict in it.
    """
    require(path)
    if path.suffix == ".npz":
        state = _read_npz(path)
    elif path.suffix == ".safetensors":
        state = _read_safetensors(path)
    else:
        state = _read_torch(path)
    state = {name[len(PARALLEL) :] if name.startswith(PARALLEL) else name: value for name, value in state.items()}
    return {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in state.items()}


def require(path: Path) -> None:
    """See that a file is there and that its ending is one of `ENDINGS`; the rest only reading shows."""
    if path.suffix not in ENDINGS:
        raise UserError(f"--input {path}: unknown ending {path.suffix!r}, give {', '.join(ENDINGS)}")
    if not path.is_file():
        release = manifest.by_file(path)
        where = f"; download it from {release.url}" if release else ""
        raise UserError(f"--input {path} does not exist{where}")


def check_sha256(path: Path, *, refuse: bool = True) -> str:
    """See that a file is the one that was released under its name; returns its sha256.

    Raises:
        UserError: it is not, and ``refuse`` is set.
    """
    found, expected = sha256(path), manifest.expected_sha256(path)
    if refuse and expected and not found.startswith(expected):
        raise UserError(
            f"--input {path} has sha256 {found[: len(expected)]}, that of this name is {expected}: it is damaged or "
            "another file; download it again, or --no-check to take it as it is"
        )
    return found


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except NPZ_ERRORS as error:
        raise UserError(f"--input {path} is not a readable .npz file: {error}") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        entries = dict(safetensors.deserialize(path.read_bytes()))
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"--input {path} is not a readable .safetensors file: {error}") from error
    # Integers are buffers, which our Cells compute themselves.
    floats = {name: entry for name, entry in entries.items() if entry["dtype"] in (*FLOATS, BFLOAT16)}
    return {name: _array(entry).reshape(entry["shape"]) for name, entry in floats.items()}


def _array(entry: Mapping) -> np.ndarray:
    if entry["dtype"] == BFLOAT16:  # the upper half of a float32, which NumPy has no type for
        return (np.frombuffer(entry["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(entry["data"], FLOATS[entry["dtype"]])


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"--input {path}: reading {path.suffix} needs PyTorch, which is not installed: pip install torch, "
            "or save the state dict as .safetensors or .npz where you have it"
        ) from error
    try:
        content = _load_inert(torch, path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"--input {path} {_why_unread(error)}") from error
    state = _unwrap(content)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"--input {path} holds no state dict, neither itself nor under {', '.join(WRAPPERS)}")
    return {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in state.items()}


def _load_inert(torch, path: Path):
    stand_ins = [(OrderedDict, name) for name in MAPPINGS] + [(Nothing, name) for name in NUMBERS]
    try:
        inert = torch.serialization.safe_globals(stand_ins)
    except AttributeError as error:
        raise UserError(
            f"--input {path}: PyTorch {torch.__version__} is too old to read it safely: pip install 'torch>=2.6'"
        ) from error
    with inert:
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content) -> Mapping:
    """The state dict within the dictionaries that training scripts put around it, empty where there is none."""
    while isinstance(content, Mapping):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapper is None:
            return content
        content = content[wrapper]
    return {}


def _why_unread(error: Exception) -> str:
    """PyTorch's own words advise to run whatever the file holds."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return (
            f"holds {refused[1]} beside weights, which could run a program when it is read: where you trust the file, "
            "save its state dict alone with torch.save"
        )
    first = str(error).partition("\n")[0].partition(". ")[0]
    return f"is damaged or not a file of PyTorch ({type(error).__name__}: {first}): download it again"
