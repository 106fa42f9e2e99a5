"""What papers print about cost and accuracy on ImageNet: numbers only, as printed, so that their digits can be matched.

Each row names the model of the zoo that it is compared with, and the convention (see `complexity`) that its paper
counted in, as far as that can be told.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reported:
    """One row of a paper.

    Attributes:
        model: name in the zoo.
        label: as the paper calls it.
        convention: of its multiply-adds.
        params, flops: millions and billions (multiply-adds) as printed; empty where the paper has none.
        top1: accuracy in percent as printed.
        family: panel of Figure 4.
        options: keyword arguments of the model, as (name, value) pairs.
        image_size: side of the images that ``flops`` is for, or (height, width).
        schedule: of a detector, ``"1x"`` or ``"3x"``, of a segmentor its steps, ``"40k"`` or ``"160k"``.
        strided: whether `ACmix` is counted with ``strided_projections``, see `complexity`.
        ap: of a detector on COCO, as printed: mAP (empty where it is not legible in the text we have), AP50 and AP75.
        miou: of a segmentor on ADE20K in percent, as printed.
    """

    model: str
    label: str
    convention: str
    params: str = ""
    flops: str = ""
    top1: str = ""
    family: str = ""
    options: tuple[tuple[str, str], ...] = ()
    image_size: int | tuple[int, int] = 224
    schedule: str = ""
    strided: bool = False
    ap: tuple[str, str, str] = ("", "", "")
    miou: str = ""

    @property
    def key(self) -> str:
        """Under which its counts are handed to the tables."""
        size = "" if self.image_size == 224 else f" at {self.size}"
        size += " strided" if self.strided else ""
        return " ".join([self.model, *(f"{name}={value}" for name, value in self.options)]) + size

    @property
    def size(self) -> str:
        """The size of the images in words."""
        return str(self.image_size) if isinstance(self.image_size, int) else "x".join(map(str, self.image_size))

    @property
    def score(self) -> str:
        """Its mAP, or what is legible in its place."""
        return self.ap[0] or f"AP50 {self.ap[1]}"


def _rows(family: str, *rows: tuple[str, ...]) -> tuple[Reported, ...]:
    return tuple(Reported(*row, family=family) for row in rows)


FIGURE4 = (
    *_rows(
        "ResNet",
        ("resnet26", "ResNet 26", "A", "13.7", "2.4", "73.6"),
        ("acmix_resnet26", "ResNet-ACmix 26", "dagger", "10.6", "2.3", "76.1"),
        ("resnet38", "ResNet 38", "A", "19.6", "3.2", "76.0"),
        ("acmix_resnet38", "ResNet-ACmix 38", "dagger", "14.6", "2.9", "77.4"),
        ("resnet50", "ResNet 50", "A", "25.6", "4.1", "76.9"),
        ("acmix_resnet50", "ResNet-ACmix 50", "dagger", "18.6", "3.6", "77.8"),
    ),
    *_rows(
        "SAN",
        ("san10", "SAN 10", "A", "11.8", "1.9", "77.1"),
        ("acmix_san10", "SAN-ACmix 10", "A+bias", "12.1", "1.9", "77.6"),
        ("san15", "SAN 15", "A", "16.2", "2.6", "78.0"),
        ("acmix_san15", "SAN-ACmix 15", "A+bias", "16.6", "2.7", "78.4"),
        ("san19", "SAN 19", "A", "20.5", "3.3", "78.2"),
        ("acmix_san19", "SAN-ACmix 19", "A+bias", "21.2", "3.4", "78.7"),
    ),
    *_rows(
        "PVT",
        ("pvt_tiny", "PVT-T", "A", "13", "1.9", "75.1"),
        ("acmix_pvt_tiny", "PVT-ACmix-T", "A", "13", "2.0", "78.0"),
        ("pvt_small", "PVT-S", "A", "25", "3.8", "79.8"),
        ("acmix_pvt_small", "PVT-ACmix-S", "A", "25", "3.9", "81.7"),
    ),
    *_rows(
        "Swin",
        ("swin_tiny", "Swin-T", "A+norm", "29", "4.5", "81.3"),
        ("acmix_swin_tiny", "Swin-ACmix-T", "A+norm", "30", "4.6", "81.9"),
        ("swin_small", "Swin-S", "A+norm", "50", "8.7", "83.0"),
        ("acmix_swin_small", "Swin-ACmix-S", "A+norm", "51", "9.0", "83.5"),
    ),
)


def _swin(label: str, params: str, flops: str, top1: str, **options: str) -> Reported:
    return Reported("acmix_swin_tiny", label, "A+norm", params, flops, top1, options=tuple(options.items()))


TABLE6 = (
    Reported("swin_tiny", "Swin-T", "A+norm", "29", "4.5", "81.3"),
    Reported("conv_swin_tiny", "Conv-Swin-T", "A+norm", "39", "4.5", "80.5"),
    _swin("1, 1", "30", "4.6", "81.5", mix="sum"),
    _swin("α, 1", "30", "4.6", "81.6", mix="alpha_one"),
    _swin("α, 1 - α", "30", "4.6", "81.5", mix="alpha"),
    _swin("α, β", "30", "4.6", "81.9"),
)

TABLE7 = (
    _swin("Tensor shifts", "", "4.6", "81.4", shift="tensor"),
    _swin("Fixed kernel", "", "4.7", "81.4", shift="fixed"),
    _swin("Random init", "", "4.7", "81.5", shift="random"),
    _swin("Group conv", "", "4.7", "81.9"),
)

# Of their own papers. SASA and AA print two operations for a multiply-add: halved here. SASA's rows are those with a
# convolution stem. BoTNet's multiply-adds are printed for images of 1024.
COMPETITORS = (
    Reported("sasa_resnet26", "SASA-ResNet 26", "A+position", "10.3", "2.25", "75.8", family="SASA"),
    Reported("sasa_resnet38", "SASA-ResNet 38", "A+position", "14.1", "2.85", "77.1", family="SASA"),
    Reported("sasa_resnet50", "SASA-ResNet 50", "A+position", "18.0", "3.5", "77.4", family="SASA"),
    Reported("aa_resnet50", "AA-ResNet 50", "A", "25.8", "4.15", "77.7", family="AA-ResNet"),
    Reported("lrnet50", "LR-Net 50", "A", "23.3", "4.3", "77.3", family="LR-Net"),
    Reported("botnet50", "BoTNet 50", "A", "20.8", family="BoTNet"),
    Reported("botnet50", "BoTNet 50", "A", "20.8", "102.98", family="BoTNet", image_size=1024),
)

# Segmentors: this size of images meets the figures of all of them but one.
ADE20K_SIZE = (512, 2048)


def _segmentor(model: str, label: str, schedule: str, params: str, flops: str, miou: str) -> Reported:
    convention = "A+bias" if model.startswith("semantic_fpn") else "A" if "acmix" in model else "mmdetection"
    return Reported(model, label, convention, params, flops, image_size=ADE20K_SIZE, schedule=schedule, miou=miou)


TABLE2 = (
    _segmentor("semantic_fpn_pvt_tiny", "Semantic FPN, PVT-T", "40k", "17", "158", "37.1"),
    _segmentor("semantic_fpn_acmix_pvt_tiny", "Semantic FPN, ACmix", "40k", "17", "160", "42.7"),
    _segmentor("semantic_fpn_pvt_small", "Semantic FPN, PVT-S", "40k", "28", "225", "42.4"),
    _segmentor("semantic_fpn_acmix_pvt_small", "Semantic FPN, ACmix", "40k", "29", "228", "46.4"),
    _segmentor("upernet_swin_tiny", "UperNet, Swin-T", "160k", "60", "945", "44.5"),
    _segmentor("upernet_acmix_swin_tiny", "UperNet, ACmix", "160k", "60", "950", "45.3"),
    _segmentor("upernet_swin_small", "UperNet, Swin-S", "160k", "81", "1038", "47.6"),
    _segmentor("upernet_acmix_swin_small", "UperNet, ACmix", "160k", "81", "1043", "48.7"),
)

# Detectors: the paper does not state the size of the images for Table 3 and 4; at this one its figures are met, and
# those of two stages at 1280x800, as their own papers count.
TABLE5_SIZE = 576  # of Table 5, which states it
COCO_SIZE, COCO_SIZE_OF_REGIONS = (800, 1333), (1280, 800)


def _detector(model: str, label: str, schedule: str, flops: str, *ap: str) -> Reported:
    one_stage = model.startswith("retinanet")
    size, convention = (COCO_SIZE, "mmdetection") if one_stage else (COCO_SIZE_OF_REGIONS, "A+norm")
    return Reported(model, label, convention, "", flops, image_size=size, schedule=schedule, ap=ap)


TABLE3 = (
    _detector("retinanet_resnet50", "RetinaNet, ResNet 50", "1x", "250", "36.7", "56.0", "39.0"),
    _detector("retinanet_sasa_resnet50", "RetinaNet, SASA", "1x", "226", "36.8", "54.6", "39.3"),
    _detector("retinanet_acmix_resnet50", "RetinaNet, ACmix", "1x", "230", "38.3", "56.2", "40.0"),
    _detector("retinanet_san19", "RetinaNet, SAN 19", "1x", "229", "38.2", "56.0", "41.1"),
    _detector("retinanet_acmix_san19", "RetinaNet, ACmix", "1x", "233", "39.1", "58.9", "41.6"),
)

# Multiply-adds and mAP of the nets with two stages are not legible in the text we have.
TABLE4 = (
    _detector("retinanet_pvt_tiny", "RetinaNet, PVT-T", "1x", "230", "36.7", "56.9", "38.9"),
    _detector("retinanet_acmix_pvt_tiny", "RetinaNet, ACmix", "1x", "232", "40.5", "61.2", "42.7"),
    _detector("retinanet_pvt_tiny", "RetinaNet, PVT-T", "3x", "230", "39.4", "59.8", "42.0"),
    _detector("retinanet_acmix_pvt_tiny", "RetinaNet, ACmix", "3x", "232", "42.0", "62.8", "44.6"),
    _detector("mask_rcnn_swin_tiny", "Mask R-CNN, Swin-T", "3x", "", "", "67.8", "50.4"),
    _detector("mask_rcnn_acmix_swin_tiny", "Mask R-CNN, ACmix", "3x", "", "", "69.0", "51.8"),
    _detector("cascade_mask_rcnn_swin_tiny", "Cascade Mask R-CNN, Swin-T", "3x", "", "", "69.3", "54.9"),
    _detector("cascade_mask_rcnn_acmix_swin_tiny", "Cascade Mask R-CNN, ACmix", "3x", "", "", "69.8", "55.6"),
)
