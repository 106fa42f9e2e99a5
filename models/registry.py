"""The model registry: every backbone is a function that builds a Cell, found by name."""

import fnmatch
from collections.abc import Callable

from mindspore import nn

from acmix_ms.errors import UserError, closest

_BUILDERS: dict[str, Callable[..., nn.Cell]] = {}


def register_model(builder: Callable[..., nn.Cell]) -> Callable[..., nn.Cell]:
    """Decorator: make ``builder(num_classes=1000, **kwargs) -> Cell`` available under its function name."""
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"register_model: {name!r} is registered already, by {_BUILDERS[name].__module__}")
    _BUILDERS[name] = builder
    return builder


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match an fnmatch ``pattern`` such as ``"acmix_*"``, sorted."""
    return sorted(fnmatch.filter(_BUILDERS, pattern))


def create_model(name: str, num_classes: int = 1000, **kwargs) -> nn.Cell:
    """Build a registered model.

    Args:
        name: one of `list_models()`.
        num_classes: size of the classifier, at least 1.
        kwargs: passed to the model (``features_only``, ``drop_path_rate``, ``shift``, ``mix``, ...).

    Raises:
        UserError: unknown name (the nearest ones are listed), or an argument the model does not take.
    """
    if name not in _BUILDERS:
        raise UserError(f"unknown model {name!r}: {closest(name, _BUILDERS)}")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes={num_classes!r}: give an integer of at least 1")
    try:
        return _BUILDERS[name](num_classes=num_classes, **kwargs)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"model {name!r} does not take this argument: {error}") from error
        raise
