"""What evaluation does to one image, as numbers that can travel with a net; the loaders take their steps from here."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.images import UnreadableImageError, read_encoded
from acmix_ms.errors import UserError

INTERPOLATIONS = ("bilinear", "bicubic")
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB on the scale 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to ``resize`` pixels, the middle ``crop`` x ``crop``, then (pixel * scale - mean) / std, as NCHW.

    ``mean`` and ``std`` are of red, green and blue, as ``scale`` leaves them: 0..1.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1 / 255

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB of any size -> (3, crop, crop) float32."""
        for step in (*self.take_middle(), *self.normalize()):
            image = step(image)
        return image

    def take_middle(self) -> list:
        """The steps from (H, W, 3) uint8 to (crop, crop, 3) uint8."""
        from mindspore.dataset import vision

        interpolation = getattr(vision.Inter, self.interpolation.upper())
        return [vision.Resize(self.resize, interpolation), vision.CenterCrop(self.crop)]

    def normalize(self) -> list:
        """The steps from (H, W, 3) uint8 to (3, H, W) float32."""
        from mindspore.dataset import vision

        full = 1 / self.scale
        mean, std = ([full * value for value in values] for values in (self.mean, self.std))
        return [vision.Normalize(mean, std), vision.HWC2CHW()]

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """The image in a file, upright -> (3, crop, crop) float32.

        Raises:
            UserError: there is no image in it that can be read.
        """
        from mindspore.dataset import vision

        try:
            return self(vision.Decode()(read_encoded(str(path))))
        except (UnreadableImageError, RuntimeError) as error:
            raise UserError(f"image {path} cannot be read ({error}): give a JPEG, PNG or the like") from error


def preprocess_of(data: DataConfig) -> Preprocess:
    """What the validation loader of ``data`` does to an image."""
    if data.name == "digits":
        from acmix_ms.data.digits import MEAN, STD

        return Preprocess(data.image_size, data.image_size, "bilinear", 3 * (MEAN,), 3 * (STD,))
    return Preprocess(round(data.image_size / data.eval_crop_ratio), data.image_size, data.interpolation)
