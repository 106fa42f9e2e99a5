"""The detectors of the paper's Tables 3 and 4, and small ones for generated shapes: every name, and what it is made of.

Keyword arguments go to the detector (``channels``, ``stacked``, ``num_proposals``, ...) or, all others, to its backbone
(``drop_path_rate``, ``shift``, ``mix``, ...).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from ..competitors import sasa_resnet50
from ..pvt import acmix_pvt_small, acmix_pvt_tiny, pvt_large, pvt_small, pvt_tiny
from ..registry import CLASSES, UnknownArgument, register_model, split_arguments
from ..resnet import acmix_resnet26, acmix_resnet38, acmix_resnet50, operator_resnet, plain_resnet, resnet50
from ..san import acmix_san19, san19
from ..swin import acmix_swin_small, acmix_swin_tiny, swin_small, swin_tiny
from .base import Detector
from .mask_rcnn import CascadeMaskRCNN, MaskRCNN
from .retinanet import RetinaNet

# For images of about 128x128; with the usual stem, so that there are maps of strides 8, 16 and 32.
SHAPES = {"depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128), "stem": "imagenet"}


def resnet_shapes(num_classes: int, **kwargs):
    """A small plain ResNet of strides 4 to 32."""
    return plain_resnet(num_classes, SHAPES, **kwargs)


def acmix_resnet_shapes(num_classes: int, **kwargs):
    """A small ResNet-ACmix of strides 4 to 32."""
    return operator_resnet(num_classes, SHAPES, {}, **kwargs)


# Kind of detector, its backbones by the ends of their names, and what differs from mmdetection's settings.
SMALL = {"channels": 64, "stacked": 2}
SMALL_REGIONS = {"channels": 32, "hidden": 64, "mask_channels": 32, "num_proposals": 128, "num_candidates": (256, 128)}
SMALL_REGIONS.update(num_anchors=64, num_sampled=64, max_objects=8)
SWINS = (swin_tiny, swin_small, acmix_swin_tiny, acmix_swin_small)
DETECTORS: tuple[tuple[str, type[Detector], tuple[Callable, ...], dict], ...] = (
    (
        "retinanet",
        RetinaNet,
        (
            *(resnet50, sasa_resnet50, acmix_resnet26, acmix_resnet38, acmix_resnet50, san19, acmix_san19),
            *(pvt_tiny, pvt_small, pvt_large, acmix_pvt_tiny, acmix_pvt_small),
        ),
        {},
    ),
    ("retinanet", RetinaNet, (resnet_shapes, acmix_resnet_shapes), SMALL),
    ("mask_rcnn", MaskRCNN, (resnet50, *SWINS), {}),
    ("mask_rcnn", MaskRCNN, (acmix_resnet_shapes,), SMALL_REGIONS),
    ("cascade_mask_rcnn", CascadeMaskRCNN, SWINS, {}),
    ("cascade_mask_rcnn", CascadeMaskRCNN, (acmix_resnet_shapes,), {**SMALL_REGIONS, "box_channels": 32}),
)


def own_arguments(kind: type[Detector]) -> tuple[str, ...]:
    """Names of the keyword arguments of a detector, beside those of its backbone."""
    found = inspect.signature(kind.__init__).parameters.values()
    return tuple(each.name for each in found if each.kind is inspect.Parameter.KEYWORD_ONLY)


def build(kind: type[Detector], backbone: Callable, settings: dict, num_classes: int, kwargs: dict) -> Detector:
    """A detector of a kind on a backbone, with ``kwargs`` split among both.

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


def _builder(name: str, kind: type[Detector], backbone: Callable, settings: dict) -> Callable[..., Detector]:
    def detector(num_classes: int = CLASSES["detection"], **kwargs) -> Detector:
        return build(kind, backbone, settings, num_classes, kwargs)

    sizes = ", ".join(f"{key} {value}" for key, value in settings.items())
    detector.__name__ = detector.__qualname__ = name
    detector.__doc__ = f"{kind.__name__} on `{backbone.__name__}`{f', with {sizes}' if sizes else ''}."
    return detector


for _head, _kind, _backbones, _settings in DETECTORS:
    for _backbone in _backbones:
        _name = f"{_head}_{_backbone.__name__}".replace("_resnet_shapes", "_shapes")
        register_model(_builder(_name, _kind, _backbone, _settings), task="detection")
