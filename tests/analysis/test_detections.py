"""Drawings of detections: of the size asked, with boxes, names and masks where they belong, and nothing that was not
sure enough.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from acmix_ms.analysis.detections import Example, colour, plot_detections, plot_examples
from acmix_ms.objects import Objects
from acmix_ms.postprocess import Detections

NAMES = ["cost $5$ \x1b", "tree", "bird"]
WHITE = np.full((120, 200, 3), 255, np.uint8)
BOXES = np.float32([[20, 30, 80, 90], [112, 20, 190, 110], [-5, -5, 30, 20]])
FOUND = Detections(BOXES, np.float32([0.9, 0.5, 0.2]), np.int64([0, 1, 2]))
WITH_MASKS = FOUND._replace(masks=np.ones((3, 28, 28), np.float32))


@pytest.fixture(autouse=True)
def _no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def read(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def near(picture, wanted, tolerance=12):
    return (np.abs(picture - np.round(255 * np.asarray(wanted)).astype(int)) < tolerance).all(-1)


def test_boxes_and_masks_lie_where_they_were_found(tmp_path):
    plot_detections(WHITE, WITH_MASKS, NAMES, tmp_path / "new folder" / "a.png")
    picture = read(tmp_path / "new folder" / "a.png")
    assert picture.shape == WHITE.shape
    for label, (x1, y1, x2, y2) in zip((0, 1), BOXES.astype(int)):
        tinted = np.asarray(colour(label)) * 0.45 + 0.55
        assert near(picture, tinted)[y1 + 20 : y2 - 4, x1 + 4 : x2 - 4].all(), "the mask"
        assert near(picture, colour(label), 60)[y1 + 20 : y2 - 4, x1 - 1 : x1 + 2].any(1).all(), "its left side"
        assert near(picture, colour(label), 60)[y2 - 1 : y2 + 2, x1 + 4 : x2 - 4].any(0).all(), "its lower side"
    assert near(picture, (1, 1, 1))[:18, :95].all(), "what is not sure enough is not shown"
    plot_detections(WHITE, WITH_MASKS, NAMES, tmp_path / "b.png", threshold=0.1)
    assert not near(read(tmp_path / "b.png"), (1, 1, 1))[:18, :28].any()


def test_without_masks_the_inside_stays_as_it_was(tmp_path):
    plot_detections(WHITE, FOUND, NAMES, tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    assert near(picture, (1, 1, 1))[60:85, 25:75].all() and not near(picture, (1, 1, 1))[32:38, 25:45].all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_surest_lies_on_top(order):
    target, sure = io.BytesIO(), np.float32([0.9, 0.4])
    plot_detections(WHITE, Detections(BOXES[[0, 0]], sure[list(order)], np.int64([1, 0])), NAMES, target)
    side = read(target)[60:85, 19:22]
    top = (1, 0)[order[0]]
    assert near(side, colour(top), 60).any(1).all() and not near(side, colour(1 - top), 60).any()


@pytest.mark.parametrize(("side", "size"), [(None, (120, 200)), (246, (148, 246)), (77, (46, 77))])
def test_a_drawing_has_the_size_that_is_asked_for(side, size):
    target = io.BytesIO()
    plot_detections(WHITE, FOUND, NAMES, target, side=side)
    assert read(target).shape[:2] == size


def test_nothing_found_is_the_picture_itself():
    target, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    plot_detections(noise, Detections(*(part[:0] for part in FOUND[:3])), NAMES, target)
    assert np.abs(read(target) - noise).max() <= 1


def test_neighbouring_classes_are_told_apart():
    colours = np.asarray([colour(label) for label in range(80)])
    assert colours.min() >= 0 and colours.max() <= 1
    assert np.abs(np.diff(colours, axis=0)).max(1).min() > 0.3 and len(np.unique(colours, axis=0)) == 80


def test_what_is_there_stands_beside_what_was_found(tmp_path):
    masks = np.zeros((1, 120, 200), np.uint8)
    masks[0, 60:90, 20:80] = 1
    objects = Objects(BOXES[:1], np.int32([0]), BOXES[1:2], masks)
    plot_examples([Example(WHITE, objects, FOUND, "$a$.jpg"), Example(WHITE[:, :60], objects._replace(masks=None),
                  WITH_MASKS)], NAMES, tmp_path / "grid.png")
    picture = read(tmp_path / "grid.png")
    height, width = picture.shape[:2]
    assert 1000 < width < 1100 and 0.6 < height / width < 0.9
    upper, tinted = picture[: height // 3], np.asarray(colour(0)) * 0.45 + 0.55
    left, right = upper[:, : width // 2], upper[:, width // 2 :]
    assert near(left, tinted).sum() > 1000 and near(right, tinted).sum() < 100, "the true mask is at the left"
    assert near(right, colour(1), 40).sum() > 200 and near(left, colour(1), 40).sum() < 50, "the tree is a find"
    assert near(left, (0.5, 0.5, 0.5), 40).sum() > 100, "an ignored region"
    with pytest.raises(ValueError, match="examples: none"):
        plot_examples([], NAMES, tmp_path / "none.png")
