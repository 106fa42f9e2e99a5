"""The objects that a detector sees in image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acmix_ms.data.canvas import boxes_in_image
from acmix_ms.deploy.prediction import beside_path
from acmix_ms.errors import UserError, printable
from acmix_ms.masks import encode_pasted, run_lengths
from acmix_ms.postprocess import Detections

THRESHOLD = 0.3  # scores below are not told

Find = Callable[[np.ndarray, Sequence[tuple[int, int]]], Sequence[Detections]]
Read = Callable[[Path], tuple[np.ndarray, np.ndarray]]


class Found(NamedTuple):
    """One object: its class, how sure the net is, (x1, y1, x2, y2) in pixels of the file's picture, and of nets with
    masks COCO's run lengths of the pixels that belong to it.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: dict | None = None

    def as_dict(self) -> dict:
        """For JSON."""
        values = {"class": self.name, "score": round(self.score, 6), "box": [round(side, 2) for side in self.box]}
        return values if self.mask is None else {**values, "mask": self.mask}


class Prediction(NamedTuple):
    """What a net finds in one image, the surest first; or why it cannot be read.

    Attributes:
        path: of the file.
        objects: what is told.
        size: (height, width) of the file's picture.
        detections: the same objects in its pixels, to be drawn (`acmix_ms.analysis.detections`).
        error: None, or what is wrong with the file.
    """

    path: Path
    objects: list[Found]
    size: tuple[int, int] | None = None
    detections: Detections | None = None
    error: str | None = None

    def as_dict(self) -> dict:
        """For JSON."""
        if self.error:
            return {"image": str(self.path), "error": self.error}
        height, width = self.size
        objects = [found.as_dict() for found in self.objects]
        return {"image": str(self.path), "height": height, "width": width, "objects": objects}


def predict(
    find: Find, files: Sequence[Path], read: Read, classes: Sequence[str] | None = None, *, threshold: float = THRESHOLD
) -> Iterator[Prediction]:
    """What a net finds in each file, in their order, one after the other; an unreadable one does not stop the others.

    Args:
        find: images (1, 3, H, W) float32 and the (height, width) that each has on its canvas -> detections of each.
        files: the images.
        read: a file -> its picture on a canvas (3, H, W), and the place (4,) that `boxes_in_image` takes.
            It raises a `UserError` for what cannot be read.
        classes: names; ``class 0`` and so on by default.
        threshold: smallest score that is told.

    Raises:
        UserError: the net finds objects of a class that has no name.
    """
    for file in files:
        try:
            pixels, place = read(file)
        except UserError as error:
            yield Prediction(file, [], error=str(error))
            continue
        height, width, *size = map(int, place)
        (found,) = find(pixels[None], [(height, width)])
        yield _told(file, found, place, tuple(size), classes, threshold)


def _told(file: Path, found: Detections, place, size: tuple[int, int], classes, threshold: float) -> Prediction:
    sure = np.flatnonzero(found.scores >= threshold)
    sure = sure[np.argsort(-found.scores[sure], kind="stable")]
    boxes, labels = boxes_in_image(found.boxes[sure], place), found.labels[sure].tolist()
    masks = None if found.masks is None else found.masks[sure]
    if classes is not None and max(labels, default=0) >= len(classes):
        raise UserError(f"{len(classes)} names of classes, but the net found class {max(labels)}: give one for each")
    names = [classes[label] if classes is not None else f"class {label}" for label in labels]
    detections = Detections(boxes, found.scores[sure], found.labels[sure], masks)
    pasted = [None] * len(boxes)
    if masks is not None:
        pasted = [run_lengths(size, counts) for counts in encode_pasted(masks, boxes, *size)]
    rows = zip(names, detections.scores.tolist(), map(tuple, boxes.tolist()), pasted)
    return Prediction(file, [Found(*row) for row in rows], size, detections)


def table(prediction: Prediction) -> str:
    """One line for each object of an image, the first with its path."""
    if prediction.error:
        return f"error: {printable(prediction.error)}"
    return beside_path(prediction.path, [_line(found) for found in prediction.objects] or ["nothing found"])


def _line(found: Found) -> str:
    """``0.975  (12, 30) to (200, 300)  person``"""
    x1, y1, x2, y2 = (f"{side:.0f}" for side in found.box)
    return f"{found.score:.3f}  {f'({x1}, {y1}) to ({x2}, {y2})':24}  {printable(found.name)}"
