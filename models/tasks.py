"""What each task is made of: its data, net, loss, predictor and evaluator. The one place that tells tasks apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from mindspore import nn

from acmix_ms.config import Config
from acmix_ms.data import create_loader
from acmix_ms.data.loader import Loader
from acmix_ms.engine import losses
from acmix_ms.engine.evaluation import Predictor, build_predictor
from acmix_ms.engine.metrics import Accuracy, CocoDetection, Evaluator
from acmix_ms.errors import UserError

from . import build
from .detection import detect


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
        train, val = (create_loader(cfg.data, split, **part) for split in ("train", "val"))
        net = build.create(cfg, train.require_classes(cfg.model.num_classes))
        loss = losses.classification(cfg.loss.label_smoothing)
    return Task(net, train, val, loss, predictor_of(cfg), lambda: evaluator_of(cfg, val, net))


def predictor_of(cfg: Config) -> Callable[[nn.Cell], Predictor]:
    """What makes a `Predictor` of a net for the task of ``cfg``."""
    return _detecting if cfg.task == "detection" else build_predictor


def evaluator_of(cfg: Config, loader: Loader, net: nn.Cell) -> Evaluator:
    """A new evaluator of what ``net`` gives for the images of ``loader``."""
    if cfg.task == "detection":
        return CocoDetection(loader.ground_truth(), masks=net.with_masks)
    return Accuracy(loader.class_names)


def _detecting(net: nn.Cell) -> Predictor:
    return lambda images, places: detect(net, images, np.asarray(places)[:, :2])
