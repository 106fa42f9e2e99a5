"""Nets that are built around a backbone of the zoo, detectors and segmentors: how a name becomes one.

Keyword arguments go to the net (``channels``, ...) or, all others, to its backbone (``drop_path_rate``, ``shift``,
``mix``, ...).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

from mindspore import nn

from .registry import CLASSES, UnknownArgument, register_model, split_arguments
from .resnet import operator_resnet, plain_resnet

# For images of about 128x128; with the usual stem, so that there are maps of strides 4, 8, 16 and 32.
SHAPES = {"depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128), "stem": "imagenet"}


def resnet_shapes(num_classes: int, **kwargs):
    """A small plain ResNet of strides 4 to 32."""
    return plain_resnet(num_classes, SHAPES, **kwargs)


def acmix_resnet_shapes(num_classes: int, **kwargs):
    """A small ResNet-ACmix of strides 4 to 32."""
    return operator_resnet(num_classes, SHAPES, {}, **kwargs)


# First part of the names, the kind of net, its backbones by the ends of the names, and what differs from the settings
# of the kind.
Family = tuple[str, type, tuple[Callable, ...], dict]


def own_arguments(kind: type) -> tuple[str, ...]:
    """Names of the keyword arguments of a kind of net, beside those of its backbone."""
    found = inspect.signature(kind.__init__).parameters.values()
    return tuple(each.name for each in found if each.kind is inspect.Parameter.KEYWORD_ONLY)


def build(kind: type, backbone: Callable, settings: dict, num_classes: int, kwargs: dict) -> nn.Cell:
    """A net of a kind on a backbone, with ``kwargs`` split among both.

    Raises:
        UserError: an argument that neither takes, or a value that cannot be right.
    """
    own = own_arguments(kind)
    mine, _ = split_arguments({k: v for k, v in kwargs.items() if k in own}, kind, without=("backbone",))
    rest = {name: value for name, value in kwargs.items() if name not in own}
    if "features_only" in rest:
        raise UnknownArgument("features_only", rest["features_only"], own)
    try:
        net = backbone(num_classes, features_only=True, **rest)
    except UnknownArgument as error:
        known = {*own, *error.known} - {"features_only"}
        raise UnknownArgument(error.name, error.value, known) from error
    return kind(net, num_classes, **{**settings, **mine})


def _builder(name: str, kind: type, backbone: Callable, settings: dict, task: str) -> Callable[..., nn.Cell]:
    def made(num_classes: int = CLASSES[task], **kwargs) -> nn.Cell:
        return build(kind, backbone, settings, num_classes, kwargs)

    sizes = ", ".join(f"{key} {value}" for key, value in settings.items())
    made.__name__ = made.__qualname__ = name
    made.__doc__ = f"{kind.__name__} on `{backbone.__name__}`{f', with {sizes}' if sizes else ''}."
    return made


def register_families(families: Iterable[Family], task: str) -> None:
    """Make every net of some families known by its name."""
    for head, kind, backbones, settings in families:
        for backbone in backbones:
            name = f"{head}_{backbone.__name__}".replace("_resnet_shapes", "_shapes")
            register_model(_builder(name, kind, backbone, settings, task), task=task)
