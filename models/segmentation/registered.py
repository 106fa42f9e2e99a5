"""The segmentors of the paper's Table 2, and small ones for generated shapes: every name, and what it is made of.

How arguments are shared between a segmentor and its backbone: `models.composed`.
"""

from __future__ import annotations

from ..composed import Family, acmix_resnet_shapes, register_families, resnet_shapes
from ..pvt import acmix_pvt_small, acmix_pvt_tiny, pvt_small, pvt_tiny
from ..resnet import acmix_resnet50, resnet50
from ..swin import acmix_swin_small, acmix_swin_tiny, swin_small, swin_tiny
from .semantic_fpn import SemanticFPN
from .upernet import UPerNet

ON_PYRAMID = (pvt_tiny, pvt_small, acmix_pvt_tiny, acmix_pvt_small, resnet50, acmix_resnet50)
ON_POOLING = (swin_tiny, swin_small, acmix_swin_tiny, acmix_swin_small)
SEGMENTORS: tuple[Family, ...] = (
    ("semantic_fpn", SemanticFPN, ON_PYRAMID, {}),
    ("semantic_fpn", SemanticFPN, (resnet_shapes, acmix_resnet_shapes), {"channels": 64, "head_channels": 64}),
    ("upernet", UPerNet, ON_POOLING, {}),
    ("upernet", UPerNet, (acmix_resnet_shapes,), {"channels": 32, "auxiliary_channels": 32}),
)

register_families(SEGMENTORS, "segmentation")
