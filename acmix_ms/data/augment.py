"""Augmentation: crops, colours and RandAugment with Pillow; erasing, mixup and cutmix of whole batches in NumPy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from acmix_ms.config import AugmentConfig
from acmix_ms.errors import UserError

TOP_MAGNITUDE = 10  # of timm's scale
SIMPLE = {"auto contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize, "invert": ImageOps.invert}
ENHANCERS = {
    "saturation": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
OPERATIONS = (
    *SIMPLE,
    *ENHANCERS,
    *("rotate", "posterize", "solarize", "solarize add", "shear x", "shear y", "translate x", "translate y"),
)

CROP_ASPECT = (3 / 4, 4 / 3)  # width over height of a random crop
CROP_ATTEMPTS = 10

ERASED_AREA = (0.02, 1 / 3)  # of the image, as timm and the DeiT and Swin recipes have it
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASING_ATTEMPTS = 10

_EXAMPLE = "give timm's notation, such as rand-m9-mstd0.5-inc1"
_PART = re.compile(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RandAugment:
    """What ``rand-m9-mstd0.5-inc1`` says.

    Attributes:
        magnitude: 0 (nothing) to 10 (most).
        deviation: of the magnitude, which is drawn from a normal distribution and kept within 0 to 10.
        layers: operations in a row.
        increasing: every operation does more with a larger magnitude; otherwise some do less, as in the first papers.
        probability: with which each of the operations is applied.
    """

    magnitude: float = 10.0
    deviation: float = 0.0
    layers: int = 2
    increasing: bool = False
    probability: float = 0.5


def parse_auto_augment(text: str | None) -> RandAugment | None:
    """Read ``data.augment.auto_augment``; None or an empty text means none.

    Raises:
        UserError: another notation, an unknown part, or a number out of range.
    """
    if not text:
        return None
    given = f"data.augment.auto_augment={text!r}"
    kind, *parts = text.split("-")
    if kind not in ("rand", "randaug"):  # timm's name and MindCV's
        raise UserError(f"{given}: {kind!r} is not known here; {_EXAMPLE}")
    values = {"m": float(TOP_MAGNITUDE), "mstd": 0.0, "n": 2.0, "inc": 0.0, "p": 0.5}
    limits = {"m": (0, TOP_MAGNITUDE), "mstd": (0, TOP_MAGNITUDE), "n": (1, 4), "inc": (0, 1), "p": (0, 1)}
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            raise UserError(f"{given}: part {part!r} is not one of m, mstd, n, inc, p; {_EXAMPLE}")
        name, value = match.group(1), float(match.group(2))
        least, most = limits[name]
        if not least <= value <= most or (name in ("n", "inc") and value != int(value)):
            whole = "a whole number " if name in ("n", "inc") else ""
            raise UserError(f"{given}: {name} must be {whole}from {least} to {most}")
        values[name] = value
    return RandAugment(values["m"], values["mstd"], int(values["n"]), bool(values["inc"]), values["p"])


def crop_box(height: int, width: int, least_area: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image, drawn as torchvision's RandomResizedCrop does."""
    for _ in range(CROP_ATTEMPTS):
        area = height * width * random.uniform(least_area, 1.0)
        aspect = math.exp(random.uniform(*np.log(CROP_ASPECT)))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1)), tall, wide
    # A very long image: its middle, as large as the shapes allow.
    wide = min(width, round(height * CROP_ASPECT[1]))
    tall = min(height, round(width / CROP_ASPECT[0]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def jitter(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, in a random order, each by a factor of 1 +- ``strength``."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in random.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(random.uniform(1 - strength, 1 + strength))
    return image


def rand_augment(
    image: Image.Image,
    spec: RandAugment,
    interpolation: Image.Resampling,
    fill: tuple[int, int, int],
    random: np.random.Generator,
) -> Image.Image:
    """Apply ``spec.layers`` operations, each drawn anew, with timm's strengths and its fifteen operations.

    Args:
        image: RGB.
        interpolation: for what moves pixels.
        fill: colour of what comes in from outside.
    """
    for _ in range(spec.layers):
        kind = OPERATIONS[random.integers(len(OPERATIONS))]
        applied, sign = random.random() < spec.probability, random.choice((-1.0, 1.0))
        level = random.normal(spec.magnitude, spec.deviation) if spec.deviation else spec.magnitude
        if applied:
            level = min(max(level / TOP_MAGNITUDE, 0.0), 1.0)
            image = operate(image, kind, level, sign, spec.increasing, interpolation, fill)
    return image


def operate(
    image: Image.Image,
    kind: str,
    level: float,
    sign: float,
    increasing: bool,
    interpolation: Image.Resampling,
    fill: tuple[int, int, int],
) -> Image.Image:
    """One of the `OPERATIONS` at ``level`` 0 to 1; ``sign`` is 1 or -1, for those that have two directions."""
    if kind in ENHANCERS:
        factor = max(0.1, 1 + sign * 0.9 * level) if increasing else 0.1 + 1.8 * level
        return ENHANCERS[kind](image).enhance(factor)
    if kind in SIMPLE:
        return SIMPLE[kind](image)
    if kind == "posterize":
        bits = int(4 * level)
        return ImageOps.posterize(image, 4 - bits if increasing else bits)
    if kind == "solarize":
        threshold = int(256 * level)
        return ImageOps.solarize(image, 256 - threshold if increasing else threshold)
    if kind == "solarize add":  # brighter where it is dark
        values = np.arange(256)
        table = np.where(values < 128, np.minimum(values + int(110 * level), 255), values)
        return image.point(3 * table.tolist())
    if kind == "rotate":
        return image.rotate(30 * level * sign, interpolation, fillcolor=fill)
    moves = {
        "shear x": (1, 0.3 * level * sign, 0, 0, 1, 0),
        "shear y": (1, 0, 0, 0.3 * level * sign, 1, 0),
        "translate x": (1, 0, 0.45 * level * sign * image.width, 0, 1, 0),
        "translate y": (1, 0, 0, 0, 1, 0.45 * level * sign * image.height),
    }
    return image.transform(image.size, Image.Transform.AFFINE, moves[kind], interpolation, fillcolor=fill)


def erase(images: np.ndarray, probability: float, random: np.random.Generator) -> np.ndarray:
    """Overwrite a rectangle with normal noise, one of its own for every pixel, in a share of the images.

    Args:
        images: (B, C, H, W) float32, normalised; not changed.
        probability: of an image to be erased.
    """
    images = images.copy()
    channels, height, width = images.shape[1:]
    for i in np.flatnonzero(random.random(len(images)) < probability):
        for _ in range(ERASING_ATTEMPTS):
            area = random.uniform(*ERASED_AREA) * height * width
            aspect = math.exp(random.uniform(*np.log(ERASED_ASPECT)))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < tall < height and 0 < wide < width:
                top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
                noise = random.standard_normal((channels, tall, wide), np.float32)
                images[i, :, top : top + tall, left : left + wide] = noise
                break
    return images


@dataclass(frozen=True)
class Mixing:
    """Mixup and cutmix of a batch with its own reverse, as timm's ``Mixup`` in its batch mode.

    Attributes:
        mixup, cutmix: alpha of the Beta distribution of the shares; 0 turns one of them off.
        probability: of a batch to be mixed at all.
        switch_probability: of cutmix where both are on.
    """

    mixup: float
    cutmix: float
    probability: float
    switch_probability: float

    @classmethod
    def of(cls, config: AugmentConfig) -> Mixing | None:
        """What the configuration asks for; None without mixing."""
        if not config.mixup_prob or not (config.mixup or config.cutmix):
            return None
        return cls(config.mixup, config.cutmix, config.mixup_prob, config.mixup_switch_prob)

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, num_classes: int, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mix (B, C, H, W) float32 and (B,) int32 to (B, C, H, W) and soft labels (B, classes) float32."""
        targets = np.eye(num_classes, dtype=np.float32)[labels]
        mixed, switched = random.random(2)
        if mixed >= self.probability:
            return images, targets
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or switched < self.switch_probability)
        alpha = self.cutmix if use_cutmix else self.mixup
        share = float(random.beta(alpha, alpha))
        if use_cutmix:
            images, share = paste(images, share, random)
        else:
            images = images * np.float32(share) + images[::-1] * np.float32(1 - share)
        return images, targets * np.float32(share) + targets[::-1] * np.float32(1 - share)


def paste(images: np.ndarray, share: float, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """Cutmix: a rectangle of about ``1 - share`` of the area comes from the image at the other end of the batch.

    Returns:
        the images (B, C, H, W) and the share of the area that is really left of each.
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - share)
    cut_height, cut_width = int(height * side), int(width * side)
    middle_y, middle_x = int(random.integers(height)), int(random.integers(width))
    top, bottom = (min(max(middle_y + d, 0), height) for d in (-(cut_height // 2), cut_height // 2))
    left, right = (min(max(middle_x + d, 0), width) for d in (-(cut_width // 2), cut_width // 2))
    mixed = images.copy()
    mixed[:, :, top:bottom, left:right] = images[::-1, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
