"""What every detector promises to data, training, evaluation and export."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, nn

from acmix_ms.objects import Objects
from acmix_ms.postprocess import Detections


class Detector(nn.Cell):
    """Base class: images (B, 3, H, W) -> raw maps, or with targets -> a tuple of losses, float32, named by ``terms``.

    Attributes:
        num_classes: of objects, without background.
        in_half: names of the Cells that compute in 16 bits where a training does; boxes, targets and losses stay in
            float32.
        terms: names of the losses, whose sum is minimised; mmdetection's.
        with_masks: the objects that `prepare` is given must have masks, and detections have some.
        head_names: first parts of the names of parameters that another ``num_classes`` changes.
    """

    terms: tuple[str, ...] = ()
    in_half: tuple[str, ...]
    with_masks = False
    head_names: tuple[str, ...] = ()

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    @abstractmethod
    def prepare(
        self, objects: Objects, canvas: tuple[int, int], size: tuple[int, int], random: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        """What `construct` takes behind the images, for one image, in NumPy; called by the loader's threads.

        All arrays have shapes that depend on ``canvas`` only, so that they can be stacked to a batch.

        Args:
            objects: in the image.
            canvas: (H, W) of the input.
            size: (height, width) of the image on it; the rest is padding.
            random: of this image in this epoch; there is no other randomness in a step.
        """

    @abstractmethod
    def detections(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """What is found in images (B, 3, H, W), of which each has (height, width) on its canvas; the rest on the host
        as mmdetection does it.
        """


def example_targets(net: Detector, batch: int, canvas: tuple[int, int]) -> list[np.ndarray]:
    """What `Detector.construct` takes behind ``batch`` images (H, W) with two objects each: for measurements and trials
    that have no data.
    """
    scale = np.asarray([canvas[1], canvas[0]] * 2, np.float32)
    boxes = np.asarray([[0.1, 0.1, 0.6, 0.5], [0.4, 0.3, 0.9, 0.9]], np.float32) * scale
    masks = np.zeros((2, *canvas), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[y1:y2, x1:x2] = 1
    objects = Objects(boxes, np.asarray([0, 1], np.int32), np.zeros((0, 4), np.float32), masks)
    each = [net.prepare(objects, canvas, canvas, np.random.default_rng(i)) for i in range(batch)]
    return [np.stack(parts) for parts in zip(*each)]


def detect(net: Detector, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
    """What a net finds: for each image ``(boxes (n, 4), scores (n,), labels (n,))``, and of nets with masks ``masks``.

    Args:
        net: switched to evaluation, and left so.
        images: (B, 3, H, W) float32, normalised, at the upper left of their canvas.
        sizes: (height, width) of each image on the canvas: boxes are clipped to it.
    """
    return net.set_train(False).detections(images, sizes)
