"""COCO's numbers beside pycocotools' own, whole and in parts, with crowds, and where there is nothing to score."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from acmix_ms import masks as run_lengths
from acmix_ms.data.loader import PADDING
from acmix_ms.engine.metrics import CocoDetection
from acmix_ms.engine.metrics.coco import KINDS, NAMES, Found
from acmix_ms.errors import UserError
from acmix_ms.postprocess import Detections, paste_masks

FOLDER = Path(__file__).resolve().parent.parent / "vectors" / "dense" / "coco_eval"
BOTH = pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


GT, EXPECTED = read("gt"), read("expected")
IMAGES = np.asarray([image["id"] for image in GT["images"]])[::-1]  # a loader has its own order
CATEGORIES = np.asarray([category["id"] for category in GT["categories"]])[::-1]
CLASSES = [category["name"] for category in GT["categories"]][::-1]


def evaluator(masks=False, truth=GT):
    return CocoDetection(truth, IMAGES, CATEGORIES, CLASSES, masks=masks)


def given(masks):
    """What was found in each sample. The two files hold different detections: boxes of masks are made up."""
    entries = read("dt_segm" if masks else "dt_bbox")
    sizes = {image["id"]: (image["height"], image["width"]) for image in GT["images"]}
    found = []
    for number in IMAGES.tolist():
        mine = [entry for entry in entries if entry["image_id"] == number]
        boxes = np.asarray([entry.get("bbox", (0, 0, 1, 1)) for entry in mine], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.asarray([CATEGORIES.tolist().index(entry["category_id"]) for entry in mine], np.int64)
        counts = [entry["segmentation"]["counts"].encode() for entry in mine] if masks else []
        scores = np.asarray([entry["score"] for entry in mine], np.float32)
        found.append(Found(sizes[number], boxes, scores, labels, counts))
    return found


def filled(masks, samples=None):
    made = evaluator(masks)
    for sample, found in enumerate(given(masks)):
        if samples is None or sample in samples:
            made.add(sample, found)
    return made


def without_time(result):
    return {name: value for name, value in result.items() if name != "scoring_seconds"}


@BOTH
def test_numbers_are_pycocotools(masks, capsys):
    before = copy.deepcopy(GT)
    result = filled(masks).result()
    kind = "segm" if masks else "bbox"
    np.testing.assert_allclose([result[f"{kind}_{name}"] for name in NAMES], EXPECTED[kind], rtol=0, atol=1e-9)
    classes = [found[f"{kind}_AP"] for found in result["classes"]]
    np.testing.assert_allclose(classes[::-1], EXPECTED[f"{kind}_AP_per_class"], rtol=0, atol=1e-9)
    assert (result["count"], [found["name"] for found in result["classes"]]) == (20, CLASSES)
    crowds = EXPECTED["counts"]["crowd"]
    assert sum(found["objects"] for found in result["classes"]) == EXPECTED["counts"]["annotations"] - crowds
    assert crowds and GT == before, "what the data set owns was written into"
    assert capsys.readouterr().out == ""
    json.dumps(result, allow_nan=False)


@BOTH
def test_parts_of_three_processes_are_the_whole(masks):
    whole = filled(masks).result()
    parts = [filled(masks, samples).state() for samples in (range(7, 20, 2), range(7), range(8, 20, 2))]
    for order in ((0, 1, 2), (2, 0, 1)):
        merged = evaluator(masks)
        merged.add(3, given(masks)[5])  # its own state is among those that are merged, and counts once
        merged.merge([through_a_file(parts[i]) for i in order])
        same = without_time(merged.result()) == without_time(whole)  # pytest takes minutes to show a difference
        assert same
        same = merged.results(*merged.kinds) == filled(masks).results(*merged.kinds)
        assert same


def through_a_file(state):
    """As `parallel.gather_arrays` sends it."""
    file = io.BytesIO()
    np.savez(file, **state)
    return dict(np.load(io.BytesIO(file.getvalue()), allow_pickle=False))


def test_a_process_without_images_takes_part():
    empty = through_a_file(evaluator(True).state())
    merged = evaluator(True)
    merged.merge([empty, through_a_file(filled(True).state()), empty])
    assert without_time(merged.result()) == without_time(filled(True).result())


def batch(masks=False):
    """All images as a loader has them, twice as high and three times as wide, with empty places between."""
    outputs, places, ids = [], [], []
    for sample, found in enumerate(given(False)):
        (height, width), count = found.size, len(found.boxes)
        mine = np.ones((count, 28, 28), np.float32) if masks else None
        outputs += [
            Detections(found.boxes * np.float32([3, 2, 3, 2]), found.scores, found.labels, mine),
            Detections(np.float32([[0, 0, 9, 9]]), np.float32([0.99]), np.int64([0]), np.ones((1, 28, 28), np.float32)),
        ]
        places += [(2 * height, 3 * width, height, width), (8, 8, 8, 8)]
        ids += [sample, PADDING]
    return outputs, np.asarray(places, np.int32), np.asarray(ids)


def test_boxes_come_back_from_the_canvas_and_empty_places_count_nowhere():
    outputs, places, ids = batch()
    made = evaluator()
    for part in (slice(0, 15), slice(15, None)):
        made.update(outputs[part], (places[part],), ids[part])
    result = made.result()
    np.testing.assert_allclose([result[f"bbox_{name}"] for name in NAMES], EXPECTED["bbox"], rtol=0, atol=1e-9)
    for sample, found in enumerate(given(False)):
        np.testing.assert_allclose(made.found[sample].boxes, found.boxes, rtol=0, atol=1e-4)


def test_masks_are_pasted_into_the_original():
    outputs, places, ids = batch(masks=True)
    made = evaluator(masks=True)
    made.update(outputs, (places,), ids)
    for found in made.found.values():
        for box, counts in zip(found.boxes, found.masks):
            mask = run_lengths.decode({"size": list(found.size), "counts": counts})
            assert np.array_equal(mask, paste_masks(np.ones((1, 28, 28)), box[None], *found.size)[0])
    assert made.result()["segm_mAP"] > 0.05, "full boxes lie over many of the objects"
    with pytest.raises(ValueError, match="detections without masks"):
        made.update(batch()[0], (places,), ids)


@BOTH
def test_nothing_found_scores_nothing(masks):
    made = evaluator(masks)
    for sample in range(20):
        made.add(sample, Found((9, 9), np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), []))
    result = made.result()
    assert [result[metric.name] for metric in made.metrics] == [0.0] * len(made.metrics)
    assert all(found["bbox_AP"] == 0.0 for found in result["classes"]) and result["count"] == 20
    assert made.primary.better(result["bbox_mAP"], -1.0) and not made.primary.better(-1.0, result["bbox_mAP"])


@BOTH
@pytest.mark.parametrize("seen", [0, 1], ids=["no_images", "no_objects"])
def test_nothing_to_be_found_is_told_as_pycocotools_does(masks, seen):
    made = evaluator(masks, {**GT, "annotations": []})
    if seen:
        made.add(0, given(masks)[0])
        assert len(made.results("bbox")) > 0
    result = made.result()
    assert {result[f"{kind}_{name}"] for kind in made.kinds for name in NAMES} == {-1.0}
    assert [found["bbox_AP"] for found in result["classes"]] == [None] * 5 and result["count"] == seen
    assert " - " in made.details(result) and made.tables(result)[1]["rows"] == []
    assert made.primary.better(result["bbox_mAP"], None), "best.ckpt is written"
    json.dumps(result, allow_nan=False)


def test_only_images_that_were_seen_are_scored():
    assert filled(False, range(4)).result()["bbox_AR_100"] != pytest.approx(EXPECTED["bbox"][8])
    part = {**GT, "annotations": [a for a in GT["annotations"] if a["image_id"] in IMAGES[:4].tolist()]}
    whole = evaluator(truth=part)
    for sample, found in enumerate(given(False)[:4]):
        whole.add(sample, found)
    assert without_time(whole.result()) == without_time(filled(False, range(4)).result())


def test_what_is_not_finite_was_not_found():
    found = Found((50, 50), np.float32([[0, 0, np.nan, 9], [1, 2, 3, 4], [1, 2, 3, 4]]), np.float32([1, 0.5, np.inf]),
                  np.int64([0, 1, 2]), [b"a", b"b", b"c"])
    made = evaluator(True)
    made.add(0, found)
    assert [value.tolist() for value in made.found[0][1:4]] == [[[1, 2, 3, 4]], [0.5], [1]]
    assert made.found[0].masks == [b"b"]


def test_annotations_without_number_area_or_crowd_are_taken():
    """pycocotools would take the object with the number 0 for none, and miss the other two."""
    box = [10.0, 10.0, 30.0, 40.0]
    truth = {"images": [{"id": 7, "height": 99, "width": 99}], "categories": [{"id": 3, "name": "a"}],
             "annotations": [{"id": 0, "image_id": 7, "category_id": 3, "bbox": box}]}
    made = CocoDetection(truth, [7], [3], ["a"])
    made.add(0, Found((99, 99), np.float32([[10, 10, 40, 50]]), np.float32([0.5]), np.int64([0]), []))
    result = made.result()
    assert result["bbox_mAP"] == pytest.approx(1) and result["bbox_mAP_m"] == pytest.approx(1)
    assert result["bbox_mAP_s"] == -1
    made = CocoDetection(truth, [7], [3], ["a"], masks=True)
    made.add(0, Found((99, 99), np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), []))
    with pytest.raises(UserError, match="image 7: an object without mask"):
        made.result()


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_read_by_pycocotools(tmp_path, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = filled(kind == "segm").write_results(tmp_path / "results.json", kind)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(GT)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(str(path)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    np.testing.assert_allclose(evaluation.stats, EXPECTED[kind], rtol=0, atol=1e-9)
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_results_hold_all_that_is_scored(tmp_path):
    made = filled(True)
    both = json.loads(made.write_results(tmp_path / "results.json").read_text())
    assert len(both) == len(read("dt_segm")) and set(both[0]) == {"image_id", "category_id", "score", "bbox",
                                                                   "segmentation"}
    assert "segmentation" not in json.loads(filled(False).write_results(tmp_path / "boxes.json").read_text())[0]


def test_results_of_a_kind_that_is_not_scored_are_refused(tmp_path):
    with pytest.raises(ValueError, match="segm.*choose from bbox"):
        filled(False).write_results(tmp_path / "results.json", "segm")


@BOTH
def test_what_is_told(masks):
    made = filled(masks)
    result = made.result()
    said = made.told(result)
    assert ("mask mAP 0.340" in said) == masks and "box mAP " in said
    assert [metric.name for metric in made.metrics][: 1 + masks] == ["bbox_mAP", "segm_mAP"][: 1 + masks]
    assert all(metric.name in result for metric in made.metrics)
    sizes, worst = made.tables(result)
    assert [row[0] for row in sizes["rows"]] == ["all", "small", "medium", "large"]
    assert all(len(row) == len(table["header"]) for table in (sizes, worst) for row in table["rows"])
    if masks:
        assert [row[0] for row in worst["rows"]][:1] == [CLASSES[::-1][4]], "the one with the lowest mask AP"
        assert sizes["rows"][3][3:] == ["0.703", "0.842"]
    lines = made.details(result).splitlines()
    assert len(lines) == 5 + 1 + 6 and len({len(line) for line in lines[6:]}) == 1


def test_a_missing_package_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match=r"pip install 'acmix-mindspore\[det\]'"):
        evaluator()
