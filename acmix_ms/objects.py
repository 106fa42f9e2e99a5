"""The objects in one training image, as a data set gives them and a detector makes its targets of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Objects(NamedTuple):
    """What is to be found in one image, in pixels of the canvas on which the image lies.

    Attributes:
        boxes: (G, 4) float32, (x1, y1, x2, y2).
        labels: (G,) int32, classes from 0.
        ignored: (K, 4) float32, regions that count neither as objects nor as background, such as crowds.
        masks: (G, H, W) uint8, 0 and 1, on the whole canvas; None where the data are read without masks.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    masks: np.ndarray | None = None
