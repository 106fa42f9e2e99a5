"""The classes that a segmentor sees in the pixels of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acmix_ms.deploy.prediction import beside_path, share_lines
from acmix_ms.errors import UserError, printable
from acmix_ms.maps import name_of

Find = Callable[[np.ndarray, Sequence[tuple[int, int]]], Sequence[np.ndarray]]
Read = Callable[[Path], tuple[np.ndarray, np.ndarray]]


class Share(NamedTuple):
    """A class, and the part of the pixels that are taken for it."""

    name: str
    share: float


class Prediction(NamedTuple):
    """What a net takes the pixels of one image for; or why it cannot be read.

    Attributes:
        path: of the file.
        shares: of the classes that are there, the largest first.
        labels: (H, W) int32 of the file's picture, `acmix_ms.maps.UNKNOWN` where the net gives no numbers.
        error: None, or what is wrong with the file.
    """

    path: Path
    shares: list[Share]
    labels: np.ndarray | None = None
    error: str | None = None

    def as_dict(self) -> dict:
        """For JSON."""
        if self.error:
            return {"image": str(self.path), "error": self.error}
        height, width = self.labels.shape
        classes = [{"class": name, "share": round(share, 6)} for name, share in self.shares]
        return {"image": str(self.path), "height": height, "width": width, "classes": classes}


def predict(
    find: Find, files: Sequence[Path], read: Read, classes: Sequence[str] | None = None
) -> Iterator[Prediction]:
    """What a net takes the pixels of each file for, in their order, one after the other; an unreadable one does not
    stop the others.

    Args:
        find: images (1, 3, h, w) float32 and the (height, width) that their pictures have -> labels in these sizes.
        files: the images.
        read: a file -> its picture as the net sees it (3, h, w), and the row (4,) of its placement; see
            `acmix_ms.data.segments.WholeReader`. It raises a `UserError` for what cannot be read.
        classes: names; ``class 0`` and so on by default.

    Raises:
        UserError: the net finds a class that has no name.
    """
    for file in files:
        try:
            pixels, place = read(file)
        except UserError as error:
            yield Prediction(file, [], error=str(error))
            continue
        (labels,) = find(pixels[None], [tuple(map(int, place[2:]))])
        yield Prediction(file, shares_of(labels, classes), labels)


def shares_of(labels: np.ndarray, classes: Sequence[str] | None) -> list[Share]:
    """Of a map of labels, the largest first.

    Raises:
        UserError: a class has no name.
    """
    found, counts = np.unique(labels, return_counts=True)
    if classes is not None and found[-1] >= len(classes):
        raise UserError(f"{len(classes)} names of classes, but the net found class {found[-1]}: give one for each")
    order = np.argsort(-counts, kind="stable")
    return [Share(name_of(found[i], classes), counts[i] / labels.size) for i in order]


def table(prediction: Prediction) -> str:
    """One line for each class of an image, the first with its path."""
    if prediction.error:
        return f"error: {printable(prediction.error)}"
    return beside_path(prediction.path, share_lines(prediction.shares))
