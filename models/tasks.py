"""What each task is made of: its data, net, loss, predictor and evaluator. The one place that tells tasks apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mindspore import nn

from acmix_ms.config import Config
from acmix_ms.data import create_loader
from acmix_ms.data.loader import Loader
from acmix_ms.deploy import Runner, description
from acmix_ms.engine import checkpoint, evaluation, losses
from acmix_ms.engine.checkpoint import Checkpoint
from acmix_ms.engine.evaluation import Predictor, build_predictor
from acmix_ms.engine.metrics import Accuracy, CocoDetection, Evaluator, Segmentation
from acmix_ms.errors import UserError

from . import build, exports
from .detection import detect
from .segmentation import Inference, segment


class Task(NamedTuple):
    """A net with all that trains and judges it.

    Attributes:
        net: with random weights.
        train, val: the loaders of both splits.
        loss: see `acmix_ms.engine.losses.Loss`.
        make_predictor: from the net, as it computes, to a `Predictor`.
        make_evaluator: a new one for each pass over ``val``.
    """

    net: nn.Cell
    train: Loader
    val: Loader
    loss: losses.Loss
    make_predictor: Callable[[nn.Cell], Predictor]
    make_evaluator: Callable[[], Evaluator]


def build_task(cfg: Config, *, rank: int = 0, size: int = 1) -> Task:
    """All that ``cfg`` describes, for one of ``size`` processes.

    Raises:
        UserError: data that are not there, that do not fit each other or the net; an unknown model.
    """
    part = {"rank": rank, "size": size, "seed": cfg.seed}
    if cfg.task == "detection":
        # The net first: it makes the targets of the training images.
        val = create_loader(cfg.data, "val", **part)
        net = build.create(cfg, val.require_classes(cfg.model.num_classes))
        train = create_loader(cfg.data, "train", prepare=net.prepare, masks=net.with_masks, **part)
        if train.class_names != val.class_names:
            raise UserError(f"data.path={cfg.data.path}: train and val have other classes; give sets of the same")
        loss = losses.by_name(net.terms)
    else:
        train, val = (_loader(cfg, split, **part) for split in ("train", "val"))
        net = build.create(cfg, train.require_classes(cfg.model.num_classes))
        if cfg.task == "segmentation":
            loss = losses.by_name(net.terms)
            _require_images(cfg, net.least_images, size)
        else:
            loss = losses.classification(cfg.loss.label_smoothing)
    return Task(net, train, val, loss, predictor_of(cfg), evaluators(cfg, val, masks=getattr(net, "with_masks", False)))


def _loader(cfg: Config, split: str, **part) -> Loader:
    return create_loader(cfg.data, split, segments=cfg.task == "segmentation", **part)


def _require_images(cfg: Config, least: int, devices: int) -> None:
    """See that a net has the images that it needs for a step: of one device, or of all that share their statistics."""
    together = cfg.data.batch_size * (devices if cfg.train.sync_bn else 1)
    if together < least:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size}: {cfg.model.name} cannot train with one image per device, whose "
            f"pooling to one value leaves BatchNorm nothing to compare; give data.batch_size={least}, or "
            "train.sync_bn=true on several devices"
        )


def predictor_of(cfg: Config) -> Callable[[nn.Cell], Predictor]:
    """What makes a `Predictor` of a net for the task of ``cfg``."""
    if cfg.task == "segmentation":
        return _segmenting(inference_of(cfg))
    return _detecting if cfg.task == "detection" else build_predictor


def inference_of(cfg: Config) -> Inference:
    """How segmentors look at images, as ``data.segments`` says."""
    segments, window = cfg.data.segments, None
    if segments.inference == "slide":
        window = (cfg.data.canvas.height, cfg.data.canvas.width)
    stride = segments.stride and (segments.stride, segments.stride)
    return Inference(window, stride, tuple(segments.test_scales), segments.test_flip)


def evaluators(cfg: Config, loader: Loader, *, masks: bool = False) -> Callable[[], Evaluator]:
    """What makes new evaluators for the images of ``loader``; of ``masks`` too where the net gives some."""
    if cfg.task == "detection":
        truth = loader.ground_truth(masks=masks)  # read once
        known = truth, loader.image_ids, loader.category_ids, loader.class_names
        return lambda: CocoDetection(*known, masks=masks)
    if cfg.task == "segmentation":
        return lambda: Segmentation(loader.labels, loader.class_names)
    return lambda: Accuracy(loader.class_names)


def evaluate_checkpoint(
    cfg: Config, path: str, *, averaged: bool = False, saved: Checkpoint | None = None, rank: int = 0, size: int = 1
) -> tuple[dict, Evaluator]:
    """What weights score on the validation split, and the evaluator that has seen all that the net gave.

    Args:
        path: of the checkpoint.
        averaged: its moving averages.
        saved: what is in it, if it was read already.
        rank, size: this process and how many share the split.
    """
    loader = _loader(cfg, "val", rank=rank, size=size, seed=cfg.seed)
    saved = saved or checkpoint.read(path)
    if averaged:
        saved = checkpoint.averages_of(saved, path)
    net = build.net_of(cfg, saved, path, loader.require_classes(cfg.model.num_classes)).cell
    evaluator = evaluators(cfg, loader, masks=getattr(net, "with_masks", False))()
    return evaluation.evaluate(net, loader, predictor_of(cfg)(net), evaluator), evaluator


def evaluate_export(cfg: Config, file: Runner, *, rank: int = 0, size: int = 1) -> tuple[dict, Evaluator]:
    """As `evaluate_checkpoint`, of the net in an exported file.

    Raises:
        UserError: it takes images of another size.
    """
    part = {"rank": rank, "size": size, "seed": cfg.seed}
    if cfg.task == "segmentation":
        about, inference = description.read(file.path), inference_of(cfg)
        # Whole images are prepared as the file's description says, so that each fits its input.
        part["within"] = None if inference.window else exports.canvas_of(about)
    loader = _loader(cfg, "val", **part)
    num_classes = loader.require_classes(cfg.model.num_classes)
    if cfg.task == "detection":
        about = description.read(file.path)
        find, masks = exports.finder_of(file, about), "masks" in file.names

        def predict(images, places):
            return find(images.asnumpy(), places[:, :2])
    elif cfg.task == "segmentation":
        _require_same_classes(file, about, num_classes)
        segment_by_file, masks = exports.segmenter_of(file, about, inference), False

        def predict(images, places):
            return segment_by_file(images.asnumpy(), places[:, 2:])
    else:
        file.check_size(cfg.data.image_size)
        predict, masks = file.predictor(num_classes), False
    evaluator = evaluators(cfg, loader, masks=masks)()
    return evaluation.evaluate(None, loader, predict, evaluator), evaluator


def _require_same_classes(file: Runner, about: description.Description, num_classes: int) -> None:
    if about.num_classes != num_classes:
        raise UserError(
            f"{file.path} tells {about.num_classes} classes apart, the data have {num_classes}: give the data that it "
            "was trained on, or another file"
        )


def _detecting(net: nn.Cell) -> Predictor:
    return lambda images, places: detect(net, images, places[:, :2])


def _segmenting(inference: Inference) -> Callable[[nn.Cell], Predictor]:
    return lambda net: lambda images, places: segment(net, images, places[:, 2:], inference)
