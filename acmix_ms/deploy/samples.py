"""Real images to compare nets on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data import create_loader
from acmix_ms.data.canvas import CanvasReader
from acmix_ms.data.preprocess import Preprocess
from acmix_ms.data.segments import WholeReader
from acmix_ms.errors import UserError

COUNT = 8
CROP = 320  # pixels, of photographs of 427 x 640


def real_images(data: DataConfig | None, preprocess: Preprocess) -> np.ndarray:
    """The first validation images of ``data`` where they are there, else photographs: (N, 3, S, S) float32."""
    if data is None:
        return photographs(preprocess)
    sized = replace(data, image_size=preprocess.crop, batch_size=COUNT)
    try:
        return next(iter(create_loader(sized, "val").epoch(0))).images
    except UserError:  # a net is often exported where its data are not
        return photographs(preprocess)


def real_canvases(data: DataConfig, reader: CanvasReader) -> np.ndarray:
    """The same on the canvas of ``reader``, which does not turn: (N, 3, H, W) float32."""
    try:
        loader = create_loader(replace(data, batch_size=COUNT), "val")
        return np.stack([reader(loader.name(sample))[0] for sample in range(min(COUNT, loader.num_samples))])
    except UserError:  # a net is often exported where its data are not
        from sklearn.datasets import load_sample_images

        return np.stack([reader.placed(picture)[0] for picture in load_sample_images().images])


def real_wholes(data: DataConfig, reader: WholeReader) -> np.ndarray:
    """The same of segmentors, on arrays of ``reader.within``, padded with zeros: (N, 3, H, W) float32."""
    try:
        loader = create_loader(replace(data, batch_size=COUNT), "val", segments=True)
        found = [reader(loader.name(sample))[0] for sample in range(min(COUNT, loader.num_samples))]
    except UserError:  # a net is often exported where its data are not
        from sklearn.datasets import load_sample_images

        found = [reader.placed(picture)[0] for picture in load_sample_images().images]
    images = np.zeros((len(found), 3, *reader.within), np.float32)
    for image, whole in zip(images, found):
        image[:, : whole.shape[1], : whole.shape[2]] = whole
    return images


def photographs(preprocess: Preprocess, count: int = COUNT) -> np.ndarray:
    """Crops of the two photographs that come with scikit-learn, prepared as evaluation does: (count, 3, S, S)."""
    from sklearn.datasets import load_sample_images

    random, pictures = np.random.default_rng(0), load_sample_images().images
    images = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top, left = (int(random.integers(0, side - CROP + 1)) for side in picture.shape[:2])
        images.append(preprocess(picture[top : top + CROP, left : left + CROP]))
    return np.stack(images)
