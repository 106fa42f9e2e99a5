"""Augmentation: RandAugment on MindSpore's image operations; erasing, mixup and cutmix of whole batches in NumPy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from acmix_ms.config import AugmentConfig
from acmix_ms.errors import UserError

TOP_MAGNITUDE = 10  # of timm's scale
MAGNITUDES = 8  # with mstd, the normal distribution stands as this many equally likely magnitudes
POLICY_REPEATS = 14  # how often each operation stands in each place of the list that one policy is drawn from

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

    def levels(self) -> list[float]:
        """The equally likely strengths, on the scale 0 to 1."""
        if not self.deviation:
            return [self.magnitude / TOP_MAGNITUDE]
        normal = NormalDist(self.magnitude, self.deviation)
        drawn = [normal.inv_cdf((i + 0.5) / MAGNITUDES) for i in range(MAGNITUDES)]
        return [min(max(level / TOP_MAGNITUDE, 0.0), 1.0) for level in drawn]


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


def rand_augment(spec: RandAugment, interpolation: Any, fill: tuple[int, int, int]) -> Any:
    """One operation of ``mindspore.dataset.vision`` for images (H, W, 3) uint8.

    It draws one of a list of policies, each a row of ``spec.layers`` operations. A row of independent operations would
    not do: every operation of a pipeline starts from the same seed, so all layers would draw alike. In the list each
    operation stands equally often in each place. timm's SolarizeAdd is left out: MindSpore has no such operation.

    Args:
        interpolation: a ``vision.Inter``, for what moves pixels.
        fill: colour of what comes in from outside.
    """
    from mindspore.dataset import vision

    entries = []
    for kind in _kinds(spec.increasing, interpolation, fill):
        entries += [kind(level, sign) for level in spec.levels() for sign in (-1.0, 1.0)]
    random = np.random.default_rng(0)  # a fixed list: what is drawn from it is the pipeline's business
    places = [random.permutation(np.tile(np.arange(len(entries)), POLICY_REPEATS)) for _ in range(spec.layers)]
    return vision.RandomSelectSubpolicy([[(entries[i], spec.probability) for i in row] for row in zip(*places)])


def _kinds(increasing: bool, interpolation: Any, fill: tuple[int, int, int]) -> list[Callable[[float, float], Any]]:
    """The kinds of operations, each ``(level 0..1, sign) -> operation``, with the strengths of timm."""
    from mindspore.dataset import vision

    def factor(level: float, sign: float) -> float:
        return max(0.1, 1 + sign * 0.9 * level) if increasing else 0.1 + 1.8 * level

    def move(translate=(0.0, 0.0), shear=(0.0, 0.0)):
        shear = tuple(math.degrees(math.atan(value)) for value in shear)
        return vision.Affine(0.0, translate, 1.0, shear, interpolation, fill)

    def posterize(level: float, sign: float):
        bits = int(4 * level)
        return vision.Posterize(4 - bits if increasing else bits)

    def solarize(level: float, sign: float):
        threshold = int(256 * level)
        return vision.Solarize((min(255, 256 - threshold if increasing else threshold), 255))

    return [
        lambda level, sign: vision.AutoContrast(),
        lambda level, sign: vision.Equalize(),
        lambda level, sign: vision.Invert(),
        lambda level, sign: vision.Rotate(30.0 * level * sign, interpolation, fill_value=fill),
        posterize,
        solarize,
        lambda level, sign: vision.AdjustSaturation(factor(level, sign)),
        lambda level, sign: vision.AdjustContrast(factor(level, sign)),
        lambda level, sign: vision.AdjustBrightness(factor(level, sign)),
        lambda level, sign: vision.AdjustSharpness(factor(level, sign)),
        lambda level, sign: move(shear=(0.3 * level * sign, 0.0)),
        lambda level, sign: move(shear=(0.0, 0.3 * level * sign)),
        lambda level, sign: move(translate=(0.45 * level * sign, 0.0)),
        lambda level, sign: move(translate=(0.0, 0.45 * level * sign)),
    ]


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
