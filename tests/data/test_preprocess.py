"""How evaluation prepares pictures: torchvision's sizes and middle, Pillow's pixels; and who else can do it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from acmix_ms.config import DataConfig
from acmix_ms.data import create_loader
from acmix_ms.data.preprocess import Preprocess, preprocess_of, shorter_side
from scripts import infer_lite
from tests.helpers.tiny import make_images

PHOTO = load_sample_images().images[0]  # (427, 640, 3)
ODD = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
PIXEL = 1 / 255 / 0.229  # one level of 256, normalised


def pillow(image, width, height, box, resample=Image.Resampling.BILINEAR):
    """Pillow alone: resized, then the box (left, top, right, bottom), then the definition in float64."""
    pixels = np.asarray(Image.fromarray(image).resize((width, height), resample).crop(box)) / 255
    return ((pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((427, 640), (256, 383)), ((640, 427), (383, 256)), ((375, 500), (256, 341)), ((300, 300), (256, 256)),
     ((256, 300), (256, 300)), ((5, 70), (256, 3584)), ((333, 334), (256, 256))],
)  # fmt: skip
def test_sizes_are_rounded_as_torchvision_rounds(size, wanted):
    """int(256 * 640 / 427) = int(383.7) and so on."""
    assert shorter_side(*size, 256) == wanted


def test_a_photograph_is_prepared_as_torchvision_does_it():
    # round((383 - 224) / 2) = round(79.5) = 80, halves to the even number; (256 - 224) / 2 = 16
    wanted = pillow(PHOTO, 383, 256, (80, 16, 304, 240))
    given = Preprocess(256, 224)(PHOTO)
    assert (given.shape, given.dtype, given.flags.c_contiguous) == ((3, 224, 224), np.float32, True)
    np.testing.assert_allclose(given, wanted, atol=1e-6)
    # a difference of 5: round(2.5) = 2, and of 7: round(3.5) = 4
    wide = np.ascontiguousarray(ODD[:60, :65])
    np.testing.assert_allclose(Preprocess(60, 60)(wide), pillow(wide, 65, 60, (2, 0, 62, 60)), atol=1e-6)
    wide = np.ascontiguousarray(ODD[:60, :67])
    np.testing.assert_allclose(Preprocess(60, 60)(wide), pillow(wide, 67, 60, (4, 0, 64, 60)), atol=1e-6)


def test_bicubic_is_pillows():
    wanted = pillow(PHOTO, 383, 256, (80, 16, 304, 240), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(Preprocess(256, 224, "bicubic")(PHOTO), wanted, atol=1e-6)


def test_fast_samples_points_as_files_without_a_method_were_prepared():
    fast = Preprocess.from_dict({"resize": 256, "crop": 224})
    assert fast.resize_method == "fast"
    photo = PHOTO[:426]  # becomes 256 x 384, of which both take the same middle
    levels = np.abs(fast(photo) - Preprocess(256, 224)(photo)) / PIXEL
    assert 2 < levels.mean() < 8, "of a photograph the two differ by about 4 of 255"
    ramp = np.arange(8, dtype=np.uint8).repeat(4)[None, :, None].repeat(32, 0).repeat(3, 2) * 30
    small = Preprocess.from_dict({"resize": 8, "crop": 8, "mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1})(ramp)
    assert np.array_equal(small[0, 0], np.arange(8) * 30)


@pytest.mark.parametrize("method", ["pillow", "fast"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_loader_predict_and_lite_prepare_alike(tmp_path, interpolation, method):
    """infer_lite.py has Pillow and NumPy only, and must turn, convert, resize and cut as all others do."""
    folder = make_images(tmp_path / "images", train=1, val=2)
    upright = Image.fromarray(PHOTO)
    exif = upright.getexif()
    exif[0x0112] = 6
    upright.save(folder / "val" / "cat" / "lies.jpg", exif=exif, quality=90)
    upright.convert("CMYK").save(folder / "val" / "dog" / "cmyk.jpg", quality=90)
    Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257).save(folder / "val" / "dog" / "grey16.png")
    data = DataConfig("imagefolder", str(folder), batch_size=7, image_size=112, interpolation=interpolation)
    data = dataclasses.replace(data, resize=method)
    loader, prepare = create_loader(data, "val"), preprocess_of(data)
    loaded, (labels,), _ = next(loader.epoch(0))
    assert (labels >= 0).all()
    described = json.loads(json.dumps(dataclasses.asdict(prepare)))
    for i, image in enumerate(loaded):
        path = loader.name(i)
        assert np.array_equal(prepare.read(path), image)
        own = infer_lite.prepare(infer_lite.read_image(path), described)
        if method == "pillow":
            assert np.array_equal(own, image), path
        else:  # MindSpore rounds in between
            levels = np.abs(own - image) / PIXEL
            assert levels.max() < 1.1 and levels.mean() < 0.25


def test_descriptions_come_back_as_they_were():
    for prepare in (Preprocess(256, 224, "bicubic"), Preprocess(7, 7, std=(1.0, 2.0, 3.0), resize_method="fast")):
        assert Preprocess.from_dict(json.loads(json.dumps(dataclasses.asdict(prepare)))) == prepare


@pytest.mark.parametrize(
    "change",
    [
        {"resize": 0}, {"resize": "256"}, {"resize": 1e3}, {"resize": 10**9}, {"resize": True}, {"crop": 257},
        {"crop": None}, {"interpolation": "nearest"}, {"interpolation": ["bicubic"]}, {"resize_method": "slow"},
        {"mean": [0, 0]}, {"mean": 0.5}, {"mean": [0, 0, float("nan")]}, {"mean": [0, 0, 10**400]},
        {"std": [1, 1, 0]}, {"std": [1, 1, -1]}, {"std": [1, 1, float("inf")]}, {"std": [1, 1, 1e-300]},
        {"std": "abc"}, {"scale": 0}, {"scale": float("nan")}, {"scale": "1"}, {"scale": True}, {"more": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Preprocess.from_dict({"resize": 256, "crop": 224, **change})


def test_no_description_at_all_is_named():
    for values in ([], None, "text", {"crop": 224}, {}):
        with pytest.raises(ValueError, match="preprocess: "):
            Preprocess.from_dict(values)
