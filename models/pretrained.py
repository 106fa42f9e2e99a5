"""Weights that somebody else has trained: official PyTorch ones brought to our names, and what `create_model` loads."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.backbone import layout
from acmix_ms.engine import checkpoint, finetune
from acmix_ms.errors import UserError

from . import manifest

logger = logging.getLogger(__name__)

# MindSpore's names for the parameters of norms; everything else is named alike.
TORCH_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# What official state dicts hold beside parameters; our Cells compute these from sizes.
BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")
LISTED = 20


def torch_name(name: str) -> str:
    """Official name of one of our parameters: ``bn1.gamma`` -> ``bn1.weight``."""
    head, _, last = name.rpartition(".")
    last = TORCH_NAMES.get(last, last)
    return f"{head}.{last}" if head else last


def _listing(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [f"{len(names)} {title}: {', '.join(names[:LISTED])}{more}"]


def _as_weights(name: str, value: np.ndarray) -> np.ndarray:
    """The value of a key of a state dict in float32.

    Raises:
        UserError: it is not of real numbers, or some of them are nan, infinite or too large for float32.
    """
    if value.dtype.kind not in "fiu":
        raise UserError(f"state dict: {name} is of type {value.dtype}; give real numbers, such as float32")
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    bad = value.size - int(np.isfinite(value).sum())
    if bad:
        raise UserError(
            f"state dict: {name} is nan or infinite in {bad} of {value.size} values; give weights of a good training"
        )
    return value


def load_torch_state(net: nn.Cell, state: Mapping[str, np.ndarray], *, drop_head: bool = False) -> list[str]:
    """Load an official PyTorch state dict into a model of this zoo or into a bare `ACmix` / `WindowACmix`.

    Nothing is loaded unless everything fits.

    Args:
        net: the Cell.
        state: official names -> arrays (ACmix-ResNet, ACmix-Swin, torchvision ResNet, official Swin, mmdetection for a
            detector and mmsegmentation for a segmentor, with the official backbone's names within, or the official
            operator's own names for a bare Cell). Buffers that our Cells compute themselves are ignored.
        drop_head: leave the classifier, of a detector what depends on ``num_classes``, as it is where the state has
            none that fits (another ``num_classes``, or ``features_only=True``); what is left out is logged.

    Returns:
        Names (official) that were dropped or stay as initialised because of ``drop_head``.

    Raises:
        UserError: (a ValueError) missing, unexpected and mis-shaped keys, listed; a key whose values are complex, nan
            or infinite.
    """
    state = translated(net, state)
    parameters = {torch_name(p.name): p for p in net.get_parameters()}
    arrays = {name: np.asarray(value) for name, value in state.items() if name.rpartition(".")[2] not in BUFFERS}
    missing = [name for name in parameters if name not in arrays]
    unexpected = [name for name in arrays if name not in parameters]
    misshaped = [n for n, p in parameters.items() if n in arrays and arrays[n].shape != tuple(p.shape)]
    dropped: list[str] = []
    if drop_head:
        heads = layout(net).head_names
        dropped = [name for name in missing + unexpected + misshaped if finetune.belongs(name, heads)]
        if dropped:
            logger.warning("the head was dropped, these stay as initialised or unused: %s", ", ".join(dropped))

    def kept(names: list[str]) -> list[str]:
        return [name for name in names if name not in dropped]

    shapes = [f"{n} {arrays[n].shape} instead of {tuple(parameters[n].shape)}" for n in kept(misshaped)]
    problems = _listing("missing", kept(missing)) + _listing("unexpected", kept(unexpected))
    problems += _listing("of another shape", shapes)
    if problems:
        hint = "" if drop_head else " (drop_head=True leaves out a classifier of another num_classes)"
        raise UserError(f"state dict does not fit {type(net).__name__}: {'; '.join(problems)}{hint}")
    taken = {name: _as_weights(name, arrays[name]) for name in parameters if name not in dropped}
    for name, value in taken.items():
        runtime.assign(parameters[name], value)
    return dropped


def translated(net: nn.Cell, state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The state with our names, which each Cell with a ``translate_official`` gives to its own part of it."""
    for name, cell in net.cells_and_names():
        if hasattr(cell, "translate_official"):
            prefix = f"{name}." if name else ""
            own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
            others = {key: value for key, value in state.items() if not key.startswith(prefix)}
            state = {**others, **{prefix + key: value for key, value in cell.translate_official(own).items()}}
    return state


# Where a state dict shows how many classes it is for: rows for each, and rows for background.
CLASS_ROWS = {
    "fc.weight": (1, 0),
    "head.weight": (1, 0),
    "bbox_head.retina_cls.weight": (9, 0),  # one for each anchor
    "roi_head.bbox_head.fc_cls.weight": (1, 1),
    "roi_head.bbox_head.0.fc_cls.weight": (1, 1),  # of a cascade the first stage
    "decode_head.conv_seg.weight": (1, 0),
}


def count_classes(state: Mapping[str, np.ndarray]) -> int | None:
    """How many classes an official state dict is for; None where nothing tells."""
    for name, (each, background) in CLASS_ROWS.items():
        if name in state:
            rows = len(state[name]) - background
            return rows // each if rows > 0 and rows % each == 0 else None
    return None


# ------------------------------------------------------------------------------------------------- create_model(...)
def read_pretrained(model: str, pretrained: bool | str | os.PathLike) -> tuple[checkpoint.Checkpoint, Path]:
    """What ``create_model(model, pretrained=...)`` starts from, and its file.

    Args:
        model: a registered name.
        pretrained: a ``.ckpt`` or ``.safetensors`` file of this project, or True for the converted official weights,
            ``<model>.safetensors`` in `runtime.weights_folder`. Nothing is downloaded.

    Raises:
        UserError: no such file, with where to get it and how to convert it; no weights were released; see
            `checkpoint.read`.
    """
    if pretrained is not True:
        return checkpoint.read(pretrained), Path(pretrained)
    path = manifest.cached(model)
    if path.is_file():
        return checkpoint.read(path), path
    released = manifest.releases(model)
    if not released:
        have = ", ".join(sorted({release.model for release in manifest.RELEASES}))
        raise UserError(
            f"pretrained=True: no weights of {model} were released, and {path} does not exist; "
            f"give pretrained=FILE, or a model that has some: {have}"
        )
    where = f"{released[0].url}{f' or {released[0].also}' if released[0].also else ''}"
    raise UserError(f"pretrained=True: {path} does not exist; download {where} and run: {released[0].command()}")


def take_over(net: nn.Cell, saved: checkpoint.Checkpoint, path: Path) -> None:
    """Give ``net`` the weights that `read_pretrained` has read; what is not taken as it is, is logged as a warning.

    Raises:
        UserError: as `finetune.take_over`; or the file has official names, and is to be converted first.
    """
    parameters = net.parameters_dict()
    official = {torch_name(name) for name in parameters} - set(parameters)
    if not saved.meta and official & set(saved.weights):
        raise UserError(
            f"pretrained={path} has PyTorch's names: convert it with python scripts/convert_torch.py --input {path}"
        )
    for line in finetune.take_over(net, saved, path):
        logger.warning("%s", line)
