"""What the project does to files: written whole or not at all, checked before long work, locked.

Nothing here loads MindSpore, so that mistakes are answered at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there a second run is not noticed
    fcntl = None

from acmix_ms.errors import UserError

BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # of a lock; anything else means that there are none
UNSYNCED = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # file systems whose folders need no such call, or know none
LOCK = ".lock"  # held by the process that writes into a folder
PARTIAL = ".partial"  # before the ending of a file that is being written


def writable_folder(path: str | os.PathLike, name: str) -> Path:
    """Make the folder ``path`` if needed and try to write in it; ``name`` is the argument it came from."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{name}={path}: cannot write there ({error.strerror}); give another folder") from error


def writable_file(path: str | os.PathLike, name: str) -> Path:
    """See that a file can be written at ``path``, an argument called ``name``; its folder is made if needed."""
    file = Path(path)
    if os.path.isdir(file):
        raise UserError(f"{name} {path} is a folder: give a file name")
    if os.path.exists(file) and not os.path.isfile(file):  # such as /dev/null, which would be replaced
        raise UserError(f"{name} {path} is no regular file: give another name")
    writable_folder(file.parent, name)
    return file


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a small file whole: whoever reads it, and whenever the process ends, finds the old text or the new one.

    Raises:
        UserError: it cannot be written; the earlier file is untouched.
    """
    with replacing(Path(path)) as partial:
        # As bytes, so that line ends stay as they are; names of files need not be valid text.
        partial.write_bytes(text.encode(errors="replace"))
        sync(partial)


def parse_json(data: bytes) -> dict:
    """A JSON object; all numbers in it are finite.

    Raises:
        ValueError: no UTF-8, no JSON, nested too deeply, NaN or infinite numbers, or something else than an object.
    """
    try:
        values = json.loads(data.decode(), parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values


def _finite(number: str) -> float:
    """Python takes NaN, Infinity and 1e999 for JSON."""
    if not math.isfinite(float(number)):
        raise ValueError(f"it holds the number {number}")
    return float(number)


def read_json(path: str | os.PathLike, kind: str = "") -> dict:
    """The JSON object in a file; what stands in it is for the caller to check.

    Args:
        kind: what messages call the file, such as ``"description"``.

    Raises:
        UserError: the file cannot be read, or holds no such thing.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror}".strip()) from error
    except ValueError as error:
        raise UserError(f"{kind} {path} is damaged ({error}); take another copy".strip()) from error


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def require_checkpoint(path: str | os.PathLike) -> Path:
    """The path of a checkpoint that is there; whether it is a good one only reading shows."""
    file = Path(path)
    if os.path.isdir(file):  # Path.is_dir raises where the folder above may not be looked into
        raise UserError(f"checkpoint {path} is a folder: give a file in it, such as {file / 'best.ckpt'}")
    if not os.path.isfile(file):
        raise UserError(f"checkpoint {path} does not exist")
    return file


def sync(path: str | os.PathLike) -> None:
    """Make what was written to a file, or renamed within a folder, survive a loss of power."""
    is_folder = os.path.isdir(path)
    if os.name == "nt" and is_folder:  # Windows cannot open a folder, and needs no such call
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in UNSYNCED:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(run_dir: str | os.PathLike, wanted: bool = True, name: str = "run_dir=") -> Iterator[None]:
    """The folder of a run is this process's own; the system takes the lock back however the process ends.

    Unless it is ``wanted`` nothing happens: of the processes of one run a single one has it. ``name`` is the argument
    that the folder came from. A file system that knows no locks costs a warning, and nothing is locked.

    Raises:
        UserError: another run has it, or its file cannot be opened.
    """
    if fcntl is None or not wanted:
        yield
        return
    path, another = Path(run_dir) / LOCK, f"give another {name.strip('= ')}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): remove it, or {another}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
                by = f"process {owner}" if owner.isdigit() else "another process"
                raise UserError(f"{name}{run_dir} is in use by {by}: wait until it ends, or {another}") from error
            print(
                f"warning: {name}{run_dir} is where nothing can be locked ({error.strerror}): see that no other run "
                "writes there",
                file=sys.stderr,
            )
        with contextlib.suppress(OSError):  # the number is for messages only: a full disk is no reason to end
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, kind: str = "") -> Iterator[Path]:
    """The name to write under: what stands there takes the place of ``path`` when the block has ended without error.

    Args:
        kind: what messages call the file, such as ``"checkpoint"``.

    Raises:
        UserError: the system refuses; ``path`` is untouched.
    """
    partial = path.with_name(f"{path.stem}{PARTIAL}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        raise UserError(
            f"{kind} {path} cannot be written: {error.strerror or error}; the earlier file is untouched".strip()
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone, unless something went wrong
            partial.unlink()
