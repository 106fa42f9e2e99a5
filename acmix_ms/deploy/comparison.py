"""How far the answers of two nets lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from acmix_ms.deploy.runner import LOGITS
from acmix_ms.maps import label_map
from acmix_ms.postprocess import iou

# Of the largest output. On CPU in float32 a reloaded MINDIR is bitwise equal; other runtimes add up in another order.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}


DETECTIONS = ("boxes", "scores", "labels")  # outputs of a detector whose file ends in objects
PARTNERS = 0.9  # IoU of an object in two lists
CERTAIN = 0.1  # twice the score from which on detections are given
TIES = 1e-3  # of the pixels of label maps: so many may have another class, where a rounding decides between two


class VerificationError(RuntimeError):
    """A file does not compute what it should."""


class Difference(NamedTuple):
    """How far one output lies from what is expected.

    Attributes:
        absolute: the largest difference.
        relative: that of the largest magnitude expected; of integers, such as a map of labels, the share that differs.
        agreeing: for how many of the ``images`` the class with the highest logit was the same; of integers how many of
            them were the same; None where the output is neither.
        images: so many were compared; of integers so many of these.
    """

    absolute: float
    relative: float
    agreeing: int | None
    images: int

    def __str__(self) -> str:
        text = f"{self.absolute:.3g} absolute, {self.relative:.3g} of the largest output"
        return text if self.agreeing is None else f"{text}, top-1 the same for {self.agreeing} of {self.images}"

    def within(self, tolerance: float) -> bool:
        """Whether this is no more than ``tolerance``, relative; nan is not."""
        return self.relative <= tolerance

    def allowed(self, tolerance: float) -> str:
        """What `within` asks for, in words."""
        return f"{tolerance:g}"


class LabelDifference(Difference):
    """`Difference` of integers, which are equal or not."""

    def __str__(self) -> str:
        return f"{self.agreeing} of {self.images} labels the same"


class LabelMapDifference(LabelDifference):
    """`LabelDifference` of maps of labels: a share of `TIES` always passes, a larger one where more is tolerated."""

    def within(self, tolerance: float) -> bool:
        """See `Difference`."""
        return self.relative <= max(tolerance, TIES)

    def allowed(self, tolerance: float) -> str:
        """See `Difference`."""
        return f"{max(tolerance, TIES):.1%} of the labels"


class ScoreMapDifference(Difference):
    """`Difference` of a segmentor's logits; ``agreeing`` pixels of ``images`` pixels get the same class from them."""

    @property
    def labels(self) -> LabelMapDifference:
        """That of the classes."""
        other = self.images - self.agreeing
        return LabelMapDifference(float(other > 0), other / self.images, self.agreeing, self.images)

    def __str__(self) -> str:
        return f"{self.absolute:.3g} absolute, {self.relative:.3g} of the largest output, {self.labels}"

    def within(self, tolerance: float) -> bool:
        """See `Difference`; and the classes are within as well."""
        return super().within(tolerance) and self.labels.within(tolerance)

    def allowed(self, tolerance: float) -> str:
        """See `Difference`."""
        return f"{tolerance:g}, and other classes for {self.labels.allowed(tolerance)}"


@dataclass(frozen=True)
class Differences:
    """The `Difference` of each output, by its name; what one number is asked of is the worst of them."""

    outputs: Mapping[str, Difference]

    @property
    def worst(self) -> Difference:
        """The one that is farthest from what is expected, relative."""
        return max(self.outputs.values(), key=lambda found: found.relative)

    @property
    def absolute(self) -> float:
        """See `Difference`."""
        return self.worst.absolute

    @property
    def relative(self) -> float:
        """See `Difference`."""
        return self.worst.relative

    def __str__(self) -> str:
        if len(self.outputs) == 1:
            return str(self.worst)
        return "; ".join(f"{name} {found}" for name, found in self.outputs.items())

    def within(self, tolerance: float) -> bool:
        """Whether no output differs by more than ``tolerance``, relative; nan does."""
        return all(found.within(tolerance) for found in self.outputs.values())

    def allowed(self, tolerance: float) -> str:
        """What `within` asks for, in words."""
        return self.worst.allowed(tolerance)


def compare(given: np.ndarray, expected: np.ndarray) -> Difference:
    """The difference of one output for a batch, (B, ...): in float64, or of integers one by one.

    Raises:
        VerificationError: their shapes differ, or one holds integers and the other does not.
    """
    if given.shape != expected.shape:
        raise VerificationError(f"gives shape {given.shape}, expected {expected.shape}: is it another model?")
    integers = [values.dtype.kind in "iub" for values in (given, expected)]
    if integers[0] != integers[1]:
        raise VerificationError(f"gives {given.dtype}, expected {expected.dtype}: is it another model?")
    if all(integers):
        given, expected = given.astype(np.int64), expected.astype(np.int64)
        same = int((given == expected).sum())
        kind = LabelDifference if given.ndim < 3 else LabelMapDifference
        return kind(float(np.abs(given - expected).max()), (given.size - same) / given.size, same, given.size)
    given, expected = given.astype(np.float64), expected.astype(np.float64)
    absolute = float(np.abs(given - expected).max())
    relative = absolute / max(float(np.abs(expected).max()), 1e-12)
    agreeing = int((given.argmax(1) == expected.argmax(1)).sum()) if given.ndim == 2 else None
    return Difference(absolute, relative, agreeing, len(given))


def compare_detections(given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Differences:
    """How far detections lie from those that are expected, box by box, whatever the order of equals.

    ``boxes`` (B, n, 4), ``scores`` (B, n), ``labels`` (B, n), -1 in empty places, and perhaps ``masks`` (B, n, ...).
    Each object that is expected has a partner: of the same class, and with an IoU of at least `PARTNERS`. What is
    missing counts as a label that differs, but for scores so low that a rounding decides whether they are there:
    `CERTAIN`, or close to the last of a full list.

    Raises:
        VerificationError: their shapes differ.
    """
    for name, values in expected.items():
        if given[name].shape != values.shape:
            raise VerificationError(f"{name}: gives shape {given[name].shape}, expected {values.shape}: another model?")
    rows: list[tuple[int, int, int]] = []  # image, place expected, place given
    wanted = 0
    for image, labels in enumerate(expected["labels"]):
        scores = expected["scores"][image]
        least = CERTAIN if (labels < 0).any() else max(CERTAIN, 1.01 * float(scores.min()))
        places = np.flatnonzero((labels >= 0) & (scores > least))
        wanted += len(places)
        overlaps = iou(expected["boxes"][image], given["boxes"][image])
        overlaps[labels[:, None] != given["labels"][image][None]] = 0
        for place in places[np.argsort(-scores[places], kind="stable")]:
            partner = int(overlaps[place].argmax())
            if overlaps[place, partner] >= PARTNERS:
                rows.append((image, int(place), partner))
                overlaps[:, partner] = 0  # taken
    images, places, partners = np.array(rows, np.int64).reshape(-1, 3).T
    found = {}
    for name, values in expected.items():
        if name == "labels":
            missing = wanted - len(rows)
            found[name] = LabelDifference(float(missing), missing / max(wanted, 1), len(rows), wanted)
            continue
        absolute = np.abs(given[name][images, partners].astype(np.float64) - values[images, places]).max(initial=0.0)
        largest = max(float(np.abs(values).max(initial=0.0)), 1e-12)
        found[name] = Difference(float(absolute), float(absolute) / largest, None, len(expected["labels"]))
    return Differences(found)


def compare_logits(given: np.ndarray, expected: np.ndarray, size: tuple[int, int]) -> ScoreMapDifference:
    """`compare` of a segmentor's logits (B, classes, h, w), and of the classes that they give the pixels of images of
    ``size``.

    Raises:
        VerificationError: see `compare`.
    """
    found, same = compare(given, expected), 0
    for one, other in zip(given, expected):
        same += int((label_map(one, [size]) == label_map(other, [size])).sum())
    return ScoreMapDifference(found.absolute, found.relative, same, len(given) * size[0] * size[1])


def compare_outputs(
    given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], size: tuple[int, int] | None = None
) -> Differences:
    """`compare` for each of several named outputs; ``size`` is (height, width) of the images, of which a segmentor's
    logits tell the classes.

    Raises:
        VerificationError: other names, or see `compare`; the output is named where there are several.
    """
    if list(given) != list(expected):
        names = " and ".join(given), " and ".join(expected)
        raise VerificationError(f"gives {names[0]}, expected {names[1]}: is it another model?")
    if set(DETECTIONS) <= set(expected):
        return compare_detections(given, expected)
    found = {}
    for name, values in given.items():
        try:
            segments = size is not None and name == LOGITS and values.ndim == 4
            found[name] = compare_logits(values, expected[name], size) if segments else compare(values, expected[name])
        except VerificationError as error:
            raise VerificationError(f"{name}: {error}" if len(given) > 1 else str(error)) from error
    return Differences(found)
