"""COCO's JSON of one split: read in one go, checked, and kept as arrays, which take a tenth of its memory."""

from __future__ import annotations

import contextlib
import gc
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acmix_ms.data.outlines import LEAST_NUMBERS, Outlines, runs_of
from acmix_ms.errors import UserError
from acmix_ms.masks import pycocotools

SECTIONS = ("images", "annotations", "categories")
LEAST_SIDE = 32  # pixels: of a training image
MAX_SIDE = 2**16  # pixels: a larger image is a mistake
SHOWN = 80  # characters of a wrong value


@dataclass(frozen=True)
class Annotations:
    """The images of a split and what is in them; objects lie image by image.

    Attributes:
        class_names: by label.
        category_ids: (classes,) int64, what the file calls the labels.
        image_ids: (n,) int64, what the file calls the samples.
        files: names of their files.
        sizes: (n, 2) int64, height and width.
        boxes: (m, 4) float64, (x1, y1, x2, y2), clipped to the image.
        labels: (m,) int32.
        ignored: (m,) bool: crowds, and objects without an outline where outlines are read.
        first: (n + 1,) int64: objects first[i] to first[i + 1] are in image i.
        outlines: of objects; None where they are not read.
        outline_of: (m,) int64, which one of ``outlines`` is an object's.
    """

    class_names: list[str]
    category_ids: np.ndarray
    image_ids: np.ndarray
    files: list[str]
    sizes: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    first: np.ndarray
    outlines: Outlines | None
    outline_of: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)


def read_annotations(path: Path, *, train: bool, masks: bool = False) -> Annotations:
    """What stands in a file of COCO's format.

    Boxes without area, narrower or lower than a pixel, or outside of their image are left out, as mmdetection does it;
    in training also images without objects, and those with a side below `LEAST_SIDE`. With ``masks`` polygons of one or
    two points are left out, and an object of which nothing is left is a region to ignore.

    Raises:
        UserError: no such file, or something in it that cannot be.
    """
    with _unhurried():
        return _checked(read_coco(path), path, train, masks)


def _checked(content: dict[str, list[dict]], path: Path, train: bool, masks: bool) -> Annotations:
    images, annotations, categories = (content[section] for section in SECTIONS)
    names, category_ids = _categories(categories, path)
    image_ids = _ids(images, "images", path)
    sizes = np.stack([_whole(images, "images", key, path) for key in ("height", "width")], 1)
    wrong = ((sizes < 1) | (sizes > MAX_SIDE)).any(1)
    _refuse(wrong, sizes.tolist(), "images[{}] (height, width)", path, "no size of an image")
    files = _texts(images, "images", "file_name", path)

    _ids(annotations, "annotations", path)
    image = _places(image_ids, annotations, "image_id", path)
    label = _places(category_ids, annotations, "category_id", path)
    x, y, width, height = _boxes(annotations, path).T
    area = _numbers([one.get("area", 1.0) for one in annotations], "annotations[{}].area", path)
    crowd = _numbers([one.get("iscrowd", 0) for one in annotations], "annotations[{}].iscrowd", path, kinds="iufb") != 0

    heights, widths = sizes[image].T
    boxes = np.stack([x, y, x + width, y + height], 1)
    boxes = np.clip(boxes, 0, np.stack([widths, heights, widths, heights], 1))
    there = (boxes[:, 2:] > boxes[:, :2]).all(1) & (area > 0) & (width >= 1) & (height >= 1)
    found = np.flatnonzero(there)
    found = found[np.argsort(image[found], kind="stable")]
    outlines = None
    if masks:
        outlines = _outlines(annotations, found, crowd, sizes[image[found]], path)
        crowd[found[outlines.empty]] = True

    kept = np.ones(len(images), bool)
    if train:
        kept = np.bincount(image[found[~crowd[found]]], minlength=len(images)) > 0
        kept &= sizes.min(1) >= LEAST_SIDE
        if not kept.any():
            raise UserError(f"{path}: no image has an object and sides of at least {LEAST_SIDE} pixels")
    outline_of = np.flatnonzero(kept[image[found]])
    found = found[outline_of]
    first = np.searchsorted((np.cumsum(kept) - 1)[image[found]], np.arange(kept.sum() + 1))
    return Annotations(
        names,
        category_ids,
        image_ids[kept],
        [files[i] for i in np.flatnonzero(kept)],
        sizes[kept],
        boxes[found],
        label[found].astype(np.int32),
        crowd[found],
        first,
        outlines,
        outline_of,
    )


def read_coco(path: Path) -> dict[str, list[dict]]:
    """The sections of a file of COCO's format, each a list of dictionaries, none of them empty.

    Raises:
        UserError: no such file, or none of that format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): see data.path") from error
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8 and no JSON as well
        raise UserError(f"{path} is no JSON ({str(error)[:SHOWN]}): take another copy") from error
    for section in SECTIONS:
        items = content.get(section) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(type(item) is dict for item in items):
            raise UserError(f"{path}: holds no list {section!r} of COCO's format: give annotations of objects")
        if not items:
            raise UserError(f"{path}: its list {section!r} is empty: there is nothing to train or to measure")
    return content


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """Without looking for garbage, for which Python goes through millions of new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def ground_truth(path: Path, *, masks: bool) -> Any:
    """What pycocotools' evaluation measures against: its ``COCO`` object of all images and annotations of a file.

    ``iscrowd`` and ``area`` are added where they are missing: 0, and the area of the box. With ``masks`` polygons of
    one or two points are left out, of which pycocotools would make boxes or nothing.

    Raises:
        UserError: see `read_annotations`; or an outline cannot be.
    """
    with _unhurried():
        content = read_coco(path)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for i, one in enumerate(content["annotations"]):
        one.setdefault("iscrowd", 0)
        one.setdefault("area", one["bbox"][2] * one["bbox"][3])
        if not masks:
            one.pop("segmentation", None)  # most of the memory
            continue
        segmentation = one.get("segmentation")
        try:
            if isinstance(segmentation, dict):
                runs_of(segmentation, sizes[one["image_id"]])
                continue
            polygons = [some for some in segmentation if len(some) >= LEAST_NUMBERS and not len(some) % 2]
            if not polygons:
                raise ValueError("no polygon has three points")
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: annotations[{i}].segmentation: {error}") from error
        one["segmentation"] = polygons
    content.setdefault("info", {})
    found = pycocotools("coco").COCO()
    found.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        found.createIndex()
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _column(items: list[dict], section: str, key: str, path: Path) -> list:
    try:
        return [item[key] for item in items]
    except KeyError:
        i = next(i for i, item in enumerate(items) if key not in item)
        raise UserError(f"{path}: {section}[{i}] has no {key!r}: this is not COCO's format") from None


def _refuse(wrong: np.ndarray, values: Sequence, where: str, path: Path, what: str) -> None:
    """Raise UserError for the first one of ``values`` that is ``wrong``; ``where`` has a place for its number."""
    if wrong.any():
        i = int(np.argmax(wrong))
        raise UserError(f"{path}: {where.format(i)}={_shown(values[i])}: {what}")


def _numbers(values: list, where: str, path: Path, what: str = "must be a number", kinds: str = "iuf") -> np.ndarray:
    """(n,), all finite; ``kinds`` are NumPy's."""
    try:
        found = np.array(values)
    except ValueError:  # lists of different lengths among them
        found = np.array(values, object)
    if found.ndim != 1 or found.dtype.kind not in kinds:
        allowed = (int, float) if "f" in kinds else (int,)
        wrong = np.array([not isinstance(value, allowed) or abs(value) >= 2**63 for value in values])
        _refuse(wrong, values, where, path, what)
    _refuse(~np.isfinite(found), values, where, path, what)
    return found


def _whole(items: list[dict], section: str, key: str, path: Path) -> np.ndarray:
    values = _column(items, section, key, path)
    return _numbers(values, section + "[{}]." + key, path, "must be a whole number", "i")


def _ids(items: list[dict], section: str, path: Path) -> np.ndarray:
    """(n,) int64, each there once."""
    ids = _whole(items, section, "id", path)
    seen = np.sort(ids)
    twice = np.flatnonzero(seen[1:] == seen[:-1])
    if len(twice):
        raise UserError(f"{path}: {section} with id={seen[twice[0]]} are there more than once: number them anew")
    return ids


def _places(ids: np.ndarray, annotations: list[dict], key: str, path: Path) -> np.ndarray:
    """Where the ``key`` of each annotation is in ``ids``."""
    wanted = _whole(annotations, "annotations", key, path)
    order = np.argsort(ids)
    found = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    section = "images" if key == "image_id" else "categories"
    _refuse(ids[found] != wanted, wanted.tolist(), "annotations[{}]." + key, path, f"none of {section!r} has this id")
    return found


def _categories(categories: list[dict], path: Path) -> tuple[list[str], np.ndarray]:
    """Names and ids, in the order of the ids."""
    ids = _ids(categories, "categories", path)
    names = _texts(categories, "categories", "name", path)
    order = np.argsort(ids)
    return [names[i] for i in order], ids[order]


def _texts(items: list[dict], section: str, key: str, path: Path) -> list[str]:
    texts = _column(items, section, key, path)
    wrong = np.array([not isinstance(text, str) or not text or "\0" in text for text in texts])
    _refuse(wrong, texts, section + "[{}]." + key, path, "must be a text")
    return texts


def _boxes(annotations: list[dict], path: Path) -> np.ndarray:
    """(m, 4) float64: x, y, width, height."""
    values = _column(annotations, "annotations", "bbox", path)
    what = "must be [x, y, width, height], four finite numbers"
    try:
        found = np.array(values)
    except ValueError:
        found = np.zeros(0)
    if found.shape != (len(values), 4) or found.dtype.kind not in "iuf":
        _refuse(np.array([not _is_box(box) for box in values]), values, "annotations[{}].bbox", path, what)
        found = np.array(values, np.float64)
    _refuse(~np.isfinite(found).all(1), values, "annotations[{}].bbox", path, what)
    return found.astype(np.float64)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)


def _outlines(
    annotations: list[dict], found: np.ndarray, crowd: np.ndarray, sizes: np.ndarray, path: Path
) -> Outlines:
    """Of the annotations ``found``; crowds are regions, of which only the box is used."""
    tools = pycocotools("mask")
    given = ([] if crowd[i] else annotations[i].get("segmentation") for i in found.tolist())
    try:
        return Outlines(given, map(tuple, sizes.tolist()), tools)
    except ValueError as error:
        number, what = error.args
        raise UserError(f"{path}: annotations[{found[number]}].segmentation: {what}") from error
