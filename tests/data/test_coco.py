"""Detection's data: geometry beside mmdetection's formulas, who sees which image, and files that are wrong."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from acmix_ms.config import CanvasConfig, DataConfig
from acmix_ms.data import create_loader, shapes
from acmix_ms.data.canvas import Canvas, boxes_in_image
from acmix_ms.data.loader import PADDING
from acmix_ms.data.outlines import run_lengths
from acmix_ms.data.shapes import ShapesSet, annotation, make, picture
from acmix_ms.errors import UserError
from scripts import make_shapes

CANVAS = {"height": 64, "width": 96, "short_sides": [32, 64], "choose": "range", "max_side": 96}
SIZES = [(40, 60), (60, 40), (50, 50), (48, 90), (70, 35), (36, 64), (64, 33)] * 3  # height, width


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of both groups; in each a bright rectangle on black is the one object."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    random = np.random.RandomState(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        images, annotations = [], []
        for i, (height, width) in enumerate(SIZES):
            top, left = random.randint(2, height // 3), random.randint(2, width // 3)
            mask = np.zeros((height, width), bool)
            mask[top : top + height // 2, left : left + width // 2] = True
            Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, 2)).save(root / split / f"{i}.png")
            images.append({"id": 100 - i, "file_name": f"{i}.png", "height": height, "width": width})
            annotations.append({**annotation(i + 1, 100 - i, i % 2, mask), "category_id": (7, 3)[i % 2]})
        content = {"images": images, "annotations": annotations,
                   "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}]}  # fmt: skip
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def prepare(objects, canvas, size, random):
    assert objects.masks is None or objects.masks.shape == (len(objects.boxes), *canvas)
    boxes, masks = np.zeros((2, 4), np.float32), np.zeros((2, *canvas), np.uint8)
    boxes[: len(objects.boxes)] = objects.boxes
    if objects.masks is not None:
        masks[: len(objects.boxes)] = objects.masks
    return boxes, masks, np.array(size), random.random(1)


def loader(folder, split="train", batch_size=2, workers=2, on_error="skip", canvas=CANVAS, **keys):
    config = DataConfig(name="coco", path=str(folder), batch_size=batch_size, workers=workers, on_error=on_error,
                        canvas=CanvasConfig(**canvas))  # fmt: skip
    return create_loader(config, split, **{"prepare": prepare if split == "train" else None, **keys})


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.ids, b.ids)
        assert all(map(np.array_equal, a.targets, b.targets))


@pytest.mark.parametrize(
    ("size", "wanted"), [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((240, 640), (500, 1333))]
)
def test_sizes_are_mmdetections(size, wanted):
    place = Canvas(800, 1344, (480, 800), max_side=1333).place(*size)
    assert (place.size, place.canvas) == (wanted, (800, 1344))
    turned = Canvas(800, 1344, (480, 800), max_side=1333).place(*size[::-1])
    assert (turned.size, turned.canvas) == (wanted[::-1], (1344, 800))


def test_too_large_an_image_is_scaled_down_and_boxes_come_back():
    place = Canvas(64, 96, (80,), max_side=200).place(100, 120)
    assert place.size == (64, 77)
    boxes = np.float32([[10, 20, 110, 90]])
    assert np.allclose(place.boxes(boxes), [[10 * 77 / 120, 20 * 0.64, 110 * 77 / 120, 90 * 0.64]], atol=1e-5)
    assert np.allclose(boxes_in_image(place.boxes(boxes), place.row()), boxes, atol=1e-4)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (500, 500)])
def test_crops_keep_their_ranges_and_fit(size):
    canvas, random = Canvas(800, 1344, tuple(range(480, 801, 32)), max_side=1333, crop=True), np.random.default_rng(0)
    crops = 0
    for place in (canvas.draw(*size, random) for _ in range(200)):
        assert np.all(np.array(place.size) <= place.canvas)
        if place.crop:
            crops += 1
            assert 384 <= min(place.crop.height, place.crop.width) <= max(place.crop.height, place.crop.width) <= 600
            assert place.crop.top + place.crop.height <= place.crop.size[0]
            assert min(place.crop.size) in (400, 500, 600)
            # A point in the middle of the crop is one in the middle of what is seen.
            middle = np.array([place.crop.left + place.crop.width / 2, place.crop.top + place.crop.height / 2])
            in_image = middle * np.array([size[1] / place.crop.size[1], size[0] / place.crop.size[0]])
            assert np.allclose(place.points(in_image), [place.size[1] / 2, place.size[0] / 2])
    assert 70 < crops < 130


def test_images_masks_and_boxes_go_together(folder):
    for batch in loader(folder, masks=True).epoch(0):
        boxes, masks, sizes, _ = batch.targets
        for image, box, mask, (height, width) in zip(batch.images, boxes[:, 0], masks[:, 0], sizes):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(found - box).max() <= 1.01
            bright = image[0, :height, :width] > 0
            assert (bright != mask[:height, :width]).mean() < 0.12, "the rectangle in the picture is where its mask is"
            assert not image[:, height:].any()
            assert not image[:, :, width:].any()


def test_batches_are_of_one_shape_and_ranks_share_them(folder):
    one = list(loader(folder, batch_size=4).epoch(1))
    assert {batch.images.shape[2:] for batch in one} == {(64, 96), (96, 64)}
    ranks = [list(loader(folder, batch_size=2, rank=rank, size=2).epoch(1)) for rank in range(2)]
    for whole, a, b in zip(one, *ranks):
        assert np.array_equal(whole.images, np.concatenate([a.images, b.images]))
        assert all(np.array_equal(w, np.concatenate(p)) for w, *p in zip(whole.targets, a.targets, b.targets))
    assert {len(loader(folder, batch_size=4).indices(epoch)) for epoch in range(5)} == {len(one)}


def test_epochs_start_anywhere_with_any_number_of_threads(folder):
    whole = list(loader(folder, masks=True, seed=3).epoch(2))
    same(list(loader(folder, masks=True, seed=3, workers=5).epoch(2, start=3)), whole[3:])
    other = list(loader(folder, masks=True, seed=3).epoch(3))
    assert not np.array_equal(whole[0].targets[3], other[0].targets[3])


@pytest.mark.parametrize("size", [1, 3])
def test_evaluation_sees_each_image_once(folder, size):
    parts = [list(loader(folder, "val", batch_size=2, rank=rank, size=size).epoch(0)) for rank in range(size)]
    seen = np.concatenate([batch.ids for part in parts for batch in part])
    assert sorted(seen[seen != PADDING]) == list(range(len(SIZES)))
    assert len({len(part) for part in parts}) == 1
    for batch in (batch for part in parts for batch in part):
        for sample, place in zip(batch.ids, batch.targets[0]):
            assert tuple(place[2:]) == (SIZES[sample] if sample != PADDING else (0, 0))


def test_classes_and_ids_are_the_files(folder):
    found = loader(folder, "val", masks=True)
    assert (found.class_names, list(found.category_ids)) == (["three", "seven"], [3, 7])
    assert list(found.image_ids) == [100 - i for i in range(len(SIZES))]
    truth = found.ground_truth(masks=True)
    assert sorted(truth.getImgIds()) == sorted(found.image_ids)
    assert truth.annToMask(truth.anns[5]).sum() == truth.anns[5]["area"]
    with pytest.raises(UserError, match="model.num_classes=3, but the data have 2"):
        found.require_classes(3)


def test_an_image_that_cannot_be_read_does_not_count(folder, tmp_path, capsys):
    for name in ("annotations", "train"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "val").mkdir()
    for path in (folder / "val").iterdir():
        (tmp_path / "val" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "val" / "4.png").unlink()
    Image.new("RGB", (9, 9)).save(tmp_path / "val" / "2.png")
    batches = list(loader(tmp_path, "val").epoch(0))
    seen = np.concatenate([batch.ids for batch in batches])
    assert sorted(seen[seen != PADDING]) == [i for i in range(len(SIZES)) if i not in (2, 4)]
    assert "9 x 9 pixels, but val.json says 50 x 50" in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot be read"):
        list(loader(tmp_path, "val", on_error="fail").epoch(0))


def changed(folder, tmp_path, change, split="train"):
    for name in ("train", "val"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "annotations").mkdir()
    content = json.loads((folder / "annotations" / f"{split}.json").read_text())
    text = change(content)
    (tmp_path / "annotations" / f"{split}.json").write_text(text if isinstance(text, str) else json.dumps(content))
    return tmp_path


def put(section, number, key, value):
    def change(content):
        content[section][number][key] = value

    return change


WRONG = {
    "no json": (lambda content: "{", "is no JSON"),
    "a list": (lambda content: "[]", "holds no list 'images'"),
    "no categories": (lambda content: content.pop("categories") and None, "holds no list 'categories'"),
    "nothing": (lambda content: content.update(annotations=[]), "'annotations' is empty"),
    "short box": (put("annotations", 3, "bbox", [1, 2, 3]), r"annotations\[3\].bbox=\[1, 2, 3\]: must be"),
    "infinite box": (put("annotations", 2, "bbox", [1, 2, 3, 1e999]), r"annotations\[2\].bbox=.*four finite"),
    "texts": (put("annotations", 2, "bbox", ["1", 2, 3, 4]), r"annotations\[2\].bbox"),
    "unknown image": (put("annotations", 1, "image_id", 7777), r"annotations\[1\].image_id=7777: none of 'images'"),
    "unknown class": (put("annotations", 1, "category_id", 5), r"category_id=5: none of 'categories'"),
    "twice": (put("images", 1, "id", 100), "images with id=100 are there more than once"),
    "twice an object": (put("annotations", 1, "id", 1), "annotations with id=1 are there more than once"),
    "no size": (put("images", 1, "height", 0), r"images\[1\]"),
    "no number": (put("images", 1, "height", "50"), r"images\[1\].height='50': must be a whole number"),
    "other mask": (put("annotations", 0, "segmentation", {"size": [3, 3], "counts": [9]}), r"the image is \[40, 60"),
    "short mask": (put("annotations", 0, "segmentation", {"size": [40, 60], "counts": [9]}), "counts are of 9 pixels"),
    "no mask": (put("annotations", 0, "segmentation", 5), r"annotations\[0\].segmentation: must be a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named(folder, tmp_path, name):
    change, message = WRONG[name]
    with pytest.raises(UserError, match=message) as raised:
        loader(changed(folder, tmp_path, change), masks=True)
    assert "\n" not in str(raised.value)


def test_odd_objects_are_left_out_as_mmdetection_does(folder, tmp_path):
    def change(content):
        some = content["annotations"]
        some[0]["bbox"] = [1000, 1000, 5, 5]  # outside
        some[1]["bbox"][2] = 0.5
        some[2]["area"] = 0
        some[3]["iscrowd"] = 1
        some[5].update(bbox=[-10, -10, 500, 500], segmentation=[[1, 1, 9, 9], [0, 0, 9, 0, 9, 9]])
        some[6]["segmentation"] = [[1, 1, 9, 9]]  # nothing is left: a region to ignore

    found = loader(changed(folder, tmp_path, change), masks=True)
    assert list(found.image_ids) == [100 - i for i in range(len(SIZES)) if i not in (0, 1, 2, 3, 6)]
    sample = list(found.image_ids).index(95)
    height, width = SIZES[5]
    objects = found.objects(sample, found.canvas.place(height, width))
    assert np.allclose(objects.boxes, [[0, 0, 96, 54]])
    assert objects.masks[0].sum() > 0


def test_missing_keys_and_folders_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="data.canvas.width is not set"):
        loader(folder, canvas={"height": 64, "short_sides": [32]})
    with pytest.raises(UserError, match="holds neither annotations/instances_train2017.json"):
        loader(tmp_path)
    with pytest.raises(UserError, match="data.batch_size=40: too large for 21 training images, of which 12 have"):
        loader(folder, batch_size=40)
    with pytest.raises(ValueError, match="prepare, masks: data.name=digits"):
        create_loader(DataConfig(), "val", masks=True)


def test_only_the_largest_objects_are_kept(folder, tmp_path, capsys):
    def change(content):
        content["annotations"].append({**content["annotations"][0], "id": 999, "bbox": [0, 0, 4, 4]})

    found = loader(changed(folder, tmp_path, change), canvas={**CANVAS, "max_objects": 1})
    place = found.canvas.place(*SIZES[0])
    assert found.objects(0, place).boxes[0, 2] > 4 * 1.6, "the small one is left out"
    list(found.epoch(0))
    list(found.epoch(1))
    assert capsys.readouterr().out.count("1 images have more than data.canvas.max_objects=1") == 1


def test_shapes_are_exact_and_the_same_again(tmp_path):
    wanted = ShapesSet(images=6, val_images=2, size=64)
    assert make(tmp_path / "a", wanted)
    assert not make(tmp_path / "a", wanted)
    make(tmp_path / "b", wanted)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    with pytest.raises(UserError, match="holds another set of shapes"):
        make(tmp_path / "a", ShapesSet(size=65))
    canvas = {"height": 64, "width": 64, "short_sides": [64]}
    truth = loader(tmp_path / "a", "val", masks=True, canvas=canvas).ground_truth(masks=True)
    for image in truth.imgs.values():
        classes = np.asarray(Image.open(tmp_path / "a" / "semantic" / "val" / image["file_name"]))
        painted = sum(truth.annToMask(one) * one["category_id"] for one in truth.imgToAnns[image["id"]])
        assert np.array_equal(classes, painted)


def test_packed_run_lengths_are_pycocotools():
    from pycocotools import mask as tools

    _, _, objects = picture(64, np.random.RandomState(1))
    for _, mask in objects:
        packed = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        bits = np.repeat(np.arange(len(run_lengths(packed))) % 2, run_lengths(packed)).reshape(64, 64).T
        assert np.array_equal(bits, mask)


def test_without_pycocotools_the_way_to_it_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert len(loader(folder)) > 0, "boxes need no masks"
    with pytest.raises(UserError, match=r"pip install .acmix-mindspore\[det\]"):
        loader(folder, masks=True)
    with pytest.raises(UserError, match=r"pip install .acmix-mindspore\[det\]"):
        loader(folder, "val").ground_truth()


def test_the_command_makes_shapes_once_and_replaces_shapes_only(tmp_path, capsys):
    command = ["--output", str(tmp_path / "set"), "--images", "3", "--val-images", "1", "--size", "64"]
    make_shapes.main(command)
    make_shapes.main(command)
    assert "holds this set already" in capsys.readouterr().out
    with pytest.raises(UserError, match="give another folder or --force"):
        make_shapes.main([*command, "--seed", "1"])
    make_shapes.main([*command, "--seed", "1", "--force"])
    assert json.loads((tmp_path / "set" / "shapes.json").read_text())["seed"] == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(UserError, match="files that are no set of shapes"):
        make_shapes.main(["--output", str(tmp_path / "mine"), "--force"])
    assert (tmp_path / "mine" / "letter").exists()


def test_shapes_without_a_path_are_made_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shapes.cached, "__defaults__", (ShapesSet(4, 2, 64),))
    canvas = CanvasConfig(height=64, width=64, short_sides=[64])
    for _ in range(2):
        found = create_loader(DataConfig(name="shapes", batch_size=2, canvas=canvas), "val")
        assert (found.class_names, found.num_samples) == (["rectangle", "circle", "triangle"], 2)
    assert len(list((tmp_path / "acmix_ms").iterdir())) == 1
