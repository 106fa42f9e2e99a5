"""Checkpoints: written whole or not at all, and read with every doubt spoken out.

A file is an ordinary MindSpore ``.ckpt``. Weights stand under their plain names, so ``ms.load_checkpoint`` and
``ms.load_param_into_net`` read it; what else a run needs stands in entries that begin with ``train_state.``, first of
all ``train_state.meta``: JSON with step, epoch, configuration, format version and a checksum over everything.
It comes first because MindSpore loads a file that was cut between two entries without a word.

``.safetensors`` files are written and read as well, for weights that are passed on: the same entries, and the JSON in
the file's own metadata, under ``acmix``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import safetensors
import safetensors.numpy
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.engine import run_dir
from acmix_ms.errors import UserError
from acmix_ms.files import replacing, require_checkpoint, sync

FORMAT_VERSION = 1
STATE_PREFIX = "train_state."
META = STATE_PREFIX + "meta"
SAFETENSORS, SAFETENSORS_META = ".safetensors", "acmix"
AVERAGE_PREFIX = "ema."  # in the state: of the moving averages of the weights


@dataclass
class Checkpoint:
    """What a file holds: ``weights`` and training ``state`` (names without prefix) as arrays, ``meta`` as JSON."""

    weights: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    meta: dict


def save(path: str | os.PathLike, weights: Mapping, state: Mapping | None = None, meta: Mapping | None = None) -> None:
    """Write a checkpoint so that ``path`` holds either the old file or the whole new one, even if the power fails.

    Args:
        path: ends with ``.ckpt`` or ``.safetensors``.
        weights: plain parameter names to Parameters, Tensors or arrays.
        state: what resuming needs beside the weights, named freely.
        meta: JSON values.

    Raises:
        UserError: the file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    entries = {name: _array(value) for name, value in weights.items()}
    entries.update({STATE_PREFIX + name: _array(value) for name, value in (state or {}).items()})
    described = {**(meta or {}), "format_version": FORMAT_VERSION}
    described["checksum"] = _checksum(entries, described)
    with replacing(path, "checkpoint") as partial:
        write = _write_safetensors if path.suffix == SAFETENSORS else _write_ckpt
        write(partial, entries, json.dumps(described))
        sync(partial)


def _write_ckpt(path: Path, entries: Mapping[str, np.ndarray], header: str) -> None:
    contents = [{"name": META, "data": ms.Tensor(np.frombuffer(header.encode(), np.uint8))}]
    contents += [{"name": name, "data": ms.Tensor(value)} for name, value in entries.items()]
    with _quiet():
        ms.save_checkpoint(contents, str(path))
    path.chmod(0o644)  # MindSpore leaves 0400, which would forbid the owner to replace or remove it elsewhere


def _write_safetensors(path: Path, entries: Mapping[str, np.ndarray], header: str) -> None:
    # Not `save_file`: its error for a full disk is no OSError.
    path.write_bytes(safetensors.numpy.save(dict(entries), metadata={SAFETENSORS_META: header}))


def save_state(folder: Path, weights: Mapping, state: Mapping, meta: Mapping, *, keep: int) -> None:
    """Write the training state ``step-<steps>.ckpt``, which is ``last.ckpt`` from then on; the ``keep`` newest stay.

    Args:
        folder: of the run.
        weights, state: see `save`.
        meta: with ``step``, the steps done.

    Raises:
        UserError: as `save`.
    """
    for leftover in folder.glob("*.partial.ckpt"):  # of a process that ended while it saved
        leftover.unlink(missing_ok=True)
    path, last = folder / run_dir.STATE.format(meta["step"]), folder / run_dir.LAST
    save(path, weights, state, meta)
    with replacing(last, "checkpoint") as link:
        try:
            os.link(path, link)
        except OSError:  # a file system without hard links
            os.symlink(path.name, link)
    # By age, not by name: a run that was resumed from an earlier state goes below steps that were damaged.
    for old in sorted(run_dir.states(folder), key=lambda found: found.stat().st_mtime_ns)[:-keep]:
        old.unlink(missing_ok=True)


def newest_state(folder: Path) -> tuple[Path, Checkpoint] | None:
    """The newest training state in the folder of a run that can be read, and its file; None if there is no file.

    A damaged one is reported, and the one before is taken.

    Raises:
        UserError: there are states, and all are damaged.
    """
    paths = run_dir.states(folder)
    last = folder / run_dir.LAST
    if last.exists() and not any(last.samefile(path) for path in paths):
        paths.insert(0, last)  # put there by somebody
    first = None
    for path in paths:
        try:
            return path, read(path)
        except UserError as error:
            first = first or error
            print(f"warning: {error}; trying the training state before", flush=True)
    if first is not None:
        raise UserError(f"no training state in {folder} can be read: {first}")
    return None


def read(path: str | os.PathLike) -> Checkpoint:
    """Read a ``.ckpt`` or ``.safetensors`` file.

    Raises:
        UserError: missing, foreign, truncated or damaged file, each in its own words.
    """
    path = require_checkpoint(path)
    entries, header = _read_safetensors(path) if path.suffix == SAFETENSORS else _read_ckpt(path)
    meta = {} if header is None else _parse_meta(header, entries, path)
    state = {name[len(STATE_PREFIX) :]: value for name, value in entries.items() if name.startswith(STATE_PREFIX)}
    weights = {name: value for name, value in entries.items() if not name.startswith(STATE_PREFIX)}
    return Checkpoint(weights, state, meta)


def load_weights(net: nn.Cell, path: str | os.PathLike, *, averaged: bool = False) -> dict:
    """Load the weights of ``path`` into ``net``; every parameter must be there, with its shape, and no other.

    Args:
        averaged: take the moving averages of the weights instead, of a training with ``train.ema_decay``.

    Returns:
        The checkpoint's meta data, empty for a file that was not written by `save`.

    Raises:
        UserError: as `read`; another architecture; another number of classes; no averages.
    """
    checkpoint = read(path)
    if averaged:
        checkpoint = averages_of(checkpoint, path)
    assign_weights(net, checkpoint, path)
    return checkpoint.meta


def averages_of(checkpoint: Checkpoint, path: str | os.PathLike) -> Checkpoint:
    """``checkpoint``, which came from ``path``, with the moving averages as its weights.

    Raises:
        UserError: it has none.
    """
    if checkpoint.meta.get("averaged"):  # as best.ckpt has
        return checkpoint
    found = {
        name[len(AVERAGE_PREFIX) :]: value
        for name, value in checkpoint.state.items()
        if name.startswith(AVERAGE_PREFIX)
    }
    if not found:
        raise UserError(f"checkpoint {path} has no averaged weights (train.ema_decay was 0): leave --weights ema out")
    return Checkpoint(found, checkpoint.state, checkpoint.meta)


def assign_weights(net: nn.Cell, checkpoint: Checkpoint, path: str | os.PathLike) -> None:
    """Put the weights of a checkpoint that came from ``path`` into ``net``: see `load_weights`."""
    parameters = net.parameters_dict()
    _check_fit({name: tuple(p.shape) for name, p in parameters.items()}, checkpoint, path)
    for name, parameter in parameters.items():
        runtime.assign(parameter, checkpoint.weights[name])


def _array(value) -> np.ndarray:
    return np.asarray(value.asnumpy() if isinstance(value, ms.Tensor) else value, order="C")  # as safetensors needs it


def _checksum(entries: Mapping[str, np.ndarray], meta: Mapping) -> str:
    """SHA-256 over names, types, shapes and bytes of all entries and over the other meta data."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(entries):
        value = entries[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _parse_meta(header: bytes, entries: Mapping[str, np.ndarray], path: Path) -> dict:
    try:
        meta = json.loads(header)
        expected = meta.pop("checksum")
        version = meta["format_version"]
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"checkpoint {path} is damaged: its description is unreadable; take another copy") from error
    if version > FORMAT_VERSION:
        raise UserError(
            f"checkpoint {path} has format {version}, this version reads up to {FORMAT_VERSION}: update acmix"
        )
    if _checksum(entries, meta) != expected:
        raise UserError(f"checkpoint {path} is damaged or truncated: its checksum does not match; take another copy")
    return meta


def _read_ckpt(path: Path) -> tuple[dict[str, np.ndarray], bytes | None]:
    """Entries, and the description, which files of others do not have."""
    _check_framing(path)
    try:
        with _quiet():
            loaded = ms.load_checkpoint(str(path))
    except ValueError as error:
        raise UserError(f"checkpoint {path} is damaged: MindSpore cannot read it; take another copy") from error
    # Texts that others append with `append_dict` are no weights.
    entries = {name: value.asnumpy() for name, value in loaded.items() if isinstance(value, ms.Tensor)}
    header = entries.pop(META, None)
    return entries, None if header is None else header.tobytes()


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], bytes | None]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = (file.metadata() or {}).get(SAFETENSORS_META)
            return {name: file.get_tensor(name) for name in file.keys()}, header and header.encode()  # noqa: SIM118
    except safetensors.SafetensorError as error:
        cut = "incomplete" in str(error).lower() or "small" in str(error).lower() or "cover" in str(error).lower()
        what = "is truncated" if cut else "is not a safetensors file"
        raise UserError(f"checkpoint {path} {what} ({error}); take another copy") from error


def _check_framing(path: Path) -> None:
    """Walk over the entries of a ``.ckpt`` without reading them, to tell a foreign file from a truncated one.

    The file is a protobuf message: each entry is the byte 0x0a, its length as a varint, and that many bytes, which
    begin with 0x0a, the length of the name, and the name.
    """
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"checkpoint {path} is empty; take another copy")
    entries = 0
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise UserError(
                f"checkpoint {path} is a PyTorch or zip file: convert it with scripts/convert_torch.py first"
            )
        file.seek(0)
        while file.tell() < size:
            start = file.tell()
            tag = file.read(1)
            if entries and tag == b"c" and size - start == 17:  # MindSpore's optional CRC at the end
                return
            length = _read_varint(file)
            name = file.peek(64)[:64]
            if tag != b"\x0a" or (entries == 0 and length is not None and not _begins_with_name(name)):
                raise UserError(f"checkpoint {path} is not a checkpoint: give a MindSpore .ckpt or a .safetensors file")
            if length is None or file.tell() + length > size:
                raise UserError(f"checkpoint {path} is truncated after {entries} entries; take another copy")
            file.seek(length, os.SEEK_CUR)
            entries += 1


def _read_varint(file) -> int | None:
    """Protobuf's variable-length integer, or None where the file ends before it does."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return 1 << 63  # longer than any file


def _begins_with_name(head: bytes) -> bool:
    if len(head) < 2:
        return True  # cut so early that it could be one
    name = head[2 : 2 + head[1]]
    return head[0] == 0x0A and head[1] > 0 and all(0x20 < byte < 0x7F for byte in name)


def _check_fit(wanted: Mapping[str, tuple], checkpoint: Checkpoint, path: str | os.PathLike) -> None:
    """Compare names and shapes of a net with those of a checkpoint."""
    given = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    differing = [name for name in wanted if name in given and wanted[name] != given[name]]
    if not (missing or unexpected or differing):
        return
    if not (missing or unexpected):
        classes = {(given[name][:1], wanted[name][:1]) for name in differing}
        same_features = all(given[name][1:] == wanted[name][1:] for name in differing)
        if same_features and len(differing) <= 2 and len(classes) == 1:  # weight and bias of the classifier
            ((have,), (want,)) = classes.pop()
            raise UserError(
                f"checkpoint {path} has {have} classes, the model {want}: "
                f"give num_classes={have} or data with {have} classes, or a checkpoint with {want}"
            )
    if missing and not (unexpected or differing) and not checkpoint.meta:
        raise UserError(
            f"checkpoint {path} lacks {len(missing)} of {len(wanted)} parameters, first {missing[0]}: "
            "it was cut short or belongs to another model"
        )
    model = checkpoint.meta.get("model")
    of = f"{model}, " if model else ""
    details = [("lacks", missing), ("has unknown", unexpected), ("has other shapes for", differing)]
    said = ", ".join(f"{verb} {len(names)} (first {names[0]})" for verb, names in details if names)
    raise UserError(f"checkpoint {path} holds {of}another architecture: {said}; give the model it was trained with")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MindSpore logs what it raises as well; here the exception becomes the one message."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
