"""Folders of records, and loaders of them beside those of the images that they hold."""

from __future__ import annotations

import numpy as np
from PIL import Image

from acmix_ms.data import create_loader
from scripts import prepare_mindrecord
from tests.helpers.data import data_config


def prepare(images, output, *args):
    prepare_mindrecord.main(["--input", str(images), "--output", str(output), *map(str, args)])
    return output


def loader_of(kind, path, split="train", *, rank=0, size=1, seed=0, **changes):
    options = {"batch_size": 4, "image_size": 32, "workers": 1, **changes}
    return create_loader(data_config(name=kind, path=str(path), **options), split, rank=rank, size=size, seed=seed)


def same(one, two):
    one, two = list(one), list(two)
    assert len(one) == len(two) > 0
    for (images, (labels,), _), (images2, (labels2,), _) in zip(one, two):
        assert np.array_equal(images, images2)
        assert np.array_equal(labels, labels2)


def add_odd_images(folder):
    """Some that are converted, in either split."""
    for split in ("train", "val"):
        pixels = np.random.default_rng(1).integers(0, 255, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("CMYK").save(folder / split / "cat" / "cmyk.jpg", quality=95)
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / split / "dog" / "16-bit.png")
        Image.fromarray(pixels).quantize(64).save(folder / split / "dog" / "palette.png")
