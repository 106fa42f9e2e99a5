"""Segmentation's data: pairs of files, crops with their labels, whole images, and files that are wrong."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from acmix_ms import config
from acmix_ms.config import CanvasConfig, DataConfig, SegmentsConfig
from acmix_ms.data import create_loader
from acmix_ms.data.loader import PADDING
from acmix_ms.data.segments import mostly_of_one_class, recoloured
from acmix_ms.data.shapes import ShapesSet, make
from acmix_ms.errors import UserError
from tests.helpers.refusals import refusal

SIZES = [(40, 60), (60, 40), (50, 50), (48, 90), (33, 64)]  # height, width
CANVAS = {"height": 64, "width": 64, "short_sides": [48], "max_side": 96}
SEGMENTS = {"photometric": False}


def labels_of(height, width):
    """Classes 0 to 2 in three columns, the first row without a class."""
    labels = np.repeat(np.arange(width)[None] * 3 // width, height, 0).astype(np.uint8)
    labels[0] = 255
    return labels


def write(root, layout=("images/training", "annotations/training", "images/validation", "annotations/validation")):
    """Pictures whose red tells the class."""
    for images, labels in (layout[:2], layout[2:]):
        for folder in (images, labels):
            (root / folder).mkdir(parents=True)
        for i, size in enumerate(SIZES):
            classes = labels_of(*size)
            pixels = np.zeros((*size, 3), np.uint8)
            pixels[..., 0] = np.where(classes == 255, 0, 60 + 60 * classes)
            Image.fromarray(pixels).save(root / images / f"{i}.png")
            Image.fromarray(classes).save(root / labels / f"{i}.png")
    (root / "classes.txt").write_text("left\nmiddle\n\nright\n")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    return tmp_path / "set"


def loader(folder, split="train", batch_size=2, workers=2, on_error="skip", name="pairs", segments=None, **keys):
    data = DataConfig(name=name, path=str(folder), batch_size=batch_size, workers=workers, on_error=on_error,
                      canvas=CanvasConfig(**CANVAS), segments=SegmentsConfig(**(segments or SEGMENTS)))  # fmt: skip
    return create_loader(data, split, segments=True, **keys)


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.ids, b.ids)
        assert all(map(np.array_equal, a.targets, b.targets))


def test_crops_and_labels_go_together(folder):
    found = loader(folder)
    red = [(60 + 60 * np.arange(3)) / 255]
    wanted = (red[0] - found._preprocess.mean[0]) / found._preprocess.std[0]
    counted = 0
    for epoch in range(4):
        for batch in found.epoch(epoch):
            (labels,) = batch.targets
            assert batch.images.shape == (2, 3, 64, 64) and labels.shape == (2, 64, 64) and labels.dtype == np.int32
            for image, known in zip(batch.images, labels):
                assert set(np.unique(known)) <= {0, 1, 2, 255}
                rows, columns = np.flatnonzero((known != 255).any(1)), np.flatnonzero((known != 255).any(0))
                assert not image[:, rows.max() + 2 :].any(), "zeros below, where labels are ignored"
                assert len(columns) == 64 or not image[:, :, columns.max() + 2 :].any()
                nearest = np.abs(image[0][..., None] - wanted).argmin(-1)
                inside = known != 255
                assert (nearest == known)[inside].mean() > 0.9
                counted += int(inside.sum())
    assert counted


def test_epochs_start_anywhere_with_any_number_of_threads_and_ranks(folder):
    whole = list(loader(folder, seed=3).epoch(2))
    same(list(loader(folder, seed=3, workers=5).epoch(2, start=1)), whole[1:])
    assert not np.array_equal(whole[0].targets[0], next(iter(loader(folder, seed=3).epoch(3))).targets[0])
    ranks = [list(loader(folder, batch_size=1, rank=rank, size=2, seed=3).epoch(2)) for rank in range(2)]
    for one, a, b in zip(whole, *ranks):
        assert np.array_equal(one.images, np.concatenate([a.images, b.images]))
        assert np.array_equal(one.targets[0], np.concatenate([a.targets[0], b.targets[0]]))


@pytest.mark.parametrize("size", [1, 3])
def test_evaluation_sees_each_image_once_in_an_array_it_fills(folder, size):
    parts = [list(loader(folder, "val", rank=rank, size=size).epoch(0)) for rank in range(size)]
    seen = np.concatenate([batch.ids for part in parts for batch in part])
    assert sorted(seen[seen != PADDING]) == list(range(len(SIZES)))
    assert len({len(part) for part in parts}) == 1
    for batch in (batch for part in parts for batch in part):
        assert not np.array(batch.images.shape[2:]) @ np.array([1, 1]) % 32
        for image, sample, place in zip(batch.images, batch.ids, batch.targets[0]):
            assert tuple(place[2:]) == (SIZES[sample] if sample != PADDING else (0, 0))
            if sample != PADDING:
                assert tuple(place[:2]) == image.shape[1:]
    found = loader(folder, "val")
    # The shorter side 48, the longer one 96 at most, both rounded up to multiples of 32.
    assert [found.whole(each) for each in SIZES] == [(64, 96), (96, 64), (64, 64), (64, 96), (64, 96)]
    assert np.array_equal(found.labels(3), labels_of(*SIZES[3])), "labels are never resized"


@pytest.mark.parametrize(
    "layout",
    [
        ("images/train", "annotations/train", "images/val", "annotations/val"),
        ("train", "semantic/train", "val", "semantic/val"),
    ],
)
def test_other_folders_serve_as_well(tmp_path, layout):
    found = loader(write(tmp_path, layout), "val")
    assert (found.num_samples, found.class_names) == (5, ["left", "middle", "right"])


def test_generated_shapes_have_labels(tmp_path):
    make(tmp_path / "set", ShapesSet(images=4, val_images=2, size=96))
    found = loader(tmp_path / "set", name="shapes")
    assert (found.class_names, found.num_samples) == (["rectangle", "circle", "triangle"], 4)
    stored = np.asarray(Image.open(tmp_path / "set" / "semantic" / "train" / "0000.png"))
    assert np.array_equal(found.labels(0), np.where(stored == 0, 255, stored.astype(int) - 1))


def test_ade20k_names_its_classes(tmp_path):
    write(tmp_path)
    (tmp_path / "classes.txt").unlink()
    found = loader(tmp_path, name="ade20k")
    assert (found.num_classes, found.class_names[0]) == (150, "class 1")
    assert set(np.unique(found.labels(0))) == {0, 1, 255}, "0 is ignored, and class i is label i + 1"
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{i}\t.1\t1\t1\t1\tname {i}, other" for i in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(lines))
    assert loader(tmp_path, name="ade20k").class_names[149] == "name 150"
    with pytest.raises(UserError, match="model.num_classes=151, but the data have 150"):
        found.require_classes(151)


def test_a_crop_of_one_class_is_drawn_again(folder):
    labels = np.zeros((300, 300), np.uint8)
    labels[:40] = 1
    found = loader(folder, segments={"scales": [6.0, 6.0], "cat_max_ratio": 0.75, "photometric": False})
    shares = [mostly_of_one_class(found.draw(labels, np.random.default_rng(i)).chart(labels), 0.75) for i in range(60)]
    found = loader(folder, segments={"scales": [6.0, 6.0], "cat_max_ratio": 1.0, "photometric": False})
    others = [mostly_of_one_class(found.draw(labels, np.random.default_rng(i)).chart(labels), 0.75) for i in range(60)]
    assert sum(shares) < sum(others)
    assert mostly_of_one_class(np.array([[0, 0, 0, 1]]), 0.75) and not mostly_of_one_class(np.array([[0, 0, 1]]), 0.75)
    assert mostly_of_one_class(np.array([[0, 255]]), 0.75) and mostly_of_one_class(np.array([[255]]), 0.75)
    assert not mostly_of_one_class(np.array([[0, 0]]), 1.0)


def test_colours_vary_and_stay_pictures():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    made = [recoloured(picture, np.random.default_rng(i)) for i in range(40)]
    assert all(each.shape == picture.shape and each.dtype == np.uint8 for each in made)
    assert np.array_equal(made[7], recoloured(picture, np.random.default_rng(7)))
    changes = [np.abs(each.astype(int) - picture).mean() for each in made]
    assert np.ptp(changes) > 10 and sum(change == 0 for change in changes) < 8
    grey = np.repeat(picture[..., :1], 3, 2)
    for i in range(10):
        each = recoloured(grey, np.random.default_rng(i))
        assert np.abs(each.max(-1).astype(int) - each.min(-1)).max() <= 1, "hue and saturation of grey are nothing"


# ------------------------------------------------------------------------------------------------------ what is wrong
def test_missing_folders_pairs_and_names(copied):
    assert "data.path is not set" in refusal(lambda: create_loader(_config(None), "train", segments=True))
    assert "no such folder" in refusal(lambda: loader(copied / "none"))
    shutil.rmtree(copied / "images" / "validation")
    told = refusal(lambda: loader(copied, "val"))
    assert "holds neither images/validation with annotations/validation nor images/val with annotations/val" in told
    (copied / "images" / "validation").mkdir()
    assert "holds no images (.jpg" in refusal(lambda: loader(copied, "val"))
    label = copied / "annotations" / "training" / "3.png"
    label.rename(label.with_name("9.png"))
    told = refusal(lambda: loader(copied))
    assert "training/3.png: has no label image, a .png of the same name in" in told and "(1 such)" in told
    (copied / "images" / "training" / "3.png").unlink()
    assert "annotations/training/9.png: has no image of the same name" in refusal(lambda: loader(copied))
    label.with_name("9.png").unlink()
    Image.new("RGB", (60, 40)).save(copied / "images" / "training" / "0.jpg")
    assert "has the same name; which one is meant" in refusal(lambda: loader(copied))
    (copied / "images" / "training" / "0.jpg").unlink()
    (copied / "classes.txt").write_text("\n")
    assert "classes.txt: missing or empty; name the classes there" in refusal(lambda: loader(copied))
    (copied / "classes.txt").write_text("\n".join(map(str, range(256))))
    assert "names 256 classes; at most 255 fit" in refusal(lambda: loader(copied))
    (copied / "classes.txt").write_bytes(b"caf\xe9\n")
    assert "classes.txt cannot be read" in refusal(lambda: loader(copied))


def _config(path, **keys):
    return DataConfig(name="pairs", path=path, canvas=CanvasConfig(**{**CANVAS, **keys}))


def test_sizes_that_are_not_given():
    for name in ("height", "width", "short_sides"):
        told = refusal(lambda name=name: create_loader(_config("x", **{name: None}), "train", segments=True))
        assert f"data.canvas.{name} is not set: give it" in told


def test_labels_that_are_no_classes_are_refused(copied):
    path = copied / "annotations" / "validation" / "2.png"
    one = loader(copied, "val")

    def told(labels):
        Image.fromarray(labels).save(path)
        return refusal(lambda: list(one.epoch(0)))

    assert f"label image {path} holds 7, but 3 classes are 0 to 2, and 255 ignored" in told(
        np.full((50, 50), 7, np.uint8)
    )
    assert "is coloured: give one with a single channel" in told(np.zeros((50, 50, 3), np.uint8))
    assert "holds 60000, but" in told(np.full((50, 50), 60000, np.uint16))
    one = loader(copied, "val", segments={"zero_ignored": True})
    assert "holds 4, but 3 classes are 1 to 3, 0 and 255 ignored" in told(np.full((50, 50), 4, np.uint8))


def test_labels_are_read_as_they_are_stored(copied):
    path, labels = copied / "annotations" / "validation" / "2.png", labels_of(50, 50)
    found = loader(copied, "val")
    palette = Image.new("P", (50, 50))
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([17, 30, 200] * 256)
    palette.save(path)
    assert np.array_equal(found.labels(2), labels)
    Image.fromarray(labels.astype(np.uint16)).save(path)
    assert np.array_equal(found.labels(2), labels)
    Image.fromarray(labels == 1).save(path)
    assert np.array_equal(found.labels(2), labels == 1)


def test_an_image_of_another_size_or_a_damaged_label_does_not_count(copied, capsys):
    Image.new("RGB", (9, 9)).save(copied / "images" / "validation" / "2.png")
    label = copied / "annotations" / "validation" / "4.png"
    label.write_bytes(label.read_bytes()[:60])
    batches = list(loader(copied, "val").epoch(0))
    seen = np.concatenate([batch.ids for batch in batches])
    assert sorted(seen[seen != PADDING]) == [0, 1, 3]
    said = capsys.readouterr().out
    assert "9 x 9 pixels, but its label image has 50 x 50" in said and "label image" in said
    with pytest.raises(UserError, match="cannot be read"):
        list(loader(copied, "val", on_error="fail").epoch(0))


def test_an_image_without_any_class_trains_as_nothing(copied):
    for path in (copied / "annotations" / "training").iterdir():
        Image.fromarray(np.full(Image.open(path).size[::-1], 255, np.uint8)).save(path)
    assert all((batch.targets[0] == 255).all() for batch in loader(copied).epoch(0))


def test_keys_that_contradict_each_other():
    segmentation = ["task=segmentation", "data.name=pairs", "data.canvas.height=64", "data.canvas.width=64"]
    for wrong, told in (
        ("data.segments.scales=[2.0]", r"scales=\[2.0\]: give two numbers, the least and the most"),
        ("data.segments.scales=[2.0,0.5]", "give two numbers"),
        ("data.segments.test_scales=[]", "give one or several numbers"),
        ("data.segments.stride=100", "stride=100: must be <= data.canvas.height=64"),
        ("data.name=coco", "data.name=coco: is for task=detection; give task=detection"),
    ):
        with pytest.raises(UserError, match=told):
            config.from_overrides([*segmentation, wrong])
    with pytest.raises(UserError, match="data.segments.test_flip=True: is for task=segmentation; leave it out"):
        config.from_overrides(["data.segments.test_flip=true"])
    with pytest.raises(UserError, match="data.name=pairs: is for task=segmentation"):
        config.from_overrides(["data.name=pairs"])
    with pytest.raises(UserError, match="data.name=digits: its pixels have no classes; give ade20k, pairs, shapes"):
        create_loader(DataConfig(), "train", segments=True)
