"""Maps of scores and of classes on the host, in NumPy: resizing as PyTorch does it, and what a pixel is taken for.

Shared by evaluation, prediction and exported files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IGNORED = 255  # as a label: the pixel has no class that is known, and counts nowhere
UNKNOWN = -1  # as an answer: the net gave no numbers
NOTHING = "no answer"  # what pixels of `UNKNOWN` are called
ROWS = 2**22  # so many scores are compared at once

Size = tuple[int, int]


def bilinear_weights(size: int, low: int) -> np.ndarray:
    """Bilinear interpolation of one axis (half-pixel centres, edges repeated) as a matrix (size, low) float64."""
    centre = np.clip((np.arange(size) + 0.5) * low / size - 0.5, 0, low - 1)
    first = np.floor(centre).astype(int)
    matrix = np.zeros((size, low))
    np.add.at(matrix, (np.arange(size), first), 1 - (centre - first))
    np.add.at(matrix, (np.arange(size), np.minimum(first + 1, low - 1)), centre - first)
    return matrix


def average_weights(low: int, size: int) -> np.ndarray:
    """Means of ``low`` neighbouring parts of an axis of ``size`` places as a matrix (low, size) float64.

    PyTorch's adaptive pooling: part i is from floor(i * size / low) to before ceil((i + 1) * size / low), so that parts
    share places where ``low`` does not divide ``size``.
    """
    matrix = np.zeros((low, size))
    for i in range(low):
        first, last = i * size // low, -(-(i + 1) * size // low)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


def enlarged(scores: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """(C, h, w) -> (C, H, W) float32, bilinear from size to size: of the last (H, W) of ``sizes``.

    Interpolation is linear, so that all steps of an axis are one matrix.
    """
    down, across = np.eye(scores.shape[1]), np.eye(scores.shape[2])
    for height, width in sizes:
        down, across = bilinear_weights(height, len(down)) @ down, bilinear_weights(width, len(across)) @ across
    wide = scores.astype(np.float32) @ across.T.astype(np.float32)  # (C, h, W)
    return down.astype(np.float32) @ wide


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the first axis, float32."""
    shares = np.exp(scores - scores.max(0, keepdims=True))
    return shares / shares.sum(0, keepdims=True)


def classes_of(scores: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W) int32: the best class, or `UNKNOWN` where some score is no finite number."""
    return np.where(np.isfinite(scores).all(0), scores.argmax(0), UNKNOWN).astype(np.int32)


def label_map(scores: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """What each pixel is taken for: logits (C, h, w) -> (H, W) int32 in the last of ``sizes``, see `enlarged`.

    Scores are enlarged, never classes. In strips, since 150 classes of a photograph take hundreds of megabytes.
    """
    height, width = sizes[-1]
    down = np.eye(scores.shape[1])
    for each, _ in sizes:
        down = bilinear_weights(each, len(down)) @ down
    wide = enlarged(scores, [(scores.shape[1], each) for _, each in sizes])  # (C, h, W)
    found, rows = np.empty((height, width), np.int32), max(1, ROWS // (len(scores) * width))
    for top in range(0, height, rows):
        found[top : top + rows] = classes_of(down[top : top + rows].astype(np.float32) @ wide)
    return found


def name_of(label: int, names: Sequence[str] | None) -> str:
    """What an answer is called; ``class 0`` and so on without names."""
    if label == UNKNOWN:
        return NOTHING
    return f"class {label}" if names is None else names[label]


def example_labels(batch: int, height: int, width: int, classes: int) -> np.ndarray:
    """(B, H, W) int32: squares of 8 pixels of all classes, and a row that does not count; for measurements and trials
    that have no data.
    """
    image, row, column = np.indices((batch, height, width)) // np.array([1, 8, 8]).reshape(3, 1, 1, 1)
    labels = (image + row + column).astype(np.int32) % classes
    labels[:, 0] = IGNORED
    return labels


def windows(size: Size, window: Size, stride: Size) -> list[tuple[int, int]]:
    """(top, left) of the windows that cover a map, mmsegmentation's: the last of a row lies at its end."""
    starts = []
    for side, length, step in zip(size, window, stride):
        count = max(-(-(side - length) // step), 0) + 1
        starts.append([max(min(i * step, side - length), 0) for i in range(count)])
    return [(top, left) for top in starts[0] for left in starts[1]]
