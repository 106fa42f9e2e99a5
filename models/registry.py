"""The model registry: every backbone is a function that builds a Cell, found by name."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable

from mindspore import nn

from acmix_ms.errors import UserError, closest

from . import manifest

_BUILDERS: dict[str, Callable[..., nn.Cell]] = {}


def import_families() -> None:
    """Know all models: a family registers its own when it is imported."""
    from . import competitors, deit, pvt, resnet, san, swin  # noqa: F401


def register_model(builder: Callable[..., nn.Cell]) -> Callable[..., nn.Cell]:
    """Decorator: make ``builder(num_classes=1000, **kwargs) -> Cell`` available under its function name."""
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"register_model: {name!r} is registered already, by {_BUILDERS[name].__module__}")
    _BUILDERS[name] = builder
    return builder


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Registered names that match an fnmatch ``pattern`` such as ``"acmix_*"``, sorted.

    With ``pretrained`` only those of which weights were released: see ``docs/weights.md``.
    """
    import_families()
    names = sorted(fnmatch.filter(_BUILDERS, pattern))
    return [name for name in names if manifest.releases(name)] if pretrained else names


def create_model(
    name: str, num_classes: int | None = None, *, pretrained: bool | str | os.PathLike = False, **kwargs
) -> nn.Cell:
    """Build a registered model.

    Args:
        name: one of `list_models()`.
        num_classes: size of the classifier, at least 1. By default that of the pretrained weights, or 1000.
        pretrained: weights to start from: a ``.ckpt`` or ``.safetensors`` file of this project, or True for official
            ones that `scripts/convert_torch.py` has converted (nothing is downloaded). A classifier of another size
            stays as it was drawn, which a warning says; position tables of another size are resized.
        kwargs: passed to the model (``features_only``, ``drop_path_rate``, ``shift``, ``mix``, ...).

    Raises:
        UserError: unknown name (the nearest ones are listed), an argument the model does not take, or weights that
            are not there or do not fit.
    """
    import_families()
    if name not in _BUILDERS:
        raise UserError(f"unknown model {name!r}: {closest(name, _BUILDERS)}")
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise UserError(f"num_classes={num_classes!r}: give an integer of at least 1")
    if not pretrained:
        return _build(name, num_classes or 1000, kwargs)
    from .pretrained import read_pretrained, take_over  # the engine, which plain models do not need

    saved, path = read_pretrained(name, pretrained)
    net = _build(name, num_classes or saved.meta.get("num_classes") or 1000, kwargs)
    take_over(net, saved, path)
    return net


def _build(name: str, num_classes: int, kwargs: dict) -> nn.Cell:
    try:
        return _BUILDERS[name](num_classes=num_classes, **kwargs)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"model {name!r} does not take this argument: {error}") from error
        raise
