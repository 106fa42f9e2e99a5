"""Masks of objects as COCO writes them, polygons and run lengths, drawn where the image lies on its canvas."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from acmix_ms.data.canvas import Placement

LEAST_NUMBERS = 6  # of a polygon: three points
LARGEST = 2.0**14  # pixels: how far from the canvas corners of polygons may lie; drawing takes memory by their distance


def run_lengths(counts: Any) -> list[int]:
    """The lengths of runs of 0 and 1, in turns, of a mask's columns; ``counts`` may be packed as COCO packs them.

    Raises:
        ValueError: they are none.
    """
    if isinstance(counts, list) and all(type(count) is int for count in counts):
        return counts
    if not isinstance(counts, str):
        raise ValueError("counts must be a list of whole numbers or a text")
    found: list[int] = []
    value = shift = 0
    for character in counts.encode():
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError("counts hold a character of another kind")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # goes on
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        found.append(value + found[-2] if len(found) > 2 else value)  # the third on as changes
        value = shift = 0
    if shift:
        raise ValueError("counts end within a number")
    return found


def runs_of(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
    """`run_lengths` of a whole mask of an image of ``size`` (height, width).

    Raises:
        ValueError: it is of another size, or no mask.
    """
    if segmentation.get("size") != list(size):
        raise ValueError(f"size={segmentation.get('size')!r}, but the image is {list(size)} (height, width)")
    runs = run_lengths(segmentation.get("counts"))
    if sum(runs) != size[0] * size[1] or min(runs) < 0:
        raise ValueError(f"counts are of {sum(runs)} pixels, the image has {size[0] * size[1]}")
    return np.array(runs)


class Outlines:
    """What covers the pixels of objects: for each either polygons or run lengths.

    Args:
        segmentations: of each object, a list of polygons or a dictionary of run lengths.
        sizes: (height, width) of the image of each object.
        tools: the module pycocotools.mask.

    Attributes:
        empty: numbers of the objects that no polygon of three points or more is given for.

    Raises:
        ValueError: one is neither; ``args`` are its number and what is wrong.
    """

    def __init__(self, segmentations: Iterable[Any], sizes: Iterable[tuple[int, int]], tools: Any):
        numbers, ends, first = array("f"), array("q", [0]), array("q", [0])
        self._runs: dict[int, tuple[tuple[int, int], np.ndarray]] = {}
        self.empty: list[int] = []
        for number, (segmentation, size) in enumerate(zip(segmentations, sizes)):
            try:
                if isinstance(segmentation, dict):
                    self._runs[number] = (size, runs_of(segmentation, size))
                elif isinstance(segmentation, list):
                    for polygon in segmentation:
                        if len(polygon) >= LEAST_NUMBERS and not len(polygon) % 2:
                            numbers.extend(polygon)
                            ends.append(len(numbers))
                    if len(ends) - 1 == first[-1]:
                        self.empty.append(number)
                else:
                    raise ValueError("must be a list of polygons, or of run lengths with their size")
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(number, str(error)) from error
            first.append(len(ends) - 1)
        self._numbers, self._ends = np.array(numbers), np.array(ends)  # of all polygons one behind the other
        self._first = np.array(first)  # polygon of each object
        odd = np.flatnonzero(~np.isfinite(self._numbers))
        if len(odd):
            polygon = np.searchsorted(self._ends, odd[0], side="right") - 1
            raise ValueError(int(np.searchsorted(self._first, polygon, side="right") - 1), "a coordinate is not finite")
        self._tools = tools

    def __len__(self) -> int:
        return len(self._first) - 1

    def draw(self, number: int, place: Placement) -> np.ndarray:
        """The mask of an object where it is seen on the canvas, (h, w) uint8 of ``place.size``."""
        if number in self._runs:
            (height, width), runs = self._runs[number]
            bits = np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs)
            return place.chart(bits.reshape(width, height).T)  # column by column
        height, width = place.size
        polygons = range(self._first[number], self._first[number + 1])
        if not len(polygons):
            return np.zeros((height, width), np.uint8)
        corners = [
            np.clip(place.points(self._numbers[self._ends[i] : self._ends[i + 1]].reshape(-1, 2)), -LARGEST, LARGEST)
            for i in polygons
        ]
        drawn = self._tools.frPyObjects([points.ravel().tolist() for points in corners], height, width)
        return self._tools.decode(self._tools.merge(drawn))
