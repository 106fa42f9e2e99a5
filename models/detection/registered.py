"""The detectors of the paper's Tables 3 and 4, and small ones for generated shapes: every name, and what it is made of.

How arguments are shared between a detector and its backbone: `models.composed`.
"""

from __future__ import annotations

from ..competitors import sasa_resnet50
from ..composed import Family, acmix_resnet_shapes, register_families, resnet_shapes
from ..pvt import acmix_pvt_small, acmix_pvt_tiny, pvt_large, pvt_small, pvt_tiny
from ..resnet import acmix_resnet26, acmix_resnet38, acmix_resnet50, resnet50
from ..san import acmix_san19, san19
from ..swin import acmix_swin_small, acmix_swin_tiny, swin_small, swin_tiny
from .mask_rcnn import CascadeMaskRCNN, MaskRCNN
from .retinanet import RetinaNet

# What differs from mmdetection's settings in small ones.
SMALL = {"channels": 64, "stacked": 2}
SMALL_REGIONS = {"channels": 32, "hidden": 64, "mask_channels": 32, "num_proposals": 128, "num_candidates": (256, 128)}
SMALL_REGIONS.update(num_anchors=64, num_sampled=64, max_objects=8)
SWINS = (swin_tiny, swin_small, acmix_swin_tiny, acmix_swin_small)
DETECTORS: tuple[Family, ...] = (
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

register_families(DETECTORS, "detection")
