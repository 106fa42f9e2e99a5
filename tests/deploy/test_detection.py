"""Objects in files: in pixels of the file, the surest first, as a table and as JSON, whatever some files are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from acmix_ms import masks as run_lengths
from acmix_ms.deploy import detection, prediction
from acmix_ms.errors import UserError
from acmix_ms.postprocess import Detections, paste_masks

FILES = [Path("a.jpg"), Path("broken.jpg"), Path(f"{'long/' * 12}b.jpg"), Path("empty.jpg")]
NAMES = ["cat", "dog\x1b", "bird"]
MASKS = np.stack([np.full((28, 28), value, np.float32) for value in (0.1, 0.9, 0.8, 0.9)])


def read(path):
    """Pictures of 40 x 30 pixels on a canvas of 64 x 64, twice as high and 1.5 times as wide."""
    if path.name == "broken.jpg":
        raise UserError(f"{path} cannot be read: no picture")
    return np.full((3, 64, 64), len(str(path)), np.float32), np.int32([60, 60, 30, 40])


def find(images, sizes, masks=True):
    assert images.shape == (1, 3, 64, 64) and sizes == [(60, 60)]
    boxes = np.float32([[0, 0, 60, 60], [15, 20, 30, 40], [3, 4, 6, 8], [3, 4, 6, 8]])
    found = Detections(boxes, np.float32([0.35, 0.5, 0.9, 0.2]), np.int64([0, 1, 2, 0]), MASKS if masks else None)
    if images[0, 0, 0, 0] == len("empty.jpg"):
        return [Detections(*(None if part is None else part[:0] for part in found))]
    return [found]


def without_masks(images, sizes):
    return find(images, sizes, masks=False)


def test_objects_are_told_in_pixels_of_the_file():
    first, broken, _, empty = detection.predict(find, FILES, read, NAMES)
    assert [(f.name, round(f.score, 2), f.box) for f in first.objects] == [
        ("bird", 0.9, (2, 2, 4, 4)), ("dog\x1b", 0.5, (10, 10, 20, 20)), ("cat", 0.35, (0, 0, 40, 30))]
    assert (first.size, first.error) == ((30, 40), None)
    pasted = [run_lengths.decode(found.mask) for found in first.objects]
    assert np.array_equal(pasted, paste_masks(MASKS[[2, 1, 0]], first.detections.boxes, 30, 40))
    assert [mask.sum() for mask in pasted] == [4, 100, 0]
    assert first.detections.labels.tolist() == [2, 1, 0], "what is drawn is what is told"
    assert broken.error == "broken.jpg cannot be read: no picture" and not broken.objects
    assert (empty.objects, empty.error) == ([], None)


def test_a_threshold_of_ones_own_and_classes_without_names():
    found = next(detection.predict(without_masks, FILES, read, threshold=0.1))
    assert [each.name for each in found.objects] == ["class 2", "class 1", "class 0", "class 0"]
    assert found.objects[0].mask is None and found.detections.masks is None
    assert next(detection.predict(find, FILES, read, threshold=0.95)).objects == []


def test_a_class_without_a_name_is_told():
    with pytest.raises(UserError, match="2 names of classes, but the net found class 2: give one for each"):
        list(detection.predict(find, FILES, read, NAMES[:2]))


def test_the_table_has_a_line_for_each_object():
    first, broken, long, empty = map(detection.table, detection.predict(find, FILES, read, NAMES))
    lines = first.splitlines()
    assert lines[0].split() == "a.jpg 0.900 (2, 2) to (4, 4) bird".split()
    assert lines[1].split() == r"0.500 (10, 10) to (20, 20) dog\x1b".split() and len(lines) == 3
    assert len({line.index(")  ") > 0 and line.index("0.") for line in lines + long.splitlines()}) == 1
    assert broken == "error: broken.jpg cannot be read: no picture"
    assert long.startswith("...") and empty.split() == ["empty.jpg", "nothing", "found"]


@pytest.mark.parametrize("masks", [False, True])
def test_the_json_holds_all(masks):
    found = [each.as_dict() for each in detection.predict(find if masks else without_masks, FILES, read, NAMES)]
    first, broken, _, empty = json.loads(prediction.json_text(found))
    assert {name: first[name] for name in ("image", "height", "width")} == {"image": "a.jpg", "height": 30, "width": 40}
    told = first["objects"][0]
    assert (told["class"], told["score"], told["box"]) == ("bird", 0.9, [2, 2, 4, 4]) and ("mask" in told) == masks
    assert not masks or run_lengths.decode(told["mask"]).sum() == 4
    assert broken == {"image": "broken.jpg", "error": "broken.jpg cannot be read: no picture"}
    assert empty["objects"] == []
