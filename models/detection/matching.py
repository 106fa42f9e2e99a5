"""Which anchors and proposals stand for which objects, on the host: mmdetection's MaxIoUAssigner in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from acmix_ms.postprocess import areas, intersections, iou

BACKGROUND, IGNORED = 0, -1


class Assigned(NamedTuple):
    """What became of N priors.

    Attributes:
        objects: (N,) int32: number of the object plus 1, `BACKGROUND` or `IGNORED`.
        overlaps: (N,) float32: the largest IoU with an object.
    """

    objects: np.ndarray
    overlaps: np.ndarray


@dataclass(frozen=True)
class Assigner:
    """Gives each prior the object that it overlaps most.

    Attributes:
        positive: from this IoU on a prior stands for an object.
        negative: below this one it is background; between the two it is ignored.
        least: smallest largest IoU of an object that may take priors below ``positive``.
        low_quality: whether an object gets the priors that overlap it most, however little that is.
        ignored_share: of a prior's area within a region to ignore, from which on it is ignored; negative: never.
    """

    positive: float
    negative: float
    least: float = 0.0
    low_quality: bool = True
    ignored_share: float = -1.0

    def __call__(self, priors: np.ndarray, objects: np.ndarray, ignored: np.ndarray | None = None) -> Assigned:
        """Of priors (N, 4), objects (G, 4) and regions to ignore (K, 4), all float32.

        With ``low_quality`` the priors of an object are all whose IoU *equals* its largest, and of several objects the
        last one gets a prior. Where ``least`` is 0, an object that no prior touches takes all priors that it does not
        touch; mmdetection has it so.
        """
        count = len(priors)
        if not len(objects):
            return Assigned(np.zeros(count, np.int32), np.zeros(count, np.float32))
        overlaps = iou(objects, priors)  # (G, N)
        if self.ignored_share > 0 and ignored is not None and len(ignored):
            shares = intersections(priors, ignored) / areas(priors)[:, None]
            overlaps[:, shares.max(1) > self.ignored_share] = -1
        largest = overlaps.max(0)
        found = np.full(count, IGNORED, np.int32)
        found[(largest >= 0) & (largest < np.float32(self.negative))] = BACKGROUND
        positive = largest >= np.float32(self.positive)
        found[positive] = overlaps.argmax(0)[positive] + 1
        if self.low_quality:
            for number, best in enumerate(overlaps.max(1)):
                if best >= np.float32(self.least):
                    found[overlaps[number] == best] = number + 1
        return Assigned(found, largest)
