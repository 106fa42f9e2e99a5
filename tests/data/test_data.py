"""Loaders: every sample once, one batch shape, order decided by seed and epoch, and folders that are wrong."""

from __future__ import annotations

import functools
import os
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from acmix_ms.data import create_loader
from acmix_ms.data.digits import sample_bilinear, split_indices
from acmix_ms.data.images import read_bytes
from acmix_ms.data.loader import batch_indices, prefetched
from acmix_ms.errors import UserError
from tests.helpers.data import data_config
from tests.helpers.tiny import make_images


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [1, 7, 24, 25])
def test_evaluation_counts_each_sample_once(num_samples, size):
    parts = [batch_indices(num_samples, 4, train=False, rank=rank, size=size) for rank in range(size)]
    assert len({part.shape for part in parts}) == 1, "processes that disagree on the number of batches would hang"
    seen = np.concatenate([part.ravel() for part in parts])
    assert sorted(seen[seen >= 0]) == list(range(num_samples))


def test_training_order_depends_on_seed_and_epoch_only():
    first = batch_indices(50, 8, train=True, seed=1, epoch=2)
    assert first.shape == (6, 8)  # the incomplete seventh is dropped
    assert len(np.unique(first)) == first.size
    assert np.array_equal(first, batch_indices(50, 8, train=True, seed=1, epoch=2))
    assert not np.array_equal(first, batch_indices(50, 8, train=True, seed=1, epoch=3))
    assert not np.array_equal(first, batch_indices(50, 8, train=True, seed=2, epoch=2))


def test_two_processes_share_the_batches_of_one():
    one = batch_indices(50, 8, train=True, seed=1)
    two = [batch_indices(50, 4, train=True, seed=1, rank=rank, size=2) for rank in range(2)]
    assert np.array_equal(one, np.concatenate(two, axis=1))


def test_digits_split_is_fixed_and_stratified():
    labels = load_digits().target
    train, val = split_indices(labels, "train"), split_indices(labels, "val")
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert (len(train), len(val)) == (1442, 355)
    assert list(val[:3]) == [33, 36, 37]  # always these images
    for label in range(10):
        share = (labels[val] == label).sum() / (labels == label).sum()
        assert abs(share - 0.2) < 0.01


def test_digits_batches():
    loader = create_loader(data_config(batch_size=64), "val", seed=5)
    batches = list(loader.epoch(0))
    assert (len(loader), loader.num_samples, loader.num_classes) == (len(batches), 355, 10)
    assert {images.shape for images, *_ in batches} == {(64, 3, 32, 32)}
    assert {(images.dtype, labels.dtype) for images, (labels,), _ in batches} == {(np.dtype("f4"), np.dtype("i4"))}
    labels = np.concatenate([labels for _, (labels,), _ in batches])
    assert (labels >= 0).sum() == 355
    target = load_digits().target
    assert np.array_equal(labels[labels >= 0], target[split_indices(target, "val")])
    images = np.concatenate([images for images, *_ in batches])[labels >= 0]
    assert np.array_equal(images[:, 0], images[:, 2])
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


def test_digits_training_repeats_by_epoch_and_seed_whatever_the_batch():
    def by_label(batch_size, epoch, seed=0, augment=True):
        loader = create_loader(data_config(batch_size=batch_size, enabled=augment), "train", seed=seed)
        return np.concatenate([images for images, *_ in loader.epoch(epoch)])[:1408, 0]

    reference = by_label(64, epoch=1)
    assert np.array_equal(reference, by_label(32, epoch=1))
    assert not np.array_equal(reference, by_label(64, epoch=2))
    assert not np.array_equal(reference, by_label(64, epoch=1, seed=1))
    still = by_label(64, epoch=1, augment=False)
    assert 0.05 < np.abs(reference - still).mean() < 0.8, "augmented, but still the same digits"


def test_enlarging_is_the_usual_bilinear_resize():
    image = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    grid = (np.arange(32) + 0.5) / 4 - 0.5
    y, x = np.meshgrid(grid, grid, indexing="ij")
    ours = sample_bilinear(image, y[None], x[None])[0]
    pillow = np.asarray(Image.fromarray(image[0]).resize((32, 32), Image.BILINEAR))
    assert np.abs(ours - pillow).max() < 1e-5


def test_too_large_a_batch_is_named():
    with pytest.raises(UserError, match="data.batch_size=2000.*at most 1442"):
        create_loader(data_config(batch_size=2000), "train")


def test_unknown_split_and_dataset_are_named():
    with pytest.raises(UserError, match="split='test'"):
        create_loader(data_config(), "test")
    with pytest.raises(UserError, match="data.name='cifar'"):
        create_loader(data_config(name="cifar"), "val")


@pytest.fixture
def folder(tmp_path):
    return make_images(tmp_path / "images")


def image_config(folder, **kwargs):
    return data_config(**{"name": "imagefolder", "path": str(folder), "batch_size": 4, "image_size": 32, **kwargs})


def test_folder_batches(folder):
    Image.fromarray(np.full((33, 44), 30, np.uint8)).save(folder / "val" / "cat" / "grey.png")
    (folder / "val" / "cat" / "notes.txt").write_text("no image")
    loader = create_loader(image_config(folder), "val")
    assert (loader.class_names, loader.num_samples, len(loader)) == (["cat", "dog"], 7, 2)
    batches = list(loader.epoch(0))
    assert {images.shape for images, *_ in batches} == {(4, 3, 32, 32)}
    assert {(images.dtype, labels.dtype) for images, (labels,), _ in batches} == {(np.dtype("f4"), np.dtype("i4"))}
    labels = np.concatenate([labels for _, (labels,), _ in batches])
    assert list(labels) == [0, 0, 0, 0, 1, 1, 1, -1]
    means = np.concatenate([images for images, *_ in batches]).mean((1, 2, 3))
    assert means[:4].max() < 0 < means[4:7].min(), "dark cats and bright dogs: images belong to their labels"


def test_folder_shards_cover_the_split_in_equal_batches(folder):
    parts = [list(create_loader(image_config(folder), "val", rank=rank, size=4).epoch(0)) for rank in range(4)]
    assert {len(part) for part in parts} == {1}
    labels = np.concatenate([labels for part in parts for _, (labels,), _ in part])
    assert sorted(labels[labels >= 0]) == [0, 0, 0, 1, 1, 1]


def test_folder_training_repeats_by_epoch_and_seed(folder):
    def images(epoch, seed=0):
        loader = create_loader(image_config(folder, workers=1), "train", seed=seed)
        return np.concatenate([images for images, *_ in loader.epoch(epoch)])

    assert images(0).shape == (12, 3, 32, 32)
    assert np.array_equal(images(0), images(0))
    assert not np.array_equal(images(0), images(1))
    assert not np.array_equal(images(0), images(0, seed=1))


def test_wrong_folders_are_named(folder, tmp_path):
    def error(path, split="train"):
        with pytest.raises(UserError) as raised:
            create_loader(image_config(path), split)
        return str(raised.value)

    with pytest.raises(UserError, match="data.path is not set"):
        create_loader(image_config(folder, path=None), "train")
    assert "no such folder" in error(tmp_path / "nowhere")
    (folder / "train" / "owl").mkdir()
    assert "'owl' is in train/ only" in error(folder)
    (folder / "val" / "owl").mkdir()
    assert str(folder / "val" / "owl") in error(folder, "val")
    shutil.rmtree(folder / "val")
    assert "holds no folder 'val'" in error(folder)
    (folder / "val").mkdir()
    assert "holds no class folders" in error(folder, "val")


def same(one, two):
    assert len(one) == len(two)
    for (images, (labels,), _), (images2, (labels2,), _) in zip(one, two):
        assert np.array_equal(images, images2)
        assert np.array_equal(labels, labels2)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("start", [0, 3, 7])
def test_digits_start_within_an_epoch(split, start):
    config = data_config(batch_size=45, mixup=0.8, cutmix=1.0, reprob=0.25)
    whole = list(create_loader(config, split).epoch(3))
    same(list(create_loader(config, split).epoch(3, start)), whole[start:])


STRONG = {"auto_augment": "rand-m9-mstd0.5", "color_jitter": 0.4, "mixup": 0.8, "reprob": 0.25}


@pytest.mark.parametrize("changes", [{}, STRONG], ids=["plain", "strong"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_folder_starts_within_an_epoch(tmp_path, monkeypatch, split, changes):
    """Nothing before the start is read."""
    folder = make_images(tmp_path / "images", train=12, val=12)
    config = image_config(folder, **changes)
    whole = list(create_loader(config, split, seed=4).epoch(1))
    assert len(whole) == 6
    for start in range(7):
        loader, read = create_loader(config, split, seed=4), []
        counting = functools.partial(lambda read, path: read.append(path) or read_bytes(path), read)
        monkeypatch.setattr("acmix_ms.data.imagefolder.read_bytes", counting)
        same(list(loader.epoch(1, start)), whole[start:])
        assert len(read) == 4 * (6 - start)


def test_augmentation_is_the_same_for_any_number_of_threads_and_processes(tmp_path):
    folder = make_images(tmp_path / "images", train=12)
    changes = {"auto_augment": "rand-m9-mstd0.5", "color_jitter": 0.4}
    one = list(create_loader(image_config(folder, workers=1, **changes), "train", seed=4).epoch(1))
    same(list(create_loader(image_config(folder, workers=7, **changes), "train", seed=4).epoch(1)), one)
    halves = [
        create_loader(image_config(folder, batch_size=2, **changes), "train", rank=rank, size=2, seed=4).epoch(1)
        for rank in range(2)
    ]
    pairs = [(np.concatenate([a.images, b.images]), a.targets[0], b.targets[0]) for a, b in zip(*halves)]
    same([(images, (np.concatenate(labels),), None) for images, *labels in pairs], one)


def test_an_epoch_that_is_left_early_leaves_no_threads(tmp_path):
    before = threading.active_count()
    batches = create_loader(image_config(make_images(tmp_path / "images"), workers=5), "train").epoch(0)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_start_beyond_the_epoch_is_named():
    with pytest.raises(ValueError, match="start=23: must be from 0 to the 22 batches"):
        next(create_loader(data_config(), "train").epoch(0, 23))


def test_copies_of_an_image_differ_in_their_chance(tmp_path):
    folder = make_images(tmp_path / "images", classes=("one",), train=4)
    images, *_ = next(create_loader(image_config(folder, repeated_aug=4), "train").epoch(0))
    assert len({image.tobytes() for image in images}) == 4


def test_a_class_folder_without_utf8_is_named(folder):
    for split in ("train", "val"):
        os.rename(folder / split / "dog", os.fsencode(folder / split) + b"/d\xff")
    with pytest.raises(UserError, match=r"class folder 'd\\udcff' is not named in UTF-8: rename it"):
        create_loader(image_config(folder), "train")


def test_prefetched_batches_are_the_same_and_end_with_who_uses_them():
    closed = []

    def numbers(fails):
        try:
            yield from range(5)
            if fails:
                raise UserError("no more")
        finally:
            closed.append(fails)

    assert list(prefetched(numbers(False))) == list(range(5))
    found = []
    with pytest.raises(UserError, match="no more"):
        found.extend(prefetched(numbers(True)))
    left = prefetched(numbers(None))
    assert next(left) == 0
    left.close()
    assert closed == [False, True, None], "also where it is left before its end"
