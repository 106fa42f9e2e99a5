"""Detectors in files, whole and as raw maps: they find what the checkpoint finds, on pictures and in scores."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from pycocotools.mask import decode

import eval as eval_script
import export as export_script
import predict as predict_script
from acmix_ms import config, runtime
from acmix_ms.data.images import read_image
from acmix_ms.data.shapes import ShapesSet, make
from acmix_ms.deploy import VerificationError, comparison, description, exporter, lite, open_file
from acmix_ms.engine import checkpoint
from acmix_ms.ops.fuse import randomise
from models import create_model
from scripts import infer_lite
from tests.conftest import ROOT
from tests.helpers.refusals import refusal

NAMES = ["rectangle", "circle", "triangle"]
SMALL = {"channels": 16, "stacked": 1}
CANVAS = {"height": 64, "width": 64, "short_sides": [64]}  # nothing but the image: a file takes all of it for that


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a detector that finds many things, shapes, and files made of it."""
    folder = tmp_path_factory.mktemp("detectors")
    make(folder / "data", ShapesSet(images=2, val_images=3, size=64))
    runtime.start("CPU", "graph", 3)
    net = randomise(create_model("retinanet_acmix_shapes", num_classes=3, **SMALL))
    runtime.assign(net.bbox_head.retina_cls.bias, np.full(27, -2.5, np.float32))  # else nothing is sure enough
    runtime.assign(net.bbox_head.retina_cls.weight, 30 * net.bbox_head.retina_cls.weight.asnumpy())
    cfg = config.from_dict(
        {"task": "detection", "model": {"name": "retinanet_acmix_shapes", "kwargs": SMALL},
         "data": {"name": "shapes", "path": str(folder / "data"), "batch_size": 2, "canvas": CANVAS}}
    )  # fmt: skip
    meta = {"model": cfg.model.name, "num_classes": 3, "class_names": NAMES, "config": config.to_yaml(cfg)}
    checkpoint.save(folder / "net.ckpt", net.parameters_dict(), meta=meta)
    files = [("net.mindir",), ("net.onnx",), ("raw.onnx", "--raw")]
    files += [] if exporter.unavailable("ms") else [("raw.ms", "--raw")]
    for name, *options in files:
        args = ("--checkpoint", folder / "net.ckpt", "--format", name[4:], "--output", folder / name, *options)
        assert export(*args) == 0
    return folder


@pytest.fixture(scope="module")
def regions(folder):
    """A checkpoint of a detector with masks, and an ONNX file made of it."""
    net = randomise(create_model("mask_rcnn_acmix_shapes", num_classes=3))
    weight = net.roi_head.bbox_head.fc_cls.weight
    runtime.assign(weight, 20 * weight.asnumpy())
    cfg = {"task": "detection", "model": {"name": "mask_rcnn_acmix_shapes"},
           "data": {"name": "shapes", "path": str(folder / "data"), "canvas": CANVAS}}  # fmt: skip
    meta = {"model": cfg["model"]["name"], "num_classes": 3, "class_names": NAMES}
    meta["config"] = config.to_yaml(config.from_dict(cfg))
    checkpoint.save(folder / "regions.ckpt", net.parameters_dict(), meta=meta)
    args = ("--checkpoint", folder / "regions.ckpt", "--format", "onnx", "--output", folder / "regions.onnx")
    assert export(*args) == 0
    return folder


def export(*args):
    return export_script.main([str(arg) for arg in args])


def needs(file):
    """Skip where it could not be made."""
    if not file.exists():
        pytest.skip(exporter.unavailable(file.suffix[1:]))
    return file


def predicted(file, folder):
    args = ["--checkpoint", file, folder / "data" / "val", "--threshold", 0.1, "--output", folder / "found.json"]
    assert predict_script.main([str(arg) for arg in args]) == 0
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def expected(folder):
    """What the checkpoint finds."""
    return predicted(folder / "net.ckpt", folder)


def assert_alike(found, expected):
    assert len(found) == 3 and sum(len(one["objects"]) for one in expected) > 10
    for one, other in zip(expected, found):
        assert (one["image"], one["height"]) == (other["image"], other["height"])
        assert [each["class"] for each in one["objects"]] == [each["class"] for each in other["objects"]]
        for a, b in zip(one["objects"], other["objects"]):
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)
            assert a["box"] == pytest.approx(b["box"], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.mindir", "net.onnx", "raw.onnx", "raw.ms"])
def test_a_file_finds_what_its_checkpoint_finds(folder, expected, name):
    assert_alike(predicted(needs(folder / name), folder), expected)
    about = description.read(folder / name)
    assert about.task == "detection" and about.classes == tuple(NAMES) and about.canvas["short_side"] == 64


@pytest.mark.slow
def test_on_a_device_one_script_finds_the_same(folder, expected):
    """In the Python of MindSpore Lite, which has nothing of this project."""
    file = needs(folder / "raw.ms")
    args = ["--model", file, folder / "data" / "val", "--threshold", "0.1", "--output", "-"]
    command = [lite.find().python, "-I", ROOT / "scripts" / "infer_lite.py", *args]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert_alike(json.loads(done.stdout), expected)


@pytest.mark.slow
def test_numpy_makes_objects_of_the_maps_of_any_runtime(folder):
    """Of what stands beside the file, and of maps that MindSpore Lite has no part in."""
    about, run = infer_lite.read_description(f"{folder / 'raw.onnx'}.json"), open_file(folder / "raw.onnx")
    for one in predicted(folder / "raw.onnx", folder):
        image, size = infer_lite.on_canvas(read_image(one["image"]), about)
        boxes, scores, labels = infer_lite.find(run.outputs(image[None]), about, size)
        boxes = infer_lite.in_picture(boxes, size, (one["height"], one["width"]))
        sure = scores >= 0.1
        assert [NAMES[label] for label in labels[sure]] == [each["class"] for each in one["objects"]]
        assert scores[sure].tolist() == pytest.approx([each["score"] for each in one["objects"]], abs=1e-6)
        assert np.allclose(boxes[sure], [each["box"] for each in one["objects"]], atol=0.006)


@pytest.mark.slow
def test_a_file_draws_the_masks_that_its_checkpoint_draws(regions):
    expected, found = (predicted(regions / name, regions) for name in ("regions.ckpt", "regions.onnx"))
    assert sum(len(one["objects"]) for one in expected) > 10
    for one, other in zip(expected, found):
        assert [each["class"] for each in one["objects"]] == [each["class"] for each in other["objects"]]
        same = [decode(a["mask"]) == decode(b["mask"]) for a, b in zip(one["objects"], other["objects"])]
        assert np.mean(same) > 0.999, "but for pixels on an edge"
    about = description.read(regions / "regions.onnx")
    assert [output.name for output in about.outputs] == ["boxes", "scores", "labels", "masks"]
    assert about.outputs[3].shape == (1, 100, 28, 28)


@pytest.mark.slow
def test_a_file_scores_what_its_checkpoint_scores(folder, tmp_path):
    data, scores = ["data.name=shapes", f"data.path={folder / 'data'}"], []
    for name in ("net.ckpt", "net.onnx", "raw.onnx", *(["raw.ms"] if (folder / "raw.ms").exists() else [])):
        output = tmp_path / f"{name}.json"
        eval_script.main(["--checkpoint", str(folder / name), "--output", str(output), *data])
        scores.append(json.loads(output.read_text()))
    for one in scores[1:]:
        assert one["count"] == 3
        assert one["bbox_mAP"] == pytest.approx(scores[0]["bbox_mAP"], abs=1e-4)


def test_what_cannot_be_exported_is_told(folder, tmp_path):
    def said(*args):
        return refusal(export_script.main, [*map(str, args), "--output", str(tmp_path / "net.mindir")])

    net = ("--checkpoint", folder / "net.ckpt", "--format", "mindir")
    if (folder / "raw.ms").exists() and lite.without_boxes():
        assert "no kernels for what makes boxes of a detector's maps (Floor, Less): of a RetinaNet give --raw" in said(
            "--checkpoint", folder / "net.ckpt", "--format", "ms"
        )
    assert "--image-size 100x100: give multiples of 32" in said(*net, "--image-size", 100)
    assert "--image-size and --batch" in said(*net, "--image-size", "dynamic")
    regions = ("--model", "mask_rcnn_acmix_shapes", "--format", "mindir", "--image-size", 64)
    assert "--raw: mask_rcnn_acmix_shapes has no maps that end in boxes" in said(*regions, "--raw")
    assert "--raw: resnet_digits is a classifier" in said("--model", "resnet_digits", "--format", "mindir", "--raw")


def test_detections_are_compared_box_by_box():
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]], np.float32)
    expected = {"boxes": boxes, "scores": np.array([[0.9, 0.8, 0.0]], np.float32),
                "labels": np.array([[1, 2, -1]], np.int32)}  # fmt: skip
    turned = {name: values[:, [1, 0, 2]] for name, values in expected.items()}
    assert comparison.compare_outputs(turned, expected).within(0), "the order of equals does not matter"
    moved = {**expected, "boxes": boxes + np.float32(0.1)}
    found = comparison.compare_outputs(moved, expected)
    assert found.outputs["boxes"].absolute == pytest.approx(0.1, rel=1e-3) and found.outputs["labels"].relative == 0
    other = {**expected, "labels": np.array([[1, 1, -1]], np.int32)}
    assert comparison.compare_outputs(other, expected).outputs["labels"].relative == 0.5
    unsure = {**expected, "scores": np.array([[0.9, 0.09, 0.0]], np.float32)}
    assert comparison.compare_outputs(other, unsure).within(0), "what is hardly there may be missing"
    nothing = {**expected, "labels": np.full((1, 3), -1, np.int32), "scores": np.zeros((1, 3), np.float32)}
    assert comparison.compare_outputs(nothing, nothing).within(0)
    with pytest.raises(VerificationError, match="boxes: gives shape"):
        comparison.compare_outputs({**expected, "boxes": boxes[:, :2]}, expected)
