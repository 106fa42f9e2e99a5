"""What evaluation does to one image, as numbers that can travel with a net, and done with Pillow alone."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from acmix_ms.config import DataConfig
from acmix_ms.data.encoded import IMAGENET_MEAN, IMAGENET_STD
from acmix_ms.data.images import UnreadableImageError, read_encoded
from acmix_ms.errors import UserError

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to ``resize`` pixels, the middle ``crop`` x ``crop``, then (pixel * scale - mean) / std, as NCHW.

    ``mean`` and ``std`` are of red, green and blue on the scale 0..1.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1 / 255

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An image of any size and mode -> (3, crop, crop) float32."""
        image = image.convert("RGB")
        shorter = min(image.size)
        size = [max(self.crop, side * self.resize // shorter) for side in image.size]  # (width, height), rounded down
        if tuple(size) != image.size:
            image = image.resize(size, RESAMPLING[self.interpolation])
        left, top = ((side - self.crop) // 2 for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + self.crop, top + self.crop)), np.float32)
        normal = (pixels * self.scale - np.float32(self.mean)) / np.float32(self.std)
        return normal.transpose(2, 0, 1).astype(np.float32)

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """The image in a file, upright -> (3, crop, crop) float32.

        Raises:
            UserError: there is no image in it that can be read.
        """
        try:
            with Image.open(io.BytesIO(read_encoded(str(path)).tobytes())) as image:
                return self(image)
        except (UnreadableImageError, OSError) as error:
            raise UserError(f"image {path} cannot be read ({error}): give a JPEG, PNG or the like") from error


def preprocess_of(data: DataConfig) -> Preprocess:
    """What the validation loader of ``data`` does to an image."""
    if data.name == "digits":
        from acmix_ms.data.digits import MEAN, STD

        return Preprocess(data.image_size, data.image_size, "bilinear", 3 * (MEAN,), 3 * (STD,))
    return Preprocess(round(data.image_size / data.eval_crop_ratio), data.image_size, data.interpolation)
