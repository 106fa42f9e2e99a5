"""What of a net goes into a file, for each task, and how files of detectors and of segmentors answer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from mindspore import nn

from acmix_ms import deploy
from acmix_ms.config import Config
from acmix_ms.data.canvas import Canvas, CanvasReader, Placement
from acmix_ms.data.preprocess import preprocess_of
from acmix_ms.data.segments import ALIGNED, WholeReader
from acmix_ms.deploy import Output, samples
from acmix_ms.deploy.description import DETECTOR, LABELS, MASKS, SEGMENTOR
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
from .segmentation import WHOLE, Inference, Labelled, segment_with

COARSEST = ALIGNED  # the sides of a canvas are multiples of it
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
    if args.labels and cfg.task != "segmentation":
        raise UserError(f"--labels: {cfg.model.name} gives no classes of pixels, only a segmentor does; leave it out")
    if cfg.task == "detection":
        return _detector(cfg, net, args)
    if cfg.task == "segmentation":
        return _segmentor(cfg, net, args)
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


def _sides(cfg: Config, args: Namespace, example: str) -> tuple[int, int]:
    """(height, width) of what a file with a canvas takes."""
    height, width = args.image_size or (cfg.data.canvas.height, cfg.data.canvas.width)
    if height is None or width is None or height % COARSEST or width % COARSEST:
        raise UserError(f"--image-size {height}x{width}: give multiples of {COARSEST}, such as {example}")
    return height, width


def _segmentor(cfg: Config, net: Net, args: Namespace) -> Export:
    if args.raw:
        raise UserError(f"--raw: {cfg.model.name} is a segmentor, whose files give its logits anyway; leave it out")
    if args.image_size is None or args.batch is None:
        raise UserError("--image-size and --batch: maps of a segmentor's file are of one size, give numbers")
    sides = _sides(cfg, args, "512x1024")
    reader = WholeReader.of(cfg.data, within=sides)
    cell, reference, output, operation = _fused(net.cell, args), net.cell, SEGMENTOR, "segment"
    if args.labels:
        cell, reference, output, operation = Labelled(cell, sides), Labelled(reference, sides), LABELS, "resize_labels"
    description = deploy.Description(
        cfg.model.name,
        net.num_classes,
        reader.preprocess,
        net.classes,
        task="segmentation",
        outputs=(output,),
        postprocess={"operation": operation, "output": output.name},
        canvas={"short_side": reader.short_side, "max_side": reader.max_side, "multiple": ALIGNED},
    )
    return Export(cell, reference, sides, samples.real_wholes(cfg.data, reader), description)


def _detector(cfg: Config, net: Net, args: Namespace) -> Export:
    if args.raw and not isinstance(net.cell, RetinaNet):
        raise UserError(f"--raw: {cfg.model.name} has no maps that end in boxes, only a RetinaNet has; leave it out")
    if args.image_size is None or args.batch is None:
        raise UserError("--image-size and --batch: anchors and lists of a detector are of one size, give numbers")
    canvas = cfg.data.canvas
    height, width = sides = _sides(cfg, args, "800x1344")
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


def canvas_of(about: deploy.Description) -> tuple[int, int]:
    """(height, width) that the detector or segmentor in a file takes.

    Raises:
        UserError: its description does not tell how pictures lie on that.
    """
    if about.canvas is None or None in about.input_shape[2:]:
        raise UserError(f"the description of {about.model} does not tell how pictures lie on its canvas: export again")
    height, width = about.input_shape[2:]
    return height, width


def whole_reader_of(about: deploy.Description) -> WholeReader:
    """What prepares pictures for the segmentor in a file, which are padded afterwards.

    Raises:
        UserError: its description does not tell, or tells what is not known here.
    """
    sides = canvas_of(about)
    if about.canvas.get("multiple") != ALIGNED or any(side % ALIGNED for side in sides):
        raise UserError(
            f"the description of {about.model}: canvas and input are not multiples of {ALIGNED}; export it again"
        )
    return WholeReader(about.canvas["short_side"], about.canvas["max_side"], about.preprocess, sides)


def segmenter_of(
    file: deploy.Runner, about: deploy.Description, inference: Inference = WHOLE
) -> Callable[[np.ndarray, Sequence[tuple[int, int]]], list[np.ndarray]]:
    """``(images (B, 3, h, w), sizes) -> labels of each`` by the segmentor in a file; see `segmentation.segment`. Images
    are padded with zeros at the right and below.

    Raises:
        UserError: it gives what is not known here; later, images are larger than its input.
    """
    height, width = file.input_shape[2:]

    def run(images: np.ndarray) -> np.ndarray:
        high, wide = images.shape[2:]
        if high > height or wide > width:
            raise UserError(
                f"{file.path} takes images up to {height}x{width}, not {high}x{wide}: export it again with "
                f"--image-size {max(high, height)}x{max(wide, width)}"
            )
        padded = np.pad(images, ((0, 0), (0, 0), (0, height - high), (0, width - wide)))
        (values,) = file.outputs(padded).values()
        rows, columns = values.shape[-2:]
        return values[..., : -(-high * rows // height), : -(-wide * columns // width)]

    def resized_labels(images: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        places = [Placement(images.shape[2:], tuple(map(int, size)), images.shape[2:]) for size in sizes]
        return [place.chart(labels) for place, labels in zip(places, run(np.asarray(images, np.float32)))]

    operation = (about.postprocess or {}).get("operation")
    if operation == "segment":
        return lambda images, sizes: segment_with(run, images, sizes, inference)
    if operation != "resize_labels":
        raise UserError(f"{file.path}: unknown postprocess {operation!r}; export it again")
    if inference.window or inference.scales != (1.0,) or inference.flip:
        raise UserError(
            f"{file.path} gives labels, of which there are no means: set inference=whole, test_scales=[1.0] and "
            "test_flip=false in data.segments, or export it again without --labels"
        )
    return resized_labels


def reader_of(about: deploy.Description) -> CanvasReader:
    """What prepares pictures for the detector in a file.

    Raises:
        UserError: its description does not tell.
    """
    height, width = canvas_of(about)
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
