"""What evaluation does to one image, as numbers that can travel with a net; the loaders take their steps from here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from acmix_ms.config import DataConfig
from acmix_ms.data.images import UnreadableImageError, read_image
from acmix_ms.errors import UserError

INTERPOLATIONS = ("bilinear", "bicubic")
RESIZE_METHODS = ("pillow", "fast")
MAX_SIDE = 2**14  # pixels
LARGEST = 1e9  # of mean, std, scale and 1 / std: no picture needs more, and float32 can compute with it
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB on the scale 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to ``resize`` pixels, the middle ``crop`` x ``crop``, then (pixel * scale - mean) / std, as NCHW.

    With ``resize_method="pillow"`` as torchvision does it with Pillow's images: the longer side becomes
    ``int(resize * longer / shorter)``, Pillow's ``Image.resize`` averages over all pixels that a new one covers and
    rounds to 8 bits, and the crop begins at ``round((side - crop) / 2)``, halves to the even number. With ``"fast"``
    as MindSpore does it with arrays: it reads the pixels around a point, whatever lies between the points.

    ``mean`` and ``std`` are of red, green and blue, as ``scale`` leaves them: 0..1.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1 / 255
    resize_method: str = "pillow"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """What a description holds, of which nothing is believed.

        A description without ``resize_method`` is of the time when there was only "fast".

        Raises:
            ValueError: a field is missing, unknown or cannot be.
        """
        if not isinstance(values, Mapping):
            raise ValueError("preprocess: give the fields by name")
        known = {field.name: field for field in fields(cls)}
        odd = [name for name in values if name not in known]
        odd += [name for name, field in known.items() if field.default is MISSING and name not in values]
        if odd:
            raise ValueError(f"preprocess: field {odd[0]!r} is unknown or missing")
        values = {"resize_method": "fast", **values}
        for name in ("resize", "crop"):
            if type(values[name]) is not int or not 1 <= values[name] <= MAX_SIDE:
                raise ValueError(f"preprocess.{name}={values[name]!r}: give a whole number from 1 to {MAX_SIDE}")
        if values["crop"] > values["resize"]:
            raise ValueError(f"preprocess.crop={values['crop']}: give at most resize, which is {values['resize']}")
        for name, choices in (("interpolation", INTERPOLATIONS), ("resize_method", RESIZE_METHODS)):
            if values.get(name, choices[0]) not in choices:
                raise ValueError(f"preprocess.{name}={values[name]!r}: choose from {', '.join(choices)}")
        if "scale" in values and not _is_positive(values["scale"]):
            raise ValueError(f"preprocess.scale={values['scale']!r}: give a number above 0")
        for name, fits, what in (("mean", _is_finite, "finite numbers"), ("std", _is_positive, "numbers above 0")):
            given = values.get(name, (1.0, 1.0, 1.0))
            if not isinstance(given, (list, tuple)) or len(given) != 3 or not all(map(fits, given)):
                raise ValueError(f"preprocess.{name}={given!r}: give three {what}")
            if name in values:
                values[name] = tuple(map(float, given))
        return cls(**values)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB of any size -> (3, crop, crop) float32."""
        return self.normalize(self.take_middle(image))

    def take_middle(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (crop, crop, 3) uint8."""
        if self.resize_method == "fast":
            from mindspore.dataset import vision

            image = vision.Resize(self.resize, _mindspore(self.interpolation))(image)
            return vision.CenterCrop(self.crop)(image)
        height, width = shorter_side(image.shape[0], image.shape[1], self.resize)
        top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
        image = resized(image, height, width, self.interpolation, self.resize_method)
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))

    def normalize(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) uint8 to (3, H, W) float32, into ``out`` where that is given."""
        out = np.empty((3, *image.shape[:2]), np.float32) if out is None else out
        for channel, (mean, std) in enumerate(zip(self.mean, self.std)):
            np.multiply(image[:, :, channel], np.float32(self.scale / std), out=out[channel])
            out[channel] -= np.float32(mean / std)
        return out

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """The image in a file, upright -> (3, crop, crop) float32.

        Raises:
            UserError: there is no image in it that can be read.
        """
        return self(self.pixels(path))

    @staticmethod
    def pixels(path: str | os.PathLike) -> np.ndarray:
        """The same as (H, W, 3) uint8."""
        try:
            return read_image(path)
        except UnreadableImageError as error:
            raise UserError(f"image {path} cannot be read ({error}): give a JPEG, PNG or the like") from error


def preprocess_of(data: DataConfig) -> Preprocess:
    """What the validation loader of ``data`` does to an image."""
    if data.name == "digits":
        from acmix_ms.data.digits import MEAN, STD

        return Preprocess(data.image_size, data.image_size, "bilinear", 3 * (MEAN,), 3 * (STD,))
    resize = round(data.image_size / data.eval_crop_ratio)
    return Preprocess(resize, data.image_size, data.interpolation, resize_method=data.resize)


def shorter_side(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) of an image whose shorter side becomes ``side``, rounded as torchvision rounds."""
    shorter = min(height, width)
    return tuple(side if own == shorter else int(side * own / shorter) for own in (height, width))


def resized(image: np.ndarray, height: int, width: int, interpolation: str, method: str) -> Image.Image:
    """(h, w, 3) uint8 in another size; ``method`` is one of `RESIZE_METHODS`, see `Preprocess`."""
    if method == "fast":
        from mindspore.dataset import vision

        return Image.fromarray(vision.Resize([height, width], _mindspore(interpolation))(image))
    return Image.fromarray(image).resize((width, height), resampling(interpolation))


def resampling(interpolation: str) -> Image.Resampling:
    """Pillow's name of an interpolation."""
    return Image.Resampling[interpolation.upper()]


def _mindspore(interpolation: str) -> Any:
    from mindspore.dataset import vision

    return getattr(vision.Inter, interpolation.upper())


def _is_finite(value: Any) -> bool:
    # A whole number of a JSON may be too large for a float; comparing serves these and nan as well.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _is_positive(value: Any) -> bool:
    return _is_finite(value) and value >= 1 / LARGEST
