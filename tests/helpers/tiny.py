"""A net for 32x32 images that compiles in a second, to test everything around models; folders of images and of code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from PIL import Image

from acmix_ms.backbone import Backbone
from benchmarks import clone
from models import registry


class TinyNet(Backbone):
    """Two convolutions, batch norms and a rate like ACmix's: every kind of parameter that is treated differently."""

    def __init__(self, num_classes: int = 10, width: int = 16):
        super().__init__()
        self.head_names = ("fc",)
        self.stages = ((("body.0", "body.1"),), (("body.3", "body.4"),))  # stem and one stage
        self.body = nn.SequentialCell(
            nn.Conv2d(3, width, 3, 2, has_bias=True, weight_init="he_uniform"),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, weight_init="he_uniform"),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.rate1 = Parameter(Tensor(np.float32([1.0])))
        self.fc = nn.Dense(2 * width * 8 * 8, num_classes)

    def construct(self, x):
        x = self.body(x) * self.rate1  # (B, 2 * width, 8, 8) from (B, 3, 32, 32)
        return self.fc(x.reshape(-1, x.shape[1] * 64))  # (B, num_classes)


def tiny_net(num_classes: int = 1000, **kwargs) -> TinyNet:
    return TinyNet(num_classes, **kwargs)


class Restless(nn.Cell):
    """Answers differently each time, so that no file can agree with it."""

    def construct(self, x):
        return x.mean((2, 3)) + ops.standard_normal((1, 3))


def restless(num_classes: int = 1000) -> Restless:
    return Restless()


def register(monkeypatch) -> None:
    """Make both known to `create_model` for one test: tests over `list_models()` must not see them."""
    for builder in (tiny_net, restless):
        monkeypatch.setitem(registry._BUILDERS, builder.__name__, builder)


def make_images(root: Path, *, classes=("cat", "dog"), train: int = 6, val: int = 3, seed: int = 0) -> Path:
    """``root/train/<class>/*`` and ``root/val/<class>/*``: images of odd sizes whose mean colour tells the class."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (40 + 3 * i, 50 - 2 * i, 3)
                pixels = random.integers(0, 60, shape) + 190 * label
                ending = ("png", "JPEG", "jpg")[i % 3]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.{ending}")
    return root


def official_clone(folder: Path, text: str = "") -> Path:
    """Files where a clone of the authors' repository has its nets, each with this text."""
    for file in clone.FILES:
        path = folder / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return folder
