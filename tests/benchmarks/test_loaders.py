"""What a run and the benchmark say about the speed of the data, on a made-up clock. No test looks at a real one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from acmix_ms.config import DataConfig
from acmix_ms.data import create_loader
from acmix_ms.data.loader import Loader
from acmix_ms.engine import logger
from acmix_ms.engine.logger import Progress
from acmix_ms.errors import UserError
from benchmarks import loaders
from benchmarks.command import main
from tests.helpers.tiny import make_images
from tests.helpers.training import make_trainer

DIGITS = "configs/classification/acmix_resnet_digits.yaml"


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` lets time pass."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def train(progress, clock, epoch, waits, seconds):
    """One epoch, whose batches come after ``waits`` and take ``seconds`` to compute."""

    def batches():
        for wait in waits:
            clock(wait)
            yield wait

    for number, wait in enumerate(progress.waiting(batches()), start=1):
        assert wait == waits[number - 1]
        clock(seconds)
        progress.step(epoch, number, 0.5, 0.1)
    progress.end_epoch(epoch)
    clock(1000)  # validation


def progress_of(steps, remedy="buy a disk"):
    return Progress(epochs=3, steps_per_epoch=steps, images_per_step=8, log_every=1, remedy=remedy)


def test_progress_tells_the_share_of_waiting_in_each_epoch(clock, capsys):
    progress = progress_of(4)
    train(progress, clock, 1, [50, 1, 1, 1], seconds=3)  # the first step compiles, and its batch is the first
    lines = capsys.readouterr().out.splitlines()
    assert "0 img/s  data ? %  ETA ?" in lines[0]
    assert "2 img/s  data 25 %  ETA" in lines[1]
    assert len(lines) == 4, "a quarter is not worth a line of its own"
    train(progress, clock, 2, [90, 2, 6, 1], seconds=3)
    lines = capsys.readouterr().out.splitlines()
    assert ["data ? %", "data 40 %", "data 57 %", "data 50 %"] == [line.split("  ")[5] for line in lines[:4]]
    assert lines[4:] == ["epoch 2/3 was data-bound: 50 % of its time went into waiting for images; buy a disk"]
    assert progress.images_per_second == pytest.approx(6 * 8 / (12 + 18)), "neither first steps nor validation count"


def test_the_threshold_is_exact_and_without_a_remedy_nothing_is_said(clock, capsys):
    for wait, remedy, told in ((3.0, "x", False), (3.01, "x", True), (9.0, "", False)):
        train(progress_of(3, remedy), clock, 1, [1, wait, wait], seconds=10 - wait)
        assert ("data-bound" in capsys.readouterr().out) == told


def test_a_run_says_that_it_waits_for_its_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logger, "DATA_BOUND", -1.0)  # every epoch is
    images = make_images(tmp_path / "images")
    data = {"data__name": "imagefolder", "data__path": str(images), "data__batch_size": 4, "data__image_size": 32}
    make_trainer(tmp_path / "run", **data, train__log_every=1).fit()
    output = capsys.readouterr().out
    for epoch in (1, 2):
        assert f"epoch {epoch}/2 was data-bound: " in output
    assert "prepare records: scripts/prepare_mindrecord.py, then data.name=mindrecord" in output
    assert output.index("epoch 1/2 was data-bound") < output.index("epoch 1/2  validation")
    assert "  data ? %  " in output


def test_remedies_fit_the_data(tmp_path, monkeypatch):
    images = make_images(tmp_path / "images")
    config = DataConfig(name="imagefolder", path=str(images), batch_size=4, workers=3)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert "raise data.workers, which is 3 of 8 cores, or prepare records" in create_loader(config, "train").remedy
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert "3 cores are all in use" in create_loader(config, "train").remedy
    assert create_loader(DataConfig(), "train").remedy == "", "digits are made by one thread"


class Clocked(Loader):
    """Three batches of 4 in an epoch, each half a second late."""

    def __init__(self, clock):
        super().__init__(DataConfig(batch_size=4), "train", class_names=["a"], num_samples=12)
        self._clock, self.epochs = clock, []

    def _batches(self, indices, epoch, start):
        self.epochs.append(epoch)
        for _ in range(3):
            self._clock(0.5)
            yield np.zeros((4, 3, 2, 2), np.float32), (np.zeros(4, np.int32),)


def test_turns_begin_after_the_warm_up_and_go_through_the_epochs(clock, monkeypatch):
    monkeypatch.setattr(loaders, "TURN_SECONDS", 1.8)
    loader = Clocked(clock)
    assert loaders.measure(loader, warmup=2, repetitions=3) == [(16, 2.0)] * 3
    assert loader.epochs == [0, 1, 2, 3, 4]


def test_the_loader_alone_is_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loaders, "TURN_SECONDS", 0.01)
    images = make_images(tmp_path / "images")
    command = ["--mode", "data", "--config", DIGITS, "data.name=imagefolder", f"data.path={images}",
               "data.batch_size=4", "--repetitions", "3", "--warmup", "1", "--output", str(tmp_path / "o")]  # fmt: skip
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "data.name=imagefolder data.batch_size=4" in output
    assert "in 3 turns" in output
    found = json.loads((tmp_path / "o" / "data.json").read_text())
    assert f"{found['images_per_second']:.0f} img/s (" in output
    assert found["images_per_second"] == pytest.approx(found["images"] / found["seconds"])
    assert len(found["turns"]) == 3
    assert found["min"] <= found["images_per_second"] <= found["max"]
    assert found["data"]["path"] == str(images)
    assert found["environment"]["cores"] >= 1
    with pytest.raises(UserError, match="holds an earlier data.json: give another folder, or --force"):
        main(command)
    assert main([*command, "--force"]) == 0


def test_mistakes_of_the_data_mode(tmp_path, monkeypatch):
    def wrong(*args):
        with pytest.raises(UserError) as raised:
            main([*args, "--output", str(tmp_path / "o")])
        return str(raised.value)

    data = ("--mode", "data")
    assert "--mode data: give --config FILE" in wrong(*data)
    assert "--mode data alone" in wrong("--mode", "infer", "data", "--config", DIGITS)
    assert "--mode data alone" in wrong("--model", "resnet26", "--config", DIGITS)
    assert "optim.lr=1: a configuration goes with --mode data alone" in wrong("--table7", "optim.lr=1")
    assert "measures no model" in wrong(*data, "--config", DIGITS, "--model", "resnet26")
    assert "measures no model" in wrong(*data, "--config", DIGITS, "--predict", "ascend910")
    assert "give data.batch_size=N" in wrong(*data, "--config", DIGITS, "--batch", "8")
    assert "did you mean 'data.workers'" in wrong(*data, "--config", DIGITS, "data.worker=1")
    assert "no such folder" in wrong(*data, "--config", DIGITS, "data.name=mindrecord", "data.path=/nowhere")
    assert not (tmp_path / "o").exists()
