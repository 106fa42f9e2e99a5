"""What evaluation does to one image, as numbers that can travel with a net; with the loaders' own arithmetic."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.encoded import IMAGENET_MEAN, IMAGENET_STD, normalize, take_middle
from acmix_ms.data.images import UnreadableImageError, read_encoded
from acmix_ms.errors import UserError

INTERPOLATIONS = ("bilinear", "bicubic")


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
        cropped = take_middle(self.resize, self.crop, self.interpolation)
        for step in (*cropped, *normalize(self.mean, self.std, self.scale)):
            image = step(image)
        return image

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
