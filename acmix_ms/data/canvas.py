"""Pictures of any size on arrays of one size: resized with their ratio, cropped, mirrored, padded; and the way back.

Sizes are (height, width) in pixels, boxes (x1, y1, x2, y2) with the edges of pixels at whole numbers, so that a pixel's
centre lies at .5 and scaling is a product. The rules are mmdetection's; where fixed arrays need others, it is said.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from acmix_ms.config import CanvasConfig, DataConfig
from acmix_ms.data.preprocess import Preprocess, preprocess_of, resized
from acmix_ms.errors import UserError

# The crop of DETR and of Swin's 3x recipes, in pixels: half of the images are resized to one of these shorter sides,
# then a rectangle is cut out of them whose sides have any length between the two ends.
CROP_SHORT_SIDES = (400, 500, 600)
CROP_SIDES = (384, 600)
FLIP = 0.5  # the share, unless it is given

Size = tuple[int, int]


def scaled(size: Size, scale: float) -> Size:
    """Rounded as mmdetection rounds; at least a pixel."""
    height, width = (max(1, int(side * float(scale) + 0.5)) for side in size)
    return height, width


def ratio_for(size: Size, short_side: int, max_side: int | None) -> float:
    """By what to scale an image for a shorter side of ``short_side``, and a longer one of at most ``max_side``."""
    scale = short_side / min(size)
    return scale if max_side is None else min(max_side / max(size), scale)


@dataclass(frozen=True)
class Crop:
    """What comes before the last resizing: resize to ``size``, then take a rectangle."""

    size: Size
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Placement:
    """How an image lies on a canvas: at the upper left, zeros at its right and below it.

    Attributes:
        original: size of the image as it is read.
        size: of what is seen of it on the canvas.
        canvas: size of the array.
        flipped: left and right are exchanged, last of all.
        crop: what is seen of it; None: all.
    """

    original: Size
    size: Size
    canvas: Size
    flipped: bool = False
    crop: Crop | None = None

    @property
    def affine(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """((scale, shift) of y, (scale, shift) of x): a point of the image times scale plus shift is one of the canvas.

        Before flipping.
        """
        found = []
        for axis in (0, 1):
            scale, shift = self.size[axis] / self.original[axis], 0.0
            if self.crop:
                first, start = self.crop.size[axis] / self.original[axis], (self.crop.top, self.crop.left)[axis]
                last = self.size[axis] / (self.crop.height, self.crop.width)[axis]
                scale, shift = first * last, -start * last
            found.append((scale, shift))
        return found[0], found[1]

    def picture(self, pixels: np.ndarray, interpolation: str = "bilinear", method: str = "pillow") -> np.ndarray:
        """(H, W, 3) uint8 of the original size to (h, w, 3) uint8 of `size`; see `Preprocess` for the last two."""
        if self.crop:
            pixels = np.asarray(resized(pixels, *self.crop.size, interpolation, method))
            pixels = pixels[self.crop.top :, self.crop.left :][: self.crop.height, : self.crop.width]
        if pixels.shape[:2] != self.size:
            pixels = np.asarray(resized(np.ascontiguousarray(pixels), *self.size, interpolation, method))
        return pixels[:, ::-1] if self.flipped else pixels

    def chart(self, values: np.ndarray) -> np.ndarray:
        """(H, W) of the original size, such as classes of pixels or a mask, to (h, w) of `size`.

        Each pixel gets the value that lies under its centre: nothing is mixed.
        """
        rows, columns = (
            np.clip(((np.arange(side) + 0.5 - shift) / scale).astype(np.int64), 0, own - 1)
            for side, own, (scale, shift) in zip(self.size, self.original, self.affine)
        )
        return values[rows[:, None], columns[::-1] if self.flipped else columns]

    def points(self, points: np.ndarray) -> np.ndarray:
        """(..., 2), x and y in the image, to the same on the canvas, also where that is beyond `size`."""
        (scale_y, shift_y), (scale_x, shift_x) = self.affine
        moved = points * np.array([scale_x, scale_y]) + np.array([shift_x, shift_y])
        if self.flipped:
            moved[..., 0] = self.size[1] - moved[..., 0]
        return moved

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) in the image to (n, 4) float32 on the canvas, clipped to `size`: some may have become empty."""
        corners = self.points(boxes.reshape(-1, 2, 2).astype(np.float64))
        corners = np.clip(np.sort(corners, axis=1), 0, self.size[::-1])  # sorted: flipping exchanges x1 and x2
        return corners.reshape(-1, 4).astype(np.float32)

    def row(self) -> np.ndarray:
        """(4,) int32: height and width on the canvas and of the original, for `boxes_in_image`."""
        return np.array([*self.size, *self.original], np.int32)


def boxes_in_image(boxes: np.ndarray, place: np.ndarray | Sequence[int]) -> np.ndarray:
    """The way back in evaluation: (n, 4) on the canvas to (n, 4) float32 in the original image.

    Args:
        place: height and width on the canvas, height and width of the original: `Placement.row`.
    """
    height, width, original_height, original_width = (int(side) for side in place)
    scale = np.array([width / original_width, height / original_height] * 2)
    return (boxes / scale).astype(np.float32)


@dataclass(frozen=True)
class Canvas:
    """The rules by which images are placed; there are two canvases, the second one is the first one turned.

    An image that is higher than it is wide gets the turned canvas, all others the first one. What the rules would make
    larger than its canvas is scaled down to fit, and never cut.

    Attributes:
        height, width: of the canvas for images that are not higher than wide.
        turns: false where there is only one, as exported files have it.
        short_sides, choose, max_side, flip, crop: see `acmix_ms.config.schema.CanvasConfig`.
    """

    height: int
    width: int
    short_sides: tuple[int, ...]
    choose: str = "value"
    max_side: int | None = None
    flip: float = FLIP
    crop: bool = False
    turns: bool = True

    @classmethod
    def of(cls, config: CanvasConfig) -> Canvas:
        """What a configuration says.

        Raises:
            UserError: a key without which there is no canvas is not given.
        """
        for name, example in (("height", "800"), ("width", "1344"), ("short_sides", "[800]")):
            if not getattr(config, name):
                raise UserError(f"data.canvas.{name} is not set: give it, as data.canvas.{name}={example}")
        flip = FLIP if config.flip is None else config.flip
        sides = tuple(config.short_sides)
        return cls(
            config.height, config.width, sides, config.choose, config.max_side, flip, config.crop, config.turns
        )

    def shape(self, turned: bool) -> Size:
        """(height, width) of a canvas."""
        return (self.width, self.height) if turned else (self.height, self.width)

    def groups(self, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Which canvas images get: (n,) int64, 1 for the turned one; a square canvas is never turned."""
        turned = (heights > widths) & (self.height != self.width) & self.turns
        return turned.astype(np.int64)

    def place(self, height: int, width: int) -> Placement:
        """Where evaluation puts an image: its shorter side is the largest that training has."""
        original = (height, width)
        canvas = self._canvas_for(original)
        return Placement(original, self._size(original, max(self.short_sides), canvas), canvas)

    def draw(self, height: int, width: int, random: np.random.Generator) -> Placement:
        """Where training puts an image.

        mmdetection's crop may lie across, while a canvas does not turn with it: of the two lengths that are drawn, the
        longer one is taken along the longer side, so that the crop need not be scaled down.
        """
        original = (height, width)
        canvas = self._canvas_for(original)
        seen, crop = original, None
        if self.crop and random.random() < 0.5:
            short_side = int(random.choice(CROP_SHORT_SIDES))
            enlarged = scaled(original, ratio_for(original, short_side, self.max_side))
            sides = [int(random.integers(min(side, CROP_SIDES[0]), min(side, CROP_SIDES[1]) + 1)) for side in enlarged]
            if canvas[0] != canvas[1]:
                sides.sort(reverse=canvas[0] > canvas[1])
            top, left = (int(random.integers(own - side + 1)) for own, side in zip(enlarged, sides))
            crop = Crop(enlarged, top, left, *sides)
            seen = (crop.height, crop.width)
        if self.choose == "range":
            short_side = int(random.integers(min(self.short_sides), max(self.short_sides) + 1))
        else:
            short_side = int(random.choice(self.short_sides))
        flipped = bool(random.random() < self.flip)
        return Placement(original, self._size(seen, short_side, canvas), canvas, flipped, crop)

    def _canvas_for(self, size: Size) -> Size:
        return self.shape(bool(self.groups(*np.array(size)[:, None])[0]))

    def _size(self, size: Size, short_side: int, canvas: Size) -> Size:
        """After resizing, and after shrinking to the canvas where that is smaller."""
        fitting = min(canvas[0] / size[0], canvas[1] / size[1])
        return scaled(size, min(ratio_for(size, short_side, self.max_side), fitting))


@dataclass(frozen=True)
class CanvasReader:
    """What evaluation does to the picture in a file: on its canvas, with the steps of ``preprocess`` for pixels."""

    canvas: Canvas
    preprocess: Preprocess

    @classmethod
    def of(cls, data: DataConfig) -> CanvasReader:
        """As the validation loader of ``data`` does it."""
        return cls(Canvas.of(data.canvas), preprocess_of(data))

    def __call__(self, path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
        """(3, H, W) float32 and the row (4,) of its `Placement`, see `boxes_in_image`.

        Raises:
            UserError: there is no image in the file that can be read.
        """
        return self.placed(self.preprocess.pixels(path))

    def placed(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of (H, W, 3) uint8."""
        place, steps = self.canvas.place(*pixels.shape[:2]), self.preprocess
        out = np.empty((3, *place.canvas), np.float32)
        put(place.picture(pixels, steps.interpolation, steps.resize_method), steps.normalize, out)
        return out, place.row()


def put(picture: np.ndarray, normalize, out: np.ndarray) -> None:
    """(h, w, 3) uint8 to the upper left of ``out`` (3, H, W) float32, zeros elsewhere.

    Args:
        normalize: `Preprocess.normalize`, by which a pixel of the mean colour becomes zero as well.
    """
    height, width = picture.shape[:2]
    out[:, height:] = 0.0
    out[:, :height, width:] = 0.0
    normalize(picture, out[:, :height, :width])

