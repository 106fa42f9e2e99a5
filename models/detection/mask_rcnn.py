"""Mask R-CNN (He et al. 2017) and Cascade Mask R-CNN (Cai and Vasconcelos 2018) with mmdetection's settings.

The cascade's are those of Swin's release: heads of four convolutions and a linear layer, GIoU.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from acmix_ms.backbone import Backbone

from .roi_heads import BoxHead, MaskHead, RoIHead
from .two_stage import OF_RPN, OF_STAGE, Stage, TwoStage

STAGE = Stage(0.5, (0.1, 0.1, 0.2, 0.2))
CASCADE = (
    Stage(0.5, (0.1, 0.1, 0.2, 0.2), 1.0),
    Stage(0.6, (0.05, 0.05, 0.1, 0.1), 0.5),
    Stage(0.7, (0.033, 0.033, 0.067, 0.067), 0.25),
)

OF_CLASSES = ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits")  # layers that another number changes


class MaskRCNN(TwoStage):
    """Mask R-CNN, see `TwoStage`.

    Args:
        backbone, num_classes, channels: see `TwoStage`.
        hidden: values of the two linear layers of the box head.
        mask_channels: of the mask head.
        num_proposals, num_candidates, num_anchors, num_sampled, max_objects, samples: see `TwoStage`.
    """

    terms = OF_RPN + OF_STAGE
    head_names = tuple(f"roi_head.{layer}" for layer in OF_CLASSES)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 80,
        *,
        channels: int = 256,
        hidden: int = 1024,
        mask_channels: int = 256,
        num_proposals: int = 1000,
        num_candidates: tuple[int, int] = (2000, 1000),
        num_anchors: int = 256,
        num_sampled: int = 512,
        max_objects: int = 100,
        samples: int = 2,
    ):
        head = RoIHead(
            BoxHead(num_classes, channels, fcs=2, hidden=hidden),
            MaskHead(num_classes, channels, channels=mask_channels),
        )
        super().__init__(
            backbone, num_classes, channels, head, (STAGE,), low_quality=True, num_proposals=num_proposals,
            num_candidates=num_candidates, num_anchors=num_anchors, num_sampled=num_sampled, max_objects=max_objects,
            samples=samples,
        )  # fmt: skip

    def box_head(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `TwoStage`."""
        return self.roi_head.bbox_head(x)

    def mask_head(self, stage: int, x: Tensor) -> Tensor:
        """See `TwoStage`."""
        return self.roi_head.mask_head(x)

    def rois(self, x: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, num_classes + 1) and deltas (N, num_classes*4) of RoIs (N, 5) [image, x1, y1, x2, y2]."""
        return self.boxes_by_stage(self.maps_of(x), rois)[0]

    def masks(self, x: Tensor, rois: Tensor) -> Tensor:
        """Logits (N, num_classes, 28, 28) of RoIs (N, 5)."""
        return self.masks_by_stage(self.maps_of(x), rois)[0]


class CascadeMaskRCNN(TwoStage):
    """Cascade Mask R-CNN, see `TwoStage`: three stages, each trained with better boxes than the last.

    Args:
        backbone, num_classes, channels: see `TwoStage`.
        hidden: values of the linear layer of the box heads.
        box_channels, mask_channels: of the heads' convolutions.
        num_proposals, num_candidates, num_anchors, num_sampled, max_objects, samples: see `TwoStage`.
    """

    terms = OF_RPN + tuple(f"s{stage}.{name}" for stage in range(len(CASCADE)) for name in OF_STAGE)
    head_names = tuple(
        f"roi_head.{head}.{stage}.{layer}"
        for stage in range(len(CASCADE))
        for head, _, layer in (name.partition(".") for name in OF_CLASSES)
    )

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 80,
        *,
        channels: int = 256,
        hidden: int = 1024,
        box_channels: int = 256,
        mask_channels: int = 256,
        num_proposals: int = 1000,
        num_candidates: tuple[int, int] = (2000, 1000),
        num_anchors: int = 256,
        num_sampled: int = 512,
        max_objects: int = 100,
        samples: int = 2,
    ):
        boxes = [BoxHead(num_classes, channels, convs=4, channels=box_channels, fcs=1, hidden=hidden) for _ in CASCADE]
        masks = [MaskHead(num_classes, channels, channels=mask_channels) for _ in CASCADE]
        head = RoIHead(nn.CellList(boxes), nn.CellList(masks))
        super().__init__(
            backbone, num_classes, channels, head, CASCADE, giou=True, rpn_border=0, rpn_beta=1 / 9,
            num_proposals=num_proposals, num_candidates=num_candidates, num_anchors=num_anchors,
            num_sampled=num_sampled, max_objects=max_objects, samples=samples,
        )  # fmt: skip

    def box_head(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `TwoStage`."""
        return self.roi_head.bbox_head[stage](x)

    def mask_head(self, stage: int, x: Tensor) -> Tensor:
        """See `TwoStage`."""
        return self.roi_head.mask_head[stage](x)

    def rois(self, x: Tensor, rois: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Of each stage logits and deltas of the same RoIs (N, 5), see `MaskRCNN`."""
        return self.boxes_by_stage(self.maps_of(x), rois)

    def masks(self, x: Tensor, rois: Tensor) -> tuple[Tensor, ...]:
        """Of each stage mask logits of the same RoIs (N, 5)."""
        return self.masks_by_stage(self.maps_of(x), rois)
