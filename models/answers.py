"""Nets that answer for image files, whatever their task: what predict.py asks."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor, nn

from acmix_ms import runtime
from acmix_ms.analysis.detections import plot_detections
from acmix_ms.analysis.segments import plot_segments, write_labels
from acmix_ms.config import Config
from acmix_ms.data.canvas import CanvasReader
from acmix_ms.data.images import read_image
from acmix_ms.data.segments import WholeReader
from acmix_ms.deploy import SUFFIXES, description, detection, open_file, prediction, segmentation
from acmix_ms.engine.checkpoint import Checkpoint

from . import build, exports
from .detection import detect
from .segmentation import segment
from .tasks import inference_of


class Answers(NamedTuple):
    """A net with weights, ready for image files.

    Attributes:
        predictions: of files, in their order; each has a ``path``, an ``error`` or None, and ``as_dict()``.
        table: a prediction as lines for a terminal.
        pixels: a file as the net sees it, (3, H, W) float32.
        draw: a prediction into a PNG; None where there is nothing to draw.
        net: None of an exported file.
    """

    predictions: Callable[[Sequence[Path]], Iterator[Any]]
    table: Callable[[Any], str]
    pixels: Callable[[Path], np.ndarray]
    draw: Callable[[Any, Path], None] | None = None
    net: nn.Cell | None = None


def open_answers(args: Namespace, classes: Sequence[str] | None, *, mode: str = "graph") -> Answers:
    """The net in ``args.checkpoint``; starts the runtime.

    Args:
        args: as `build.read` takes them; ``top`` and ``threshold``, how much is told.
        classes: their names; by default those of the checkpoint.

    Raises:
        UserError: see `build.open_net`; names are not as many as classes.
    """
    if Path(args.checkpoint).suffix in SUFFIXES:
        task = description.read(args.checkpoint).task
        if task != "classification":
            return {"detection": _detecting_file, "segmentation": _segmenting_file}[task](args, classes)
        return _classifying(build.open_net(args.checkpoint, args, mode=mode), args, classes)
    cfg, saved = build.read(args)
    if cfg.task == "detection":
        return _detecting(cfg, saved, args, classes, mode)
    if cfg.task == "segmentation":
        return _segmenting(cfg, saved, args, classes)
    return _classifying(build.open_checkpoint(cfg, saved, args.checkpoint, mode=mode), args, classes)


def _classifying(net: build.Opened, args: Namespace, classes: Sequence[str] | None) -> Answers:
    def predictions(files: Sequence[Path]) -> Iterator[prediction.Prediction]:
        return prediction.predict(net.answers, files, net.preprocess, classes or net.classes, top=args.top)

    return Answers(predictions, prediction.table, net.preprocess.read, net=net.built and net.built.cell)


def _detecting(
    cfg: Config, saved: Checkpoint | None, args: Namespace, classes: Sequence[str] | None, mode: str
) -> Answers:
    net = build.open_checkpoint(cfg, saved, args.checkpoint, mode=mode).built

    def find(images, sizes):
        return detect(net.cell, Tensor(images), sizes)

    return _detector(find, CanvasReader.of(cfg.data), classes or net.classes, args.threshold, net.cell)


def _detecting_file(args: Namespace, classes: Sequence[str] | None) -> Answers:
    about = description.read(args.checkpoint)
    runtime.start("auto", "graph")
    find = exports.finder_of(open_file(args.checkpoint), about)
    return _detector(find, exports.reader_of(about), classes or about.classes, args.threshold)


def _segmenting(cfg: Config, saved: Checkpoint | None, args: Namespace, classes: Sequence[str] | None) -> Answers:
    # Pictures come in any size, and a graph would be compiled for each.
    net, inference = build.open_checkpoint(cfg, saved, args.checkpoint, mode="pynative").built, inference_of(cfg)

    def find(images, sizes):
        return segment(net.cell, Tensor(images), sizes, inference)

    return _segmentor(find, WholeReader.of(cfg.data), classes or net.classes, net.cell)


def _segmenting_file(args: Namespace, classes: Sequence[str] | None) -> Answers:
    about = description.read(args.checkpoint)
    runtime.start("auto", "graph")
    find = exports.segmenter_of(open_file(args.checkpoint), about)
    return _segmentor(find, exports.whole_reader_of(about), classes or about.classes)


def _segmentor(find, read, classes: Sequence[str] | None, net: nn.Cell | None = None) -> Answers:
    def predictions(files: Sequence[Path]) -> Iterator[segmentation.Prediction]:
        return segmentation.predict(find, files, read, classes)

    def draw(found: segmentation.Prediction, target: Path) -> None:
        plot_segments(read_image(found.path), found.labels, classes, target)
        write_labels(found.labels, target.with_name(f"{target.stem}-labels.png"))

    return Answers(predictions, segmentation.table, lambda path: read(path)[0], draw, net)


def _detector(find, read, classes: Sequence[str] | None, threshold: float, net: nn.Cell | None = None) -> Answers:
    def predictions(files: Sequence[Path]) -> Iterator[detection.Prediction]:
        return detection.predict(find, files, read, classes, threshold=threshold)

    def draw(found: detection.Prediction, target: Path) -> None:
        names = classes or [f"class {label}" for label in range(1 + max(found.detections.labels, default=0))]
        plot_detections(read_image(found.path), found.detections, names, target, threshold=threshold)

    return Answers(predictions, detection.table, lambda path: read(path)[0], draw, net)
