"""Nested values become a `Config`: every key is known, of its type, within its range, and goes with the others."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from acmix_ms.config.migrations import migrate
from acmix_ms.config.schema import (
    LARGEST_INT,
    CanvasConfig,
    Config,
    KnownArguments,
    OptimConfig,
    SegmentsConfig,
    keys,
    section_of,
)
from acmix_ms.config.text import Plain, require_text, resolve, shown
from acmix_ms.errors import UserError, closest

# Sections that other tasks do not have, and data without one class for an image.
SECTIONS = {"augment": ("classification",), "canvas": ("detection", "segmentation"), "segments": ("segmentation",)}
DATA = {"coco": ("detection",), "shapes": ("detection", "segmentation")}
DATA.update(ade20k=("segmentation",), pairs=("segmentation",))
CANVAS_STEP = 32  # pixels: the largest stride of a backbone


def from_dict(values: Mapping[str, Any]) -> Config:
    """A checked `Config` from nested values.

    Raises:
        UserError: unknown key, wrong type, value out of range, or two that exclude each other; one line each.
    """
    values = migrate(values, "configuration")
    check_keys(values, "configuration")
    config = _build(values, Config, "")
    _check_optim(config.optim)
    _check_task(config)
    _check_weights(config)
    _check_kwargs(config.model.kwargs)
    return config


def check_keys(values: Any, source: str, schema: type = Config, prefix: str = "") -> None:
    """Raise UserError for a key that does not exist, or a section that is none."""
    known = {item.name: section_of(item) for item in dataclasses.fields(schema)}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in known:
            raise UserError(f"{source}: unknown key {shown(name)}: {_nearest(name)}")
        section = known[key]
        if section is None:
            continue
        if not isinstance(value, Mapping):
            example, _ = next(keys(section, f"{name}."))
            raise UserError(f"{source}: {name} is a section: give {name}.<key>, such as {example}")
        check_keys(value, source, section, f"{name}.")


def _nearest(name: str) -> str:
    """A hint for a wrong key; the last word also counts alone, so that ``lr`` finds ``optim.lr``."""
    every = [key for key, _ in keys()]
    same_leaf = [key for key in every if key.rpartition(".")[2] == name.rpartition(".")[2]]
    near = same_leaf or difflib.get_close_matches(name[:100], every, n=1, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(key) for key in near) + "?"
    return "the sections are " + ", ".join(item.name for item in dataclasses.fields(Config) if section_of(item))


def _build(values: Mapping[str, Any], schema: type, prefix: str) -> Any:
    """One dataclass, its sections first."""
    found = {}
    for item in dataclasses.fields(schema):
        if item.name not in values:
            continue
        name, value, section = f"{prefix}{item.name}", values[item.name], section_of(item)
        if section:
            found[item.name] = _build(value, section, f"{name}.")
        else:
            found[item.name] = _within(_typed(value, item.type, name), item, name)
    return schema(**found)


def _typed(value: Any, kind: Any, name: str) -> Any:
    """``value`` as the annotation ``kind`` wants it."""
    origin, inside = get_origin(kind), get_args(kind)
    meant = resolve(value) if isinstance(value, Plain) else value
    if isinstance(value, str):
        require_text(value, name)
    if origin is Union:  # Optional
        return None if meant is None else _typed(value, inside[0], name)
    if kind is str and isinstance(value, (str, os.PathLike)) and meant is not None:
        return require_text(os.fspath(value), name)
    if kind is bool and isinstance(meant, bool):
        return meant
    if kind in (int, float) and isinstance(meant, (int, float)) and not isinstance(meant, bool):
        return _number(meant, kind, name)
    if origin is list and isinstance(value, (list, tuple)):
        return [_typed(item, inside[0], f"{name}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return _anything(value, name)
    raise UserError(f"{name}={shown(value)}: must be {_WORDS[origin or kind]}{_null(meant)}")


_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list of numbers",
          dict: "a section of arguments, such as {drop_path_rate: 0.1}"}  # fmt: skip


def _null(meant: Any) -> str:
    return ", not null" if meant is None else ""


def _number(value: float, kind: type, name: str) -> float:
    if not math.isfinite(value):
        raise UserError(f"{name}={value}: must be finite")
    if kind is float:
        return float(value)
    if not isinstance(value, int):
        raise UserError(f"{name}={value}: must be a whole number")
    if abs(value) > LARGEST_INT:
        raise UserError(f"{name}={value}: must be within +-{LARGEST_INT}")
    return value


def _anything(value: Any, name: str) -> Any:
    """What a key without a type of its own may hold: numbers, texts, lists and dicts of them."""
    meant = resolve(value) if isinstance(value, Plain) else value
    if isinstance(meant, str):
        return require_text(meant, name)
    if isinstance(meant, (int, float)) and not isinstance(meant, bool):
        return _number(meant, type(meant), name)
    if isinstance(meant, (list, tuple)):
        return [_anything(item, f"{name}[{i}]") for i, item in enumerate(meant)]
    if isinstance(meant, Mapping):
        return {require_text(key, name): _anything(item, f"{name}.{key}") for key, item in meant.items()}
    if meant is None or isinstance(meant, bool):
        return meant
    raise UserError(f"{name}={shown(value)}: must be a number, a text, true, false, null, a list or a section of them")


_SYMBOLS = {
    ">=": lambda value, bound: value >= bound,
    ">": lambda value, bound: value > bound,
    "<=": lambda value, bound: value <= bound,
    "<": lambda value, bound: value < bound,
}


def bounds_of(item: dataclasses.Field) -> dict[str, float]:
    """The range of a field: its symbols and their bounds."""
    return {symbol: item.metadata[symbol] for symbol in _SYMBOLS if item.metadata.get(symbol) is not None}


def _within(value: Any, item: dataclasses.Field, name: str) -> Any:
    """``value``, held against the bounds and choices written beside its key."""
    choices, bounds = item.metadata.get("choices"), bounds_of(item)
    if choices and value not in choices:
        raise UserError(f"{name}={shown(value)}: {closest(value[:100], choices)}")
    for one in value if isinstance(value, list) else [value]:
        if one is not None and not all(_SYMBOLS[symbol](one, bound) for symbol, bound in bounds.items()):
            wanted = " and ".join(f"{symbol} {bound}" for symbol, bound in bounds.items())
            raise UserError(f"{name}={value}: must be {wanted}")
    return value


def _check_optim(optim: OptimConfig) -> None:
    """What one bound alone cannot say."""
    if len(optim.betas) != 2:
        raise UserError(f"optim.betas={optim.betas}: give two numbers in [0, 1), such as [0.9,0.999]")
    if optim.min_lr > optim.lr:
        raise UserError(f"optim.min_lr={optim.min_lr}: must be <= optim.lr={optim.lr}")
    length, warmup = ("iterations" if optim.iterations else "epochs"), None
    if optim.iterations and optim.warmup_iterations is not None:
        warmup = "warmup_iterations"
    elif not optim.iterations and optim.warmup_iterations is None:
        warmup = "warmup_epochs"
    # Of different units: `acmix_ms.engine.optim.total_steps` sees to it, which knows how long an epoch is.
    if warmup and getattr(optim, warmup) > getattr(optim, length):
        value, most = getattr(optim, warmup), getattr(optim, length)
        raise UserError(f"optim.{warmup}={value}: must be <= optim.{length}={most}")
    if optim.schedule != "step":
        return
    stones = optim.milestones
    if not stones or stones != sorted(set(stones)) or stones[-1] >= getattr(optim, length):
        raise UserError(
            f"optim.milestones={stones}: optim.schedule=step needs one or several, growing, below "
            f"optim.{length}={getattr(optim, length)}"
        )


def _check_task(config: Config) -> None:
    """What belongs to another task would be ignored."""
    for name, tasks in SECTIONS.items():
        section = getattr(config.data, name)
        for item in dataclasses.fields(section) if config.task not in tasks else ():
            value = getattr(section, item.name)
            if value != getattr(type(section)(), item.name):
                needs = " or ".join(tasks)
                raise UserError(f"data.{name}.{item.name}={shown(value)}: is for task={needs}; leave it out")
    tasks = DATA.get(config.data.name, (config.task,))
    if config.task not in tasks:
        raise UserError(f"data.name={config.data.name}: is for task={' or '.join(tasks)}; give task={tasks[0]}")
    _check_segments(config.data.segments, config.data.canvas)
    _check_canvas(config.data.canvas)


def _check_canvas(canvas: CanvasConfig) -> None:
    """What one bound alone cannot say; which keys are needed is known where the data are read."""
    for name in ("height", "width"):
        side = getattr(canvas, name)
        if side is not None and side % CANVAS_STEP:
            raise UserError(f"data.canvas.{name}={side}: must be a multiple of {CANVAS_STEP}, by which nets divide it")
    if canvas.height and canvas.width and canvas.height > canvas.width:
        raise UserError(
            f"data.canvas.height={canvas.height}: must be <= data.canvas.width={canvas.width}; images that are higher "
            "than wide get the canvas turned"
        )
    if canvas.max_side and canvas.short_sides and canvas.max_side < max(canvas.short_sides):
        raise UserError(
            f"data.canvas.max_side={canvas.max_side}: must be >= the largest of "
            f"data.canvas.short_sides={canvas.short_sides}"
        )


def _check_segments(segments: SegmentsConfig, canvas: CanvasConfig) -> None:
    """What one bound alone cannot say."""
    scales = segments.scales
    if len(scales) != 2 or scales[0] > scales[1]:
        raise UserError(f"data.segments.scales={scales}: give two numbers, the least and the most, such as [0.5,2.0]")
    if not segments.test_scales:
        raise UserError("data.segments.test_scales=[]: give one or several numbers, such as [1.0]")
    least = min(canvas.height or LARGEST_INT, canvas.width or LARGEST_INT)
    if segments.stride and segments.stride > least:
        raise UserError(
            f"data.segments.stride={segments.stride}: must be <= data.canvas.height={canvas.height}, the side of the "
            "windows, which would leave gaps"
        )


def _check_weights(config: Config) -> None:
    """A net starts from one file."""
    given = config.model.backbone_checkpoint
    if given is None:
        return
    if config.task == "classification":
        raise UserError(
            f"model.backbone_checkpoint={shown(given)}: is for task=detection or segmentation; "
            "give model.init_checkpoint"
        )
    if config.model.init_checkpoint is not None:
        raise UserError(
            f"model.backbone_checkpoint={shown(given)}: goes not with "
            f"model.init_checkpoint={shown(config.model.init_checkpoint)}, which has a backbone too; leave one out"
        )


def _check_kwargs(kwargs: dict[str, Any]) -> None:
    """What has a key of its own or would not train, and what no model can take."""
    for name, remedy in (
        ("name", "give model.name"),
        ("num_classes", "give model.num_classes"),
        ("features_only", "training needs logits; leave it out"),
    ):
        if name in kwargs:
            raise UserError(f"model.kwargs.{name}={shown(kwargs[name])}: {remedy}")
    for item in dataclasses.fields(KnownArguments):
        if item.name in kwargs:
            name = f"model.kwargs.{item.name}"
            _within(_typed(kwargs[item.name], item.type, name), item, name)
