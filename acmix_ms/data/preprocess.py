"""What evaluation does to one image, as numbers that can travel with a net; the loaders take their steps from here."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.images import UnreadableImageError, read_encoded
from acmix_ms.errors import UserError

INTERPOLATIONS = ("bilinear", "bicubic")
LARGEST_SIDE = 16384  # pixels of a resized picture; more is a mistake
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

    @classmethod
    def from_dict(cls, values: dict) -> Preprocess:
        """What `dataclasses.asdict` made, read again from JSON, with every value looked at.

        Raises:
            ValueError: one sentence that names the field.
        """
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        known = {field.name for field in fields(cls)}
        for name in known.symmetric_difference(values):
            raise ValueError(f"{name} is missing" if name in known else f"unknown key {name!r}")
        if any(type(values[name]) is not int for name in ("resize", "crop")):
            raise ValueError(f"resize={values['resize']!r} or crop={values['crop']!r} is no whole number")
        if not 1 <= values["crop"] <= values["resize"] <= LARGEST_SIDE:
            raise ValueError(f"crop={values['crop']} out of resize={values['resize']} is impossible")
        if values["interpolation"] not in INTERPOLATIONS:
            raise ValueError(f"interpolation={values['interpolation']!r} is none of {', '.join(INTERPOLATIONS)}")
        for name in ("mean", "std"):
            numbers = values[name]
            if not isinstance(numbers, list) or len(numbers) != 3 or not all(map(_is_number, numbers)):
                raise ValueError(f"{name}={numbers!r} is no list of 3 numbers")
        if not _is_number(values["scale"]) or min(values["scale"], *values["std"]) <= 0:
            raise ValueError(f"scale={values['scale']!r} or std={values['std']} is not above 0")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

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


def _is_number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # nan is not


def preprocess_of(data: DataConfig) -> Preprocess:
    """What the validation loader of ``data`` does to an image."""
    if data.name == "digits":
        from acmix_ms.data.digits import MEAN, STD

        return Preprocess(data.image_size, data.image_size, "bilinear", 3 * (MEAN,), 3 * (STD,))
    return Preprocess(round(data.image_size / data.eval_crop_ratio), data.image_size, data.interpolation)
