"""RandAugment's notation and operations, erasing, mixup, cutmix and repeated augmentation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from acmix_ms.data import augment, create_loader
from acmix_ms.data.augment import (
    OPERATIONS,
    Mixing,
    RandAugment,
    crop_box,
    erase,
    jitter,
    operate,
    parse_auto_augment,
    paste,
    rand_augment,
)
from acmix_ms.data.loader import PADDING, batch_indices
from acmix_ms.errors import UserError
from tests.helpers.data import data_config
from tests.helpers.tiny import make_images

FILL = (124, 116, 104)
BILINEAR = Image.Resampling.BILINEAR


def test_notation_of_timm():
    assert parse_auto_augment("rand-m9-mstd0.5-inc1") == RandAugment(9.0, 0.5, 2, True, 0.5)
    assert parse_auto_augment("randaug-m7-n3-p0.25") == RandAugment(7.0, 0.0, 3, False, 0.25)
    assert parse_auto_augment("rand") == RandAugment(10.0)
    assert parse_auto_augment(None) is parse_auto_augment("") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("original", "'original' is not known here"),
        ("rand-m9-mst0.5", "part 'mst0.5' is not one of m, mstd, n, inc, p"),
        ("rand-m9-", "part ''"),
        ("rand-m11", "m must be from 0 to 10"),
        ("rand-m9-inc2", "inc must be a whole number from 0 to 1"),
        ("rand-n1.5", "n must be a whole number from 1 to 4"),
        ("rand-p2", "p must be from 0 to 1"),
        ("rand-m9-mstd-1", "part 'mstd'"),
    ],
)
def test_wrong_notation_is_named(text, words):
    with pytest.raises(UserError) as raised:
        parse_auto_augment(text)
    assert f"data.augment.auto_augment={text!r}" in str(raised.value)
    assert words in str(raised.value)


def applied(monkeypatch, text, count=3000):
    """The (kind, level, sign) of all operations that are applied to ``count`` images."""
    found, random = [], np.random.default_rng(0)
    monkeypatch.setattr(augment, "operate", lambda image, *what: found.append(what[:3]) or image)
    for _ in range(count):
        rand_augment(None, parse_auto_augment(text), BILINEAR, FILL, random)
    return zip(*found)


def test_operations_and_magnitudes_are_drawn_as_timm_draws_them(monkeypatch):
    kinds, levels, signs = applied(monkeypatch, "rand-m5-mstd0.5-n3-p0.5")
    assert len(kinds) == pytest.approx(3 * 3000 / 2, rel=0.05)
    shares = np.unique(kinds, return_counts=True)[1] / len(kinds)
    assert len(shares) == len(OPERATIONS) == 15
    assert np.allclose(shares, 1 / 15, atol=0.015)
    assert np.mean(levels) == pytest.approx(0.5, abs=0.005)
    assert np.std(levels) == pytest.approx(0.05, rel=0.1)
    assert abs(np.mean(signs)) < 0.05
    _, levels, _ = applied(monkeypatch, "rand-m9")
    assert set(levels) == {0.9}
    _, levels, _ = applied(monkeypatch, "rand-m10-mstd3")
    assert max(levels) == 1.0
    assert min(levels) >= 0.0


@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize("level", [0.0, 0.9, 1.0])
def test_every_operation_runs_and_nothing_is_named_twice(level, increasing):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    pixels[..., 0] //= 2  # an image that auto contrast and equalize change
    image, changed = Image.fromarray(pixels), []
    for kind in OPERATIONS:
        for sign in (-1.0, 1.0):
            out = operate(image, kind, level, sign, increasing, Image.Resampling.BICUBIC, FILL)
            assert (out.size, out.mode) == (image.size, "RGB")
            changed.append(out.tobytes())
    if level == 0.9:
        signed = 9 if increasing else 5  # kinds that do another thing with the other sign
        assert len(set(changed) - {image.tobytes()}) == len(OPERATIONS) + signed


def test_strengths_are_those_of_timm():
    def values(kind, array, level=0.9):
        return np.asarray(operate(Image.fromarray(array), kind, level, 1.0, True, Image.Resampling.NEAREST, FILL))

    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert sorted(set(values("posterize", image).ravel())) == [0, 128]  # 4 - int(0.9 * 4) = 1 bit is kept
    solarized = values("solarize", image)[..., 0].ravel()
    assert np.flatnonzero(solarized != np.arange(256))[0] == 26  # from 256 - int(0.9 * 256)
    added = values("solarize add", image)[..., 0].ravel()
    assert [added[0], added[127], added[128]] == [99, 226, 128]  # int(0.9 * 110) to what is below 128
    assert values("brightness", image)[..., 0].ravel()[100] == pytest.approx(181, abs=1)
    moved = values("translate x", np.zeros((20, 100, 3), np.uint8))[10, :, 0]
    assert (moved == FILL[0]).sum() == pytest.approx(40, abs=1)  # 0.45 * 0.9 of the width, filled with the mean colour
    turned = values("rotate", np.zeros((21, 21, 3), np.uint8))[..., 0]
    assert turned[0, 0] == FILL[0] and turned[10, 10] == 0


def test_random_crops_have_the_sizes_and_shapes_asked_for():
    random = np.random.default_rng(0)
    boxes = np.array([crop_box(375, 500, 0.08, random) for _ in range(3000)])
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all() and (top + height <= 375).all() and (left + width <= 500).all()
    shares, shapes = height * width / (375 * 500), width / height
    assert 0.079 < shares.min() < 0.1 and 0.9 < shares.max() <= 1.0
    assert 0.74 < shapes.min() < 0.8 and 1.25 < shapes.max() < 1.35
    assert crop_box(10, 500, 1.0, random) == (0, 243, 10, 13), "the middle of what is too long"
    assert crop_box(500, 10, 1.0, random) == (243, 0, 13, 10)


def test_colours_are_jittered_by_at_most_the_strength():
    grey, random = Image.new("RGB", (8, 8), (100, 100, 100)), np.random.default_rng(0)
    found = {jitter(grey, 0.4, random).getpixel((0, 0)) for _ in range(300)}
    levels = [red for red, _, _ in found]
    assert all(red == green == blue for red, green, blue in found), "a grey area stays grey"
    assert 60 <= min(levels) < 65 and 135 < max(levels) <= 140
    assert jitter(grey, 0.0, random).getpixel((0, 0)) == (100, 100, 100)


def test_erasing():
    images = np.full((400, 3, 16, 20), 7.0, np.float32)
    erased = erase(images, 0.25, np.random.default_rng(0))
    assert (images == 7).all()
    hit = (erased != 7).any((1, 2, 3))
    assert 60 < hit.sum() < 140
    noise = erased[erased != 7]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05, "every pixel has noise of its own"
    for image in erased[hit]:
        rows, columns = np.flatnonzero((image != 7).any((0, 2))), np.flatnonzero((image != 7).any((0, 1)))
        box = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box != 7).all(), "one rectangle"
        assert 0.01 < box[0].size / image[0].size < 0.4


def test_mixup_mixes_images_as_labels():
    """The image's value is its class, so that the mean of the image must be the mean of the soft label."""
    labels = np.arange(6, dtype=np.int32)
    images = np.broadcast_to(labels[:, None, None, None], (6, 3, 4, 4)).astype(np.float32)
    mixed, soft = Mixing(0.8, 0.0, 1.0, 0.5)(images, labels, 6, np.random.default_rng(1))
    assert (soft.shape, soft.dtype, mixed.dtype) == ((6, 6), np.float32, np.float32)
    assert np.allclose(soft.sum(1), 1)
    assert not np.allclose(soft, np.eye(6))
    assert np.allclose(mixed.mean((1, 2, 3)), soft @ np.arange(6), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_shares_labels_by_area(seed):
    labels = np.arange(6, dtype=np.int32)
    images = np.broadcast_to(labels[:, None, None, None], (6, 3, 9, 11)).astype(np.float32)
    mixed, soft = Mixing(0.0, 1.0, 1.0, 0.5)(images, labels, 6, np.random.default_rng(seed))
    assert set(np.unique(mixed)) <= set(range(6)), "pixels are taken, not mixed"
    assert np.allclose(mixed.mean((1, 2, 3)), soft @ np.arange(6), atol=1e-5)


def test_shares_follow_the_beta_distribution():
    images, labels = np.zeros((2, 1, 32, 32), np.float32), np.array([0, 1])
    mixing = Mixing(0.8, 0.0, 0.75, 0.5)
    shares = np.array([mixing(images, labels, 2, np.random.default_rng(seed))[1][0, 0] for seed in range(2000)])
    assert (shares == 1).mean() == pytest.approx(0.25, abs=0.04)
    mixed = shares[shares != 1]
    assert mixed.mean() == pytest.approx(0.5, abs=0.03)
    assert mixed.var() == pytest.approx(0.25 / (2 * 0.8 + 1), rel=0.1)  # of Beta(0.8, 0.8)


def test_both_are_switched_between():
    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    labels, mixing = np.arange(4), Mixing(0.8, 1.0, 1.0, 0.25)
    pasted = 0
    for seed in range(400):
        mixed, _ = mixing(images, labels, 4, np.random.default_rng(seed))
        pasted += np.isin(mixed, images).all()
    assert pasted == pytest.approx(100, abs=30)


def test_pasting_nothing_and_everything():
    images = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    same, share = paste(images, 1.0, np.random.default_rng(0))
    assert share == 1.0
    assert np.array_equal(same, images)
    mixed, share = paste(images, 0.0, np.random.default_rng(0))
    assert 0 < np.isin(mixed[0], images[2]).mean() == pytest.approx(1 - share)


def loader_of(kind, folder, split="train", seed=0, **changes):
    config = data_config(**{"batch_size": 4, "image_size": 32, "workers": 1, **changes})
    if kind == "imagefolder":
        config.name, config.path = kind, str(folder)
    return create_loader(config, split, seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), train=16)


STRONG = {"mixup": 0.8, "cutmix": 1.0, "reprob": 0.5}


@pytest.mark.parametrize("kind", ["digits", "imagefolder"])
def test_loaders_mix_and_erase_by_seed_epoch_and_batch(kind, folder):
    loader = loader_of(kind, folder, **STRONG)
    assert loader.soft_labels
    batches = list(loader.epoch(1))
    shapes = {(images.shape, labels.shape) for images, (labels,), _ in batches}
    assert shapes == {((4, 3, 32, 32), (4, loader.num_classes))}
    assert {(images.dtype, labels.dtype) for images, (labels,), _ in batches} == {(np.dtype("f4"), np.dtype("f4"))}
    again = loader_of(kind, folder, **STRONG)
    list(again.epoch(0))  # what the process did before must not matter
    for (images, (labels,), _), (images2, (labels2,), _) in zip(batches, again.epoch(1)):
        assert np.array_equal(images, images2)
        assert np.array_equal(labels, labels2)
    other = next(loader_of(kind, folder, seed=1, **STRONG).epoch(1))
    assert not np.array_equal(batches[0][1], other[1])
    assert not np.array_equal(batches[0].targets[0].max(1), batches[1].targets[0].max(1))


@pytest.mark.parametrize("kind", ["digits", "imagefolder"])
def test_evaluation_and_unaugmented_training_stay_plain(kind, folder):
    for loader in (loader_of(kind, folder, "val", **STRONG), loader_of(kind, folder, enabled=False, **STRONG)):
        plain = loader_of(kind, folder, "train" if loader.train else "val", enabled=False)
        assert not loader.soft_labels
        for (images, (labels,), _), (images2, (labels2,), _) in zip(loader.epoch(0), plain.epoch(0)):
            assert labels.dtype == np.int32
            assert np.array_equal(images, images2)
            assert np.array_equal(labels, labels2)


@pytest.mark.parametrize("change", [{"auto_augment": "rand-m9-mstd0.5-inc1"}, {"color_jitter": 0.4}])
def test_folder_augmentation_changes_pixels_and_repeats(change, folder):
    def images(**changes):
        return np.concatenate([images for images, *_ in loader_of("imagefolder", folder, **changes).epoch(0)])

    assert np.isfinite(images(**change)).all()
    assert np.array_equal(images(**change), images(**change))
    differs = (images() != images(**change)).any((1, 2, 3))
    assert differs.mean() > 0.5


def test_interpolation_is_used(folder):
    bilinear, bicubic = (
        next(loader_of("imagefolder", folder, "val", interpolation=name).epoch(0))[0]
        for name in ("bilinear", "bicubic")
    )
    assert not np.array_equal(bilinear, bicubic)


def test_digits_refuse_what_they_cannot_do(folder):
    for change in ({"auto_augment": "rand-m9"}, {"color_jitter": 0.4}):
        with pytest.raises(UserError, match="is for data.name=imagefolder"):
            loader_of("digits", folder, **change)
    with pytest.raises(UserError, match="data.augment.auto_augment='rand-x'"):
        loader_of("imagefolder", folder, auto_augment="rand-x")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_repeated_augmentation(size):
    parts = [
        batch_indices(100, 12 // size, train=True, seed=1, repeated_aug=3, rank=rank, size=size) for rank in range(size)
    ]
    together = np.concatenate(parts, axis=1)
    plain = batch_indices(100, 12, train=True, seed=1)
    assert together.shape == plain.shape, "the epoch is as long"
    seen, counts = np.unique(together, return_counts=True)
    assert len(seen) == 32
    assert set(counts) == {3}
    assert set(seen) <= set(range(100))
    for row in together:
        assert set(np.unique(row, return_counts=True)[1]) == {3}, "the copies of an image are in one global batch"
    if size == 4:
        assert all(len(set(row)) == 3 for part in parts for row in part), "and in different processes"
    assert not (together == PADDING).any()


def test_copies_of_a_digit_are_augmented_differently():
    loader = create_loader(data_config(batch_size=6, repeated_aug=3), "train", seed=2)
    images, (labels,), _ = next(loader.epoch(0))
    assert list(labels[:3]) == [labels[0]] * 3
    assert len({image.tobytes() for image in images}) == 6
    plain = create_loader(data_config(batch_size=6), "train", seed=2)
    assert np.array_equal(next(plain.epoch(0))[0][0], images[0]), "the first copy is the one without repetition"
    assert len(list(create_loader(data_config(batch_size=100, repeated_aug=3), "val").epoch(0))) == 4
