"""Anchors: boxes of several sizes and shapes at every place of every map, as mmdetection's AnchorGenerator has them.

Boxes are (x1, y1, x2, y2) in pixels of the input, without the one that older code adds. The order of everything that
belongs to anchors is: levels, rows, columns, ratios, scales.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PADDED = 32  # mmdetection pads an image to a multiple of it, and uses anchors in the padding, not those further out


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image with its padding."""
    height, width = (-(-side // PADDED) * PADDED for side in size)
    return height, width


@dataclass(frozen=True)
class AnchorGenerator:
    """Anchors of a pyramid of maps.

    Attributes:
        strides: of the maps in pixels, the finest first.
        scales: sides of the square anchors, in strides.
        ratios: height / width.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_place(self) -> int:
        """Anchors at each place of a map."""
        return len(self.scales) * len(self.ratios)

    def base(self, level: int) -> np.ndarray:
        """(A, 4) float32: the anchors of a level around the point (0, 0), which is the upper left corner of the first
        cell.
        """
        scales = np.asarray(self.scales, np.float32)
        roots = np.sqrt(np.asarray(self.ratios, np.float32))[:, None]
        width = (self.strides[level] * (1 / roots) * scales).reshape(-1)
        height = (self.strides[level] * roots * scales).reshape(-1)
        return np.stack([-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height], 1).astype(np.float32)

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(h, w) of the maps of an image whose sides are multiples of the coarsest stride, or of what convolutions with
        stride 2 make of others.
        """
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)

    def levels(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """For each level (h * w * A, 4) float32, of maps of these (h, w)."""
        return [_grid(self, level, *size) for level, size in enumerate(sizes)]

    def all(self, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """(N, 4) float32: those of all levels."""
        return np.concatenate(self.levels(sizes))

    def inside(self, sizes: Sequence[tuple[int, int]], height: int, width: int) -> np.ndarray:
        """(N,) bool: which anchors belong to cells that begin within an image of this size, on a larger canvas."""
        found = []
        for (rows, columns), stride in zip(sizes, self.strides):
            inside = np.zeros((rows, columns, self.per_place), bool)
            inside[: -(-height // stride), : -(-width // stride)] = True
            found.append(inside.reshape(-1))
        return np.concatenate(found)


@functools.lru_cache(maxsize=64)
def _grid(generator: AnchorGenerator, level: int, height: int, width: int) -> np.ndarray:
    stride = generator.strides[level]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) * stride, np.arange(height, dtype=np.float32) * stride)
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + generator.base(level)).reshape(-1, 4)
