"""What a segmentor answers for whole images: at once or in windows, for mirror images and other sizes too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from acmix_ms.maps import classes_of, enlarged, label_map, softmax, windows

from .base import Segmentor

ALIGNED = 32  # pixels: sides of images in other sizes are multiples

Size = tuple[int, int]
Run = Callable[[np.ndarray], np.ndarray]  # images (B, 3, H, W) float32 -> logits (B, C, h, w)


class Inference(NamedTuple):
    """How images are looked at.

    Attributes:
        window: (height, width) of the parts that are looked at one after the other; None: all at once.
        stride: from window to window, down and across.
        scales: answers are means over images so much larger.
        flip: and over their mirror images.
    """

    window: Size | None = None
    stride: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False


WHOLE = Inference()


def segment(net: Segmentor, images: Tensor, sizes: Sequence[Size], inference: Inference = WHOLE) -> list[np.ndarray]:
    """What each pixel is taken for: (H, W) int32 of each image in its own size, `acmix_ms.maps.UNKNOWN` where the net
    gives no numbers.

    Args:
        net: switched to evaluation, and left so.
        images: (B, 3, H, W) float32, normalised, which fill their arrays.
        sizes: (height, width) of each image as it was; (0, 0) of what is none.
    """
    net.set_train(False)
    return segment_with(lambda part: net(Tensor(part)).asnumpy(), images.asnumpy(), sizes, inference)


def segment_with(run: Run, images: np.ndarray, sizes: Sequence[Size], inference: Inference = WHOLE) -> list[np.ndarray]:
    """`segment` by whatever gives logits, such as an exported file."""
    variants = [(scale, mirrored) for scale in inference.scales for mirrored in (False, True)[: 1 + inference.flip]]
    sizes = [(int(height), int(width)) for height, width in sizes]
    if variants == [(1.0, False)]:
        logits, size = logits_of(run, images, inference), images.shape[2:]
        return [label_map(each, [size, own]) if all(own) else _nothing() for each, own in zip(logits, sizes)]
    totals: list = [0.0] * len(sizes)
    for scale, mirrored in variants:
        varied = resized(images, scale)
        logits = logits_of(run, varied[..., ::-1] if mirrored else varied, inference)
        for i, own in enumerate(sizes):
            if all(own):
                found = logits[i][..., ::-1] if mirrored else logits[i]
                totals[i] = totals[i] + softmax(enlarged(found, [varied.shape[2:], own]))
    return [classes_of(total) if all(own) else _nothing() for total, own in zip(totals, sizes)]


def _nothing() -> np.ndarray:
    return np.zeros((0, 0), np.int32)


def resized(images: np.ndarray, scale: float) -> np.ndarray:
    """Images so much larger, in multiples of `ALIGNED`."""
    if scale == 1.0:
        return images
    size = tuple(max(round(side * scale / ALIGNED), 1) * ALIGNED for side in images.shape[2:])
    return np.stack([enlarged(image, [size]) for image in images])


def logits_of(run: Run, images: np.ndarray, inference: Inference) -> np.ndarray:
    """(B, C, h, w): those of the net, or in windows (B, C, H, W), means where these overlap."""
    images = np.ascontiguousarray(images, np.float32)
    if inference.window is None:
        return run(images)
    height, width = images.shape[2:]
    high, wide = inference.window
    stride = inference.stride or (max(2 * high // 3, 1), max(2 * wide // 3, 1))
    total, count = 0.0, np.zeros((height, width), np.float32)
    for top, left in windows((height, width), inference.window, stride):
        part = images[:, :, top : top + high, left : left + wide]
        seen = part.shape[2:]
        # Where an image is smaller than a window, zeros, the colour of the mean: a compiled net takes one size.
        part = np.pad(part, ((0, 0), (0, 0), (0, high - seen[0]), (0, wide - seen[1])))
        logits = run(part)
        if isinstance(total, float):
            total = np.zeros((*logits.shape[:2], height, width), np.float32)
        for i, each in enumerate(logits):
            total[i, :, top : top + seen[0], left : left + seen[1]] += enlarged(each, [(high, wide)])[
                :, : seen[0], : seen[1]
            ]
        count[top : top + seen[0], left : left + seen[1]] += 1
    return total / count
