"""The model registry: every classifier, detector and segmentor is a function that builds a Cell, found by name."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping

from mindspore import nn

from acmix_ms.errors import UserError, closest

from . import manifest

# Classes of a model that is asked for without their number: of ImageNet, COCO and ADE20K.
CLASSES = {"classification": 1000, "detection": 80, "segmentation": 150}

_BUILDERS: dict[str, Callable[..., nn.Cell]] = {}
_TASKS: dict[str, str] = {}  # of those that are no classifiers


def import_families() -> None:
    """Know all models: a family registers its own when it is imported."""
    from . import competitors, deit, pvt, resnet, san, swin  # noqa: F401
    from .detection import registered as detectors  # noqa: F401
    from .segmentation import registered as segmentors  # noqa: F401


def register_model(
    builder: Callable[..., nn.Cell] | None = None, *, task: str = "classification"
) -> Callable[..., nn.Cell]:
    """Decorator: make ``builder(num_classes=..., **kwargs) -> Cell`` available under its function name.

    ``@register_model`` alone is for classifiers, ``@register_model(task="detection")`` for detectors, and so on.
    """
    if task not in CLASSES:
        raise ValueError(f"register_model: task={task!r}: choose from {', '.join(CLASSES)}")
    if builder is None:
        return functools.partial(register_model, task=task)
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"register_model: {name!r} is registered already, by {_BUILDERS[name].__module__}")
    _BUILDERS[name] = builder
    if task != "classification":
        _TASKS[name] = task
    return builder


def list_models(pattern: str = "*", *, task: str | None = None, pretrained: bool = False) -> list[str]:
    """Registered names that match an fnmatch ``pattern`` such as ``"acmix_*"``, sorted.

    Args:
        pattern: of the names.
        task: only models for it, one of `CLASSES`; all of them where it is None.
        pretrained: only those of which weights were released: see ``docs/weights.md``.

    Raises:
        UserError: unknown task.
    """
    if task is not None and task not in CLASSES:
        raise UserError(f"task={task!r}: {closest(str(task), CLASSES)}")
    import_families()
    names = [name for name in sorted(fnmatch.filter(_BUILDERS, pattern)) if task in (None, _task(name))]
    return [name for name in names if manifest.releases(name)] if pretrained else names


def model_task(name: str) -> str:
    """What a registered model is for, one of `CLASSES`.

    Raises:
        UserError: unknown name (the nearest ones are listed).
    """
    _require(name)
    return _task(name)


def _task(name: str) -> str:
    return _TASKS.get(name, "classification")


def _require(name: str) -> None:
    import_families()
    if name not in _BUILDERS:
        raise UserError(f"unknown model {name!r}: {closest(name, _BUILDERS)}")


def create_model(
    name: str, num_classes: int | None = None, *, pretrained: bool | str | os.PathLike = False, **kwargs
) -> nn.Cell:
    """Build a registered model.

    Args:
        name: one of `list_models()`.
        num_classes: size of the classifier, or kinds of objects or of pixels, at least 1. By default that of the
            pretrained weights, or 1000, of a detector 80, of a segmentor 150.
        pretrained: weights to start from: a ``.ckpt`` or ``.safetensors`` file of this project, or True for official
            ones that `scripts/convert_torch.py` has converted (nothing is downloaded). A classifier of another size
            stays as it was drawn, which a warning says; position tables of another size are resized.
        kwargs: passed to the model (``features_only``, ``drop_path_rate``, ``shift``, ``mix``, ...).

    Raises:
        UserError: unknown name (the nearest ones are listed), an argument the model does not take, or weights that
            are not there or do not fit.
    """
    _require(name)
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise UserError(f"num_classes={num_classes!r}: give an integer of at least 1")
    if not pretrained:
        return _build(name, num_classes or CLASSES[_task(name)], kwargs)
    from .pretrained import read_pretrained, take_over  # the engine, which plain models do not need

    saved, path = read_pretrained(name, pretrained)
    net = _build(name, num_classes or saved.meta.get("num_classes") or CLASSES[_task(name)], kwargs)
    take_over(net, saved, path)
    return net


def _build(name: str, num_classes: int, kwargs: dict) -> nn.Cell:
    try:
        return _BUILDERS[name](num_classes=num_classes, **kwargs)
    except UserError as error:
        raise UserError(f"model {name!r}: {error}") from error
    except TypeError as error:
        if "keyword argument" in str(error):
            raise UserError(f"model {name!r} does not take this argument: {error}") from error
        raise


class UnknownArgument(UserError):
    """A keyword argument that a model does not take; ``known`` are those that it takes."""

    def __init__(self, name: str, value: object, known: Iterable[str]):
        super().__init__(f"does not take this argument: {name}={value!r}; it takes {', '.join(sorted(known))}")
        self.name, self.value, self.known = name, value, frozenset(known)


def split_arguments(
    given: Mapping[str, object], net: type, operator: type | None = None, *, without: tuple[str, ...] = ()
) -> tuple[dict, dict]:
    """Which keyword arguments of a model go to its net, and which to its operators.

    Args:
        given: what the caller of `create_model` gave.
        net, operator: classes whose arguments these may be (of the operator the keyword-only ones: the net gives it its
            sizes); the first that has a name gets it.
        without: arguments of theirs that the model itself sets.

    Raises:
        UserError: an unknown name (`UnknownArgument`); a value that cannot be of the annotated kind.
    """
    takers = [
        {
            name: parameter.annotation
            for name, parameter in inspect.signature(taker.__init__).parameters.items()
            if name not in ("self", "num_classes", *without)
            and (taker is net or parameter.kind is inspect.Parameter.KEYWORD_ONLY)
        }
        for taker in (net, operator)
        if taker
    ]
    parts: tuple[dict, dict] = ({}, {})
    for name, value in given.items():
        place = next((i for i, taker in enumerate(takers) if name in taker), None)
        if place is None:
            raise UnknownArgument(name, value, {known for taker in takers for known in taker})
        wanted = _wanted(name, value, takers[place][name])
        if wanted:
            raise UserError(f"{name}={value!r}: give {wanted}")
        parts[place][name] = value
    return parts


def _wanted(name: str, value: object, annotation: str) -> str | None:
    """What has to be given instead of a value; None if it may be right. ``annotation``: as the source has it."""
    sides = re.fullmatch(r"tuple\[(int(?:, int)*)\]", annotation)
    if sides:
        count = sides.group(1).count("int")
        good = isinstance(value, (list, tuple)) and len(value) == count and all(map(_counts, value))
        return None if good else f"{count} integers of at least 1"
    if annotation == "int":
        return None if _counts(value) else "an integer of at least 1"
    if annotation == "bool":
        return None if isinstance(value, bool) else "true or false"
    if annotation == "float":
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if "drop" in name:
            return None if number and value < 1 else "a rate from 0 to below 1"
        return None if number and value > 0 else "a finite number above 0"
    return None


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
