"""Segmentors in the trainer: the same bits after an interruption, and 16 bits. Groups: tests/detection."""

from __future__ import annotations

import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from acmix_ms import config, runtime
from acmix_ms.data.shapes import ShapesSet, make
from acmix_ms.engine import precision
from acmix_ms.errors import UserError
from models import create_model, tasks
from tests.helpers.launching import ENVIRONMENT, ROOT

CASE = ROOT / "tests" / "helpers" / "detection_case.py"
TASK = "segmentation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    make(folder / "data", ShapesSet(images=16, val_images=5, size=96))
    return folder


def alone(folder, what):
    command = [sys.executable, str(CASE), str(folder), what, TASK]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(folder):
    """With dropout of channels, whose numbers must be those of the steps."""
    said = alone(folder, "resume")
    assert "killed" in said
    found = dict(line.split(" ", 1) for line in said.splitlines() if line.startswith(("whole ", "parts ")))
    (whole, steps), (parts, rest) = found["whole"].split(), found["parts"].split()
    assert (steps, rest) == ("8", "2"), "it goes on within the second epoch"
    assert whole == parts


@pytest.mark.slow
def test_losses_keep_32_bits_beside_convolutions_in_sixteen():
    runtime.start("CPU", "pynative", 3)
    net = create_model("upernet_acmix_shapes", num_classes=3)
    images = Tensor(np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32))
    labels = Tensor(np.random.default_rng(1).integers(0, 3, (2, 64, 64)).astype(np.int32))
    full = [float(term.asnumpy()) for term in net.set_train(False)(images, labels)]
    half = precision.cast(net, "fp16").set_train(False)
    assert half(images).dtype == ms.float16
    terms = half(images, labels)
    assert [term.dtype for term in terms] == [ms.float32] * 2
    assert [float(term.asnumpy()) for term in terms] == pytest.approx(full, rel=1e-2)


def upernet(folder, *keys):
    return config.from_overrides(
        [f"task={TASK}", "model.name=upernet_acmix_shapes", "data.name=shapes", f"data.path={folder / 'data'}",
         "data.canvas.height=64", "data.canvas.width=64", "data.canvas.short_sides=[64]", "data.batch_size=1", *keys]
    )  # fmt: skip


def test_upernet_needs_two_images_for_a_step(folder):
    for keys, size in (((), 1), ((), 4), (["train.sync_bn=true"], 1)):
        with pytest.raises(UserError, match="data.batch_size=1: upernet_acmix_shapes cannot train with one image"):
            tasks.build_task(upernet(folder, *keys), size=size)
    task = tasks.build_task(upernet(folder, "train.sync_bn=true"), size=2)
    assert task.net.least_images == 2 and task.train.class_names == task.val.class_names


def test_another_number_of_classes_is_refused(folder):
    with pytest.raises(UserError, match="model.num_classes=150, but the data have 3 classes"):
        tasks.build_task(upernet(folder, "model.num_classes=150", "data.batch_size=2"))
    with pytest.raises(UserError, match="task=segmentation: retinanet_shapes is for detection; give task=detection"):
        tasks.build_task(upernet(folder, "model.name=retinanet_shapes"))
