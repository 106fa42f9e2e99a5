"""Where configurations come from (files, command lines, checkpoints) and how they are written and compared."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acmix_ms.checkout import shipped
from acmix_ms.config import text as yaml_text
from acmix_ms.config.check import bounds_of, check_keys, from_dict
from acmix_ms.config.migrations import migrate
from acmix_ms.config.schema import Config, keys, section_of
from acmix_ms.config.text import Plain, require_text, resolve, shown, write
from acmix_ms.errors import UserError, closest

# What may differ between a run and its continuation without a word: it changes no step. (Another number of classes
# would not fit the weights.)
FREE_TO_CHANGE = (
    "model.num_classes",
    *("run_dir", "model.init_checkpoint", "model.backbone_checkpoint", "data.path", "data.workers"),
    *("runtime.device", "runtime.threads", "runtime.jit_level"),
    *("train.resume", "train.recompute", "train.log_every", "train.save_every_steps", "train.keep_checkpoints"),
    *("train.allow_changes", "train.events"),
)

# What people type for short on the command line.
SHORTHANDS = {"resume": "train.resume", "recompute": "train.recompute"}

LONGEST_CHAIN = 20  # files, each the base of the one before


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with its bases, apply ``key=value`` overrides, check everything.

    ``configs/...`` is also found where the working folder has no such file: among the project's own.

    Raises:
        UserError: missing or unreadable file, unknown key, wrong type, value out of range; one line each.
    """
    path = shipped(path)
    values = merge(_read(path, ()), _parse_overrides(overrides))
    config = from_dict(values)
    if config.run_dir is None:
        config.run_dir = os.path.join("runs", require_text(path.stem, "--config"))
    return config


def for_model(name: str, overrides: Sequence[str] = ()) -> Config:
    """The defaults for one model at ImageNet's image size, for commands that need no file."""
    values: dict[str, Any] = {"model": {"name": name}}
    if not name.endswith("_digits"):
        values["data"] = {"name": "imagefolder", "image_size": 224}
    return from_dict(merge(values, _parse_overrides(overrides)))


def from_text(text: str, overrides: Sequence[str] = ()) -> Config:
    """A configuration that `to_yaml` wrote, such as that of a checkpoint, with ``key=value`` overrides."""
    return from_dict(merge(_whole(text), _parse_overrides(overrides)))


def from_overrides(overrides: Sequence[str]) -> Config:
    """The defaults with ``key=value`` overrides."""
    return from_dict(_parse_overrides(overrides))


def dump(config: Config, path: str | os.PathLike) -> None:
    """Write the whole configuration as YAML that `load` reads back."""
    Path(path).write_text(to_yaml(config), encoding="utf-8")


def to_yaml(config: Config, *, comments: bool = False) -> str:
    """The whole configuration as YAML text; with ``comments`` beside each key its meaning and range."""
    return "\n".join(_lines(config, "", comments)) + "\n"


def _lines(section: Any, indent: str, comments: bool) -> list[str]:
    lines = []
    for item in dataclasses.fields(section):
        value, about = getattr(section, item.name), describe(item) if comments else ""
        nested = section_of(item) is not None
        line = f"{indent}{item.name}:" if nested else f"{indent}{item.name}: {write(value)}"
        lines.append(f"{line:<40}  # {about}" if about else line)
        if nested:
            lines += _lines(value, f"{indent}  ", comments)
    return lines


def describe_keys() -> list[str]:
    """A line for each key: its dotted name, its default, what it means."""
    about = {name: describe(item) for name, item in keys() if section_of(item) is None}
    return [f"{f'{name}={write(value)}':<42} {about[name]}".rstrip() for name, value in _flat(Config()).items()]


def describe(item: dataclasses.Field) -> str:
    """What a key means, and what it may be."""
    bounds = " and ".join(f"{symbol} {bound}" for symbol, bound in bounds_of(item).items())
    choices = " | ".join(item.metadata.get("choices", ()))
    return "; ".join(part for part in (choices or bounds, item.metadata.get("about")) if part)


def differences(before: str, config: Config) -> list[str]:
    """What a run with ``config`` would do otherwise than one with ``before``, YAML text: ``["optim.lr: 0.1 -> 0.2"]``.

    A text of an earlier version counts as what it means today.
    """
    old, new = _flat(from_text(before)), _flat(config)
    changed = [key for key in new if key not in FREE_TO_CHANGE and old[key] != new[key]]
    return [f"{key}: {old[key]} -> {new[key]}" for key in changed]


def _flat(section: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a configuration under dotted keys."""
    found = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        found.update(_flat(value, f"{prefix}{item.name}.") if section_of(item) else {f"{prefix}{item.name}": value})
    return found


def require_task(config: Config, *supported: str) -> None:
    """Raise UserError unless the task of ``config`` is one of those that a command supports."""
    if config.task not in supported:
        raise UserError(f"task={config.task}: not built yet; {closest(config.task, supported)}")


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Nested values, later ones over earlier ones; what is no dict is replaced as a whole."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def _whole(text: str) -> dict[str, Any]:
    source = "the configuration of the checkpoint"
    values = yaml_text.parse(text, source)
    values = migrate({} if values == "" else _require_lines(values, source), source, whole=True)
    check_keys(values, source)
    return values


def _require_lines(values: Any, source: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{source} must hold 'key: value' lines, not a list or a single value")
    return values


def _read(path: Path, parents: tuple[str, ...]) -> dict[str, Any]:
    """One YAML file merged over its bases. ``parents``: the files that led here, to notice a circle."""
    place = os.path.realpath(path)
    if place in parents:
        raise UserError(f"{path}: its base leads back to itself; remove one 'base' of the circle")
    if len(parents) > LONGEST_CHAIN:
        raise UserError(f"{path}: base of a base, {LONGEST_CHAIN} times; merge some of these files")
    try:
        values = yaml_text.read(path)
    except FileNotFoundError as error:
        named = f" (named as base of {parents[-1]})" if parents else ""
        raise UserError(f"configuration file {path} does not exist{named}{_suggest_config(path)}") from error
    values = _require_lines(values, f"configuration file {path}")
    bases = _bases(values.pop("base", []), path)
    values = migrate(values, str(path))
    check_keys(values, str(path))
    return merge(*[_read(path.parent / base, (*parents, place)) for base in bases], values)


def _bases(given: Any, path: Path) -> list[str]:
    bases = given if isinstance(given, list) else [given]
    for base in bases:
        if not isinstance(base, str) or not isinstance(resolve(base) if isinstance(base, Plain) else base, str):
            raise UserError(f"{path}: base must be a file name or a list of file names, not {shown(given)}")
        require_text(base, f"{path}: base")
    return bases


def _suggest_config(path: Path) -> str:
    folder = path.parent
    names = sorted(p.name for p in folder.glob("*.yaml")) if folder.is_dir() else []
    return f"; {closest(path.name, names)}" if names else ""


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["optim.lr=1e-3", "resume=true"]`` as nested values; later ones win."""
    merged: dict[str, Any] = {}
    for given in overrides:
        key, equals, text = (part.strip() for part in given.partition("="))
        if not equals or not key:
            raise UserError(f"argument {shown(given)}: give overrides as key=value, such as optim.lr=0.05")
        key = SHORTHANDS.get(key, key)
        if key.count(".") > yaml_text.DEEPEST:
            raise UserError(f"argument {shown(given)}: no key is that deep")
        values = yaml_text.parse(text, f"argument {shown(given)}")
        if isinstance(values, Plain):
            values = Plain(text)  # on a command line '#' begins no comment
        for part in reversed(key.split(".")):
            values = {part: values}
        values = migrate(values, "command line")
        check_keys(values, "command line")
        require_text(text, key)
        merged = merge(merged, values)
    return merged
