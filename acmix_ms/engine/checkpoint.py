"""Checkpoints: written whole or not at all, and read with every doubt spoken out.

A file is an ordinary MindSpore ``.ckpt``. Weights stand under their plain names, so ``ms.load_checkpoint`` and
``ms.load_param_into_net`` read it; what else a run needs stands in entries that begin with ``train_state.``, first of
all ``train_state.meta``: JSON with step, epoch, configuration, format version and a checksum over everything.
It comes first, so that a file that was cut between two entries is known to be ours. Reading is `ckpt_file`'s, nothing
of a file reaches MindSpore before the checksum was found right.

``.safetensors`` files are written and read as well, for weights that are passed on: the same entries, and the JSON in
the file's own metadata, under ``acmix``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import safetensors
import safetensors.numpy
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.engine import ckpt_file, run_dir
from acmix_ms.errors import UserError
from acmix_ms.files import replacing, require_checkpoint, sync

FORMAT_VERSION = 1
STATE_PREFIX = "train_state."
META = STATE_PREFIX + "meta"
SAFETENSORS, SAFETENSORS_META = ".safetensors", "acmix"
DESCRIPTION_WORDS = (b'"format_version"', b'"checksum"')
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
    parameters = named_parameters(net)
    _check_fit({name: tuple(p.shape) for name, p in parameters.items()}, checkpoint, path)
    for name, parameter in parameters.items():
        runtime.assign(parameter, checkpoint.weights[name])


def named_parameters(net: nn.Cell) -> dict[str, ms.Parameter]:
    """The parameters of a net by their place in it: a part of a larger net has the names that it has alone."""
    return dict(net.parameters_and_names())


def _array(value) -> np.ndarray:
    return np.asarray(value.asnumpy() if isinstance(value, ms.Tensor) else value, order="C")  # as safetensors needs it


def _checksum(entries: Mapping[str, np.ndarray], meta: Mapping) -> str:
    """SHA-256 over names, types, shapes and bytes of all entries and over the other meta data."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(entries):
        value = entries[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _parse_meta(header: bytes, entries: Mapping[str, np.ndarray], path: Path) -> dict:
    """The description; of all that it says, the checksum is looked at first, after the version that tells how."""
    try:
        meta = json.loads(header)
        expected, version = meta.pop("checksum"), meta["format_version"]
        if type(version) is not int or not 0 < version < 1000:
            raise ValueError(f"no version: {version}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
    entries = ckpt_file.read(path)
    header = entries.pop(META, None)
    if header is None:
        texts = [value.tobytes() for value in entries.values() if value.dtype == np.uint8 and value.ndim == 1]
        _refuse_lost_description(entries, texts, path)
    return entries, None if header is None else header.tobytes()


def _of_mindspore(value: np.ndarray) -> np.ndarray:
    return value.view(ckpt_file.bfloat16()) if value.dtype.name == "bfloat16" else value


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], bytes | None]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            entries = {name: _of_mindspore(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    # Types and shapes that NumPy does not have are other errors than damage.
    except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
        said = "".join(filter(str.isprintable, str(error)))[:150]
        cut = any(word in said.lower() for word in ("incomplete", "small", "cover"))
        what = "is truncated" if cut else "is not a safetensors file that can be read"
        raise UserError(f"checkpoint {path} {what} ({said}); take another copy") from error
    if not all(0 < len(name) <= ckpt_file.MAX_NAME and name.isprintable() for name in entries):
        raise UserError(f"checkpoint {path} is damaged: a name is no text; take another copy")
    header = metadata.get(SAFETENSORS_META)
    if header is None:
        _refuse_lost_description(entries, [text.encode() for text in metadata.values()], path)
    return entries, None if header is None else header.encode()


def _refuse_lost_description(names: Iterable[str], texts: Iterable[bytes], path: Path) -> None:
    """A file of ours whose description has lost its name must not pass for one of others, which is not checked.

    Args:
        names: of the entries; those of training states, or nearly so, are of ours only.
        texts: what could be the description under another name.
    """
    heads = [name[: len(STATE_PREFIX)] for name in names if len(name) > len(STATE_PREFIX)]
    of_state = any(sum(a != b for a, b in zip(head, STATE_PREFIX)) <= 2 for head in heads)
    if of_state or any(word in text for text in texts for word in DESCRIPTION_WORDS):
        raise UserError(f"checkpoint {path} is damaged: its description is missing; take another copy")


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
