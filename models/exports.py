"""What of a net goes into a file, for each task, and how a file of a detector answers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from mindspore import nn

from acmix_ms import deploy
from acmix_ms.config import Config, require_task
from acmix_ms.data.canvas import Canvas, CanvasReader
from acmix_ms.data.preprocess import preprocess_of
from acmix_ms.deploy import Output, samples
from acmix_ms.deploy.description import DETECTOR, MASKS
from acmix_ms.errors import UserError
from acmix_ms.ops.fuse import fuse_for_export
from acmix_ms.postprocess import (
    COUNT,
    IOU_THRESHOLD,
    LARGEST_CHANGE,
    PER_LEVEL,
    THRESHOLD,
    Detections,
    dense_detections,
    detections_in,
)

from .build import Net
from .detection.anchors import AnchorGenerator
from .detection.end_to_end import end_to_end
from .detection.retinanet import RetinaNet

COARSEST = 32  # the sides of a canvas are multiples of it
LOGITS = "logits, channel anchor * classes + class,"
DELTAS = "deltas, channel anchor * 4 + that of x, y, log width, log height, the first two in sides of the anchor,"


class Export(NamedTuple):
    """What `acmix_ms.deploy.export` is given: the Cell for the file, the one it is compared with, and the rest."""

    cell: nn.Cell
    reference: nn.Cell
    image_size: tuple[int, int] | None
    images: np.ndarray
    description: deploy.Description


def export_of(cfg: Config, net: Net, args: Namespace) -> Export:
    """What is exported of ``net``, as ``args`` of export.py say.

    Raises:
        UserError: options that do not go with the net.
    """
    require_task(cfg, "classification", "detection")
    if cfg.task == "detection":
        return _detector(cfg, net, args)
    if args.raw:
        raise UserError(f"--raw: {cfg.model.name} is a classifier, whose outputs are what they are; leave it out")
    sides = args.image_size or 2 * (cfg.data.image_size,)  # of a file for any size: what it is compared on
    cfg.data.image_size = max(sides)
    prepare = preprocess_of(cfg.data)
    description = deploy.Description(cfg.model.name, net.num_classes, prepare, net.classes)
    size = None if args.image_size is None else sides
    return Export(_fused(net.cell, args), net.cell, size, samples.real_images(cfg.data, prepare), description)


def _fused(cell: nn.Cell, args: Namespace) -> nn.Cell:
    return fuse_for_export(cell, args.target) if args.fuse else cell


def _detector(cfg: Config, net: Net, args: Namespace) -> Export:
    if args.raw and not isinstance(net.cell, RetinaNet):
        raise UserError(f"--raw: {cfg.model.name} has no maps that end in boxes, only a RetinaNet has; leave it out")
    if args.image_size is None or args.batch is None:
        raise UserError("--image-size and --batch: anchors and lists of a detector are of one size, give numbers")
    canvas = cfg.data.canvas
    height, width = sides = args.image_size or (canvas.height, canvas.width)
    if height is None or height % COARSEST or width % COARSEST:
        raise UserError(f"--image-size {height}x{width}: give multiples of {COARSEST}, such as 800x1344")
    short_side = min(max(canvas.short_sides or [height]), height, width)
    rules = Canvas(height, width, (short_side,), max_side=canvas.max_side, turns=False)
    reader = CanvasReader(rules, preprocess_of(cfg.data))
    if args.raw:
        anchors = net.cell.bbox_head.anchors
        cell, reference = _fused(net.cell, args), net.cell
        outputs = [
            Output(f"{kind}_{stride}", f"{meaning} of the map of stride {stride}")
            for kind, meaning in (("cls_score", LOGITS), ("bbox_pred", DELTAS))
            for stride in anchors.strides
        ]
        steps = {
            "operation": "retinanet",
            "strides": list(anchors.strides),
            "scales": list(anchors.scales),
            "ratios": list(anchors.ratios),
            "largest_change": float(LARGEST_CHANGE),
            "score_threshold": THRESHOLD,
            "per_level": PER_LEVEL,
            "iou_threshold": IOU_THRESHOLD,
            "count": COUNT,
        }
    else:
        cell, reference = end_to_end(_fused(net.cell, args), sides), end_to_end(net.cell, sides)
        outputs, steps = [*DETECTOR, *[MASKS] * net.cell.with_masks], {"operation": "rescale_boxes"}
    description = deploy.Description(
        cfg.model.name,
        net.num_classes,
        reader.preprocess,
        net.classes,
        task="detection",
        outputs=tuple(outputs),
        postprocess=steps,
        canvas={"short_side": short_side, "max_side": canvas.max_side},
    )
    return Export(cell, reference, sides, samples.real_canvases(cfg.data, reader), description)


def reader_of(about: deploy.Description) -> CanvasReader:
    """What prepares pictures for the detector in a file.

    Raises:
        UserError: its description does not tell.
    """
    if about.canvas is None or None in about.input_shape[2:]:
        raise UserError(f"the description of {about.model} does not tell how pictures lie on its canvas: export again")
    height, width = about.input_shape[2:]
    rules = Canvas(height, width, (about.canvas["short_side"],), max_side=about.canvas["max_side"], turns=False)
    return CanvasReader(rules, about.preprocess)


def finder_of(
    file: deploy.Runner, about: deploy.Description
) -> Callable[[np.ndarray, Sequence[tuple[int, int]]], list[Detections]]:
    """``(images (B, 3, H, W), sizes) -> detections of each`` by the detector in a file; see `detection.detect`.

    Raises:
        UserError: it gives what is not known here.
    """
    steps = about.postprocess or {}
    if steps.get("operation") == "rescale_boxes":
        return lambda images, sizes: detections_in(file.outputs(images), sizes)
    if steps.get("operation") != "retinanet":
        raise UserError(f"{file.path}: unknown postprocess {steps.get('operation')!r}; export it again")
    anchors = AnchorGenerator(*(tuple(steps[key]) for key in ("strides", "scales", "ratios")))
    options = {"threshold": steps["score_threshold"], "per_level": steps["per_level"], "count": steps["count"]}
    options["iou_threshold"] = steps["iou_threshold"]

    def find(images: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        maps = list(file.outputs(images).values())
        levels = anchors.levels(anchors.sizes(*images.shape[2:]))
        scores, deltas = maps[: len(levels)], maps[len(levels) :]
        return [
            dense_detections([level[i] for level in scores], [level[i] for level in deltas], levels, size, **options)
            for i, size in enumerate(sizes)
        ]

    return find
