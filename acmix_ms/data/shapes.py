"""A set of pictures made here, for trying out detection and segmentation: rectangles, circles and triangles.

```
FOLDER/train/0000.png val/0000.png      pictures, RGB
FOLDER/annotations/train.json val.json  COCO's format, boxes and masks of all objects
FOLDER/semantic/train/0000.png ...      classes of pixels
FOLDER/shapes.json                      what it was made with
```
Classes of pixels are numbered as ADE20K numbers them: 0 is what has no class and does not count, here the background;
label i of the boxes is i + 1.

On a noisy gradient lie one to four objects, which do not cover each other. Their colours tell the class mostly, but
not always, as the shape does. All geometry is in whole numbers, and pixels are in an object where their centre is, so
that boxes, areas and masks are exact, and the set is the same everywhere: `RandomState` is NumPy's promise of numbers
that never change. The polygons follow the edges of the pixels; every fifth object has run lengths instead.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from acmix_ms import runtime
from acmix_ms.errors import UserError

VERSION = 1  # of what is drawn: raise it with any change of pixels
CLASSES = ("rectangle", "circle", "triangle")
COLOURS = np.array([(200, 70, 60), (70, 190, 80), (70, 90, 210)])  # of the classes, before they vary
VARIATION = 45  # of each channel
OTHER_COLOURS = 0.1  # share of objects with any colour
NOISE = 24
MOST_OBJECTS = 4
ATTEMPTS = 30  # to find room for an object
THIN = 4  # a triangle has more than this part of its box; the half is the most
RUNS_EVERY = 5  # objects
DESCRIPTION = "shapes.json"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShapesSet:
    """How many pictures of which ``size`` (of both sides), and from which seed."""

    images: int = 400
    val_images: int = 100
    size: int = 128
    seed: int = 0

    def describe(self) -> dict[str, int]:
        """What tells it from other sets."""
        return {"version": VERSION, **asdict(self)}

    def write(self, folder: Path) -> None:
        """Make the set in an empty folder; `DESCRIPTION` comes last. Raises `OSError`."""
        (folder / "annotations").mkdir(parents=True)
        for number, (split, count) in enumerate(zip(SPLITS, (self.images, self.val_images))):
            for kind in (folder / split, folder / "semantic" / split):
                kind.mkdir(parents=True)
            images, annotations = [], []
            for i in range(count):
                name = f"{i:04d}.png"
                pixels, classes, objects = picture(self.size, np.random.RandomState([self.seed, number, i]))
                (folder / split / name).write_bytes(_png(pixels))
                (folder / "semantic" / split / name).write_bytes(_png(classes))
                images.append({"id": i + 1, "file_name": name, "height": self.size, "width": self.size})
                for label, mask in objects:
                    annotations.append(annotation(len(annotations) + 1, i + 1, label, mask))
            categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
        (folder / DESCRIPTION).write_text(json.dumps(self.describe()) + "\n")


def picture(size: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray, list[tuple[int, np.ndarray]]]:
    """One picture: (S, S, 3) uint8, the classes of its pixels (S, S) uint8, and (label, (S, S) bool) of its objects."""
    along = np.arange(size)[:, None]
    start, (across, down) = random.randint(70, 150) + random.randint(-20, 21, 3), random.randint(-40, 41, (2, 3))
    pixels = start + (along * down // size)[:, None] + (along * across // size)[None]  # (S, S, 3)
    classes = np.zeros((size, size), np.uint8)
    objects = []
    for _ in range(random.randint(1, MOST_OBJECTS + 1)):
        label = random.randint(len(CLASSES))
        for _ in range(ATTEMPTS):
            mask = _SHAPES[label](size, random)
            if mask.sum() >= size and not classes[mask].any():
                break
        else:
            continue
        colour = COLOURS[label] + random.randint(-VARIATION, VARIATION + 1, 3)
        if random.randint(100) < 100 * OTHER_COLOURS:
            colour = random.randint(0, 256, 3)
        pixels[mask] = colour
        classes[mask] = label + 1
        objects.append((label, mask))
    pixels = pixels + random.randint(-NOISE, NOISE + 1, pixels.shape, np.int8)
    return np.clip(pixels, 0, 255).astype(np.uint8), classes, objects


def _rectangle(size: int, random: np.random.RandomState) -> np.ndarray:
    sides = random.randint(size // 6, size // 2, 2)
    top, left = (random.randint(size - side + 1) for side in sides)
    mask = np.zeros((size, size), bool)
    mask[top : top + sides[0], left : left + sides[1]] = True
    return mask


def _circle(size: int, random: np.random.RandomState) -> np.ndarray:
    radius = random.randint(size // 10, size // 4)
    y, x = random.randint(radius, size - radius + 1, 2)
    middles = 2 * np.arange(size) + 1  # of pixels, in halves of one
    return (middles[:, None] - 2 * y) ** 2 + (middles - 2 * x) ** 2 <= (2 * radius) ** 2


def _triangle(size: int, random: np.random.RandomState) -> np.ndarray:
    """A random one; none, which is drawn again, where it is thin."""
    side = random.randint(size // 4, size // 2)
    corners = random.randint(0, side + 1, (3, 2)) + random.randint(0, size - side + 1, 2)
    (top, left), (bottom, right) = corners.min(0).tolist(), corners.max(0).tolist()
    y, x = 2 * np.arange(top, bottom)[:, None] + 1, 2 * np.arange(left, right) + 1  # middles of pixels, in halves
    sides = []
    for (y1, x1), (y2, x2) in zip(2 * corners, 2 * np.roll(corners, -1, axis=0)):
        sides.append((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1))
    inside = (np.stack(sides) >= 0).all(0) | (np.stack(sides) <= 0).all(0)
    mask = np.zeros((size, size), bool)
    gaps = np.diff(np.flatnonzero(inside.any(1)))  # a tip may be so thin that a row has none of it
    if inside.sum() * THIN > inside.size and (gaps == 1).all():
        mask[top:bottom, left:right] = inside
    return mask


_SHAPES = (_rectangle, _circle, _triangle)


def outline(mask: np.ndarray) -> list[int]:
    """The polygon x, y, x, y, ... along the edges of the pixels of a mask (H, W) of one run in each row."""
    rows = np.flatnonzero(mask.any(1)).tolist()
    first = mask.argmax(1)
    last = first + mask.sum(1)  # one behind
    right = [(int(last[row]), y) for row in rows for y in (row, row + 1)]
    left = [(int(first[row]), y) for row in reversed(rows) for y in (row + 1, row)]
    points: list[tuple[int, int]] = []
    for point in right + left:
        if len(points) > 1 and points[-2][0] == points[-1][0] == point[0]:  # straight on
            points.pop()
        points.append(point)
    return [number for point in points for number in point]


def run_lengths(mask: np.ndarray) -> list[int]:
    """Of 0 and 1 in turns, column by column, of a mask (H, W); the first may be 0."""
    bits = np.concatenate([[0], mask.T.ravel(), [1 - mask[-1, -1]]]).astype(np.int8)
    changes = np.flatnonzero(np.diff(bits))
    return np.diff(np.concatenate([[0], changes])).tolist()


def annotation(number: int, image: int, label: int, mask: np.ndarray) -> dict:
    """COCO's entry for an object."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    in_runs = number % RUNS_EVERY == 0
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [height, width], "counts": run_lengths(mask)} if in_runs else [outline(mask)],
    }


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def make(folder: Path, wanted: ShapesSet, replace: bool = False) -> bool:
    """Make a set as ``folder``, whole or not at all, and tell whether that was needed. Raises `OSError`.

    Args:
        replace: another set of shapes may be there, which goes.

    Raises:
        UserError: something else is there.
    """
    occupied = folder.is_dir() and any(folder.iterdir())
    if occupied:
        found = description(folder)
        if found == wanted.describe():
            return False
        if found is None or not replace:
            what = "files that are no set of shapes" if found is None else f"another set of shapes, {found}"
            remedy = " or --force" if found else ""
            raise UserError(f"{folder}: holds {what}; give another folder{remedy}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making.") as making:
        wanted.write(Path(making) / "set")
        if occupied:
            os.rename(folder, Path(making) / "before")
        try:
            os.rename(Path(making) / "set", folder)
        except OSError:  # another process was faster
            if description(folder) != wanted.describe():
                raise
    return True


def description(folder: Path) -> dict | None:
    """What the set of a folder was made with; None if there is none."""
    try:
        return json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        return None


WITH_PIXELS = ShapesSet(images=1600)  # classes of pixels need more pictures than boxes do


def cached(wanted: ShapesSet = ShapesSet()) -> Path:
    """The folder of a set that is made when it is first asked for, in `runtime.cache_folder`.

    Raises:
        UserError: nothing can be written there.
    """
    name = "-".join(f"{key}{value}" for key, value in wanted.describe().items())
    folder = runtime.cache_folder() / f"shapes-{name}"
    try:
        make(folder, wanted)
    except OSError as error:
        raise UserError(
            f"the pictures of data.name=shapes cannot be made in {folder} ({error.strerror}): make them elsewhere with "
            "scripts/make_shapes.py --output FOLDER, and give data.path=FOLDER"
        ) from error
    return folder
