"""Runs that are killed, stopped, or lose their disk: on real processes, and nothing is lost."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from acmix_ms import runtime
from acmix_ms.engine import checkpoint, run_dir
from acmix_ms.errors import UserError
from acmix_ms.files import locked
from tests.helpers.training import make_trainer

ROOT = Path(__file__).resolve().parents[2]
# Eleven steps in each of two epochs, a training state after every step.
COMMAND = (
    *("train.py", "--config", "configs/classification/resnet_digits.yaml", "optim.epochs=2", "data.batch_size=128"),
    *("runtime.device=CPU", "train.deterministic=true", "train.save_every_steps=1", "train.log_every=1"),
)
SEED = 20_26
# At most this much memory of a file, in bytes: less than a checkpoint has, more than a log.
LIMITED = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); import train; "
    "from acmix_ms.errors import run_cli; sys.argv = sys.argv[1:]; run_cli(train.main)"
)


class Run:
    """A training process whose output is read from a file."""

    def __init__(self, folder: Path, *overrides: str, prefix: tuple[str, ...] = ()):
        folder.mkdir(exist_ok=True)
        self.folder, self.console = folder, folder.with_suffix(".out")
        self._file = open(self.console, "w")
        command = [sys.executable, *prefix, *COMMAND, f"run_dir={folder}", *overrides]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=self._file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    def output(self) -> str:
        return self.console.read_text()

    def wait_for(self, happened) -> bool:
        """Poll until it happened; False if the process ended before."""
        deadline = time.monotonic() + 240
        while not happened():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.001)
        return True

    def end(self) -> int:
        code = self.process.wait(timeout=300)
        self._file.close()
        return code


def digest(folder: Path) -> str:
    """Of everything that decides how training goes on, and of the log without the speed."""
    saved = checkpoint.read(folder / run_dir.LAST)
    facts = [saved.meta[name] for name in ("epoch", "step", "in_epoch", "best")]
    found = hashlib.sha256(repr(facts).encode())
    for part in (saved.weights, saved.state):
        for name in sorted(part):
            found.update(name.encode() + part[name].tobytes())
    rows = [row.split(",") for row in (folder / run_dir.LOG).read_text().splitlines()]
    found.update(repr([row[:4] + row[5:] for row in rows]).encode())
    return found.hexdigest()


@pytest.mark.slow
def test_killed_at_random_points_and_resumed_a_run_is_bitwise_the_uninterrupted_one(tmp_path):
    whole = Run(tmp_path / "whole")
    assert whole.end() == 0, whole.output()
    folder, draw = tmp_path / "parts", random.Random(SEED)

    def steps(run: Run) -> int:
        return sum(line.startswith("epoch ") and "  step " in line for line in run.output().splitlines())

    def after_random_steps(run):
        count = draw.randint(1, 4)
        return lambda: steps(run) >= count

    def while_saving(run):
        begin = after_random_steps(run)
        return lambda: begin() and any(folder.glob("step-*.partial.ckpt"))

    def in_validation(run):
        return lambda: "  step 11/11  " in run.output()

    interruptions = [
        (after_random_steps, signal.SIGKILL),
        (while_saving, signal.SIGKILL),
        (in_validation, signal.SIGKILL),
        (after_random_steps, signal.SIGTERM),
        (while_saving, signal.SIGKILL),
    ]
    for when, number in interruptions:
        run = Run(folder, "train.resume=true")
        assert run.wait_for(when(run)), f"seed {SEED}: the run ended before it could be killed: {run.output()}"
        time.sleep(draw.uniform(0, 0.01))
        run.process.send_signal(number)
        code = run.end()
        assert code == (143 if number == signal.SIGTERM else -number), run.output()
        if number == signal.SIGTERM:
            assert "stopped by SIGTERM after step" in run.output()
            assert "Traceback" not in run.output()
    last = Run(folder, "train.resume=true")
    assert last.end() == 0, last.output()
    assert "resumed from" in last.output()
    assert digest(folder) == digest(tmp_path / "whole"), f"seed {SEED}"
    assert not list(folder.glob("*.partial.ckpt"))


@pytest.mark.slow
def test_a_full_disk_keeps_the_states_before_and_is_said(tmp_path):
    folder = tmp_path / "run"
    begun = Run(folder, "train.save_every_steps=0")
    assert begun.wait_for(lambda: (folder / run_dir.LAST).exists())
    begun.process.send_signal(signal.SIGINT)
    assert begun.end() in (130, 143), begun.output()  # MindSpore hands SIGINT on as SIGTERM while it runs
    before = {path.name: path.read_bytes() for path in folder.glob("*.ckpt")}
    full = Run(folder, "train.resume=true", prefix=("-c", LIMITED))
    assert full.end() == 2, full.output()
    text = full.output()
    assert "warning: checkpoint" in text
    assert "training goes on" in text
    assert "  step 11/11  " in text
    assert text.splitlines()[-1].startswith("error: checkpoint")
    assert "untouched" in text.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in folder.glob("*.ckpt")} == before


def test_a_full_disk_that_becomes_free_again_costs_nothing(tmp_path, monkeypatch, capsys):
    trainer = make_trainer(tmp_path)
    real, calls = ms.save_checkpoint, []

    def sometimes(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:  # best.ckpt of the first epoch, and with it that epoch's state
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(ms, "save_checkpoint", sometimes)
    trainer.fit()
    assert "No space left on device" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / run_dir.LAST).meta["epoch"] == 2
    assert checkpoint.read(tmp_path / run_dir.BEST).meta["best"] == trainer.best._asdict()


def test_a_damaged_newest_state_is_reported_and_the_one_before_is_taken(tmp_path, capsys):
    make_trainer(tmp_path / "run").fit()
    expected = checkpoint.read(tmp_path / "run" / run_dir.LAST)
    newest = tmp_path / "run" / "step-00000022.ckpt"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    capsys.readouterr()
    trainer = make_trainer(tmp_path / "run", train__resume=True)
    said = capsys.readouterr().out
    assert "step-00000022.ckpt is damaged" in said
    assert "resumed from" in said
    assert trainer.epoch == 1
    trainer.fit()
    again = checkpoint.read(tmp_path / "run" / run_dir.LAST)
    assert (again.meta["step"], again.meta["epoch"]) == (22, 2)
    # The same training but for rounding; the same bits only with one thread, which the process test holds.
    for found, wanted in ((again.weights, expected.weights), (again.state, expected.state)):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert np.allclose(found[name], value, rtol=1e-3, atol=1e-4), name

    for path in (tmp_path / "run").glob("step-*.ckpt"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="no training state in .* can be read"):
        make_trainer(tmp_path / "run", train__resume=True)


def test_only_the_newest_states_stay(tmp_path):
    trainer = make_trainer(tmp_path, train__save_every_steps=3, train__keep_checkpoints=3)
    trainer.fit()
    names = [path.name for path in run_dir.states(tmp_path)]
    assert names == ["step-00000022.ckpt", "step-00000021.ckpt", "step-00000018.ckpt"]
    assert (tmp_path / run_dir.LAST).samefile(tmp_path / names[0])


def test_a_second_run_in_the_same_folder_refuses(tmp_path, run_cli):
    with locked(tmp_path):
        second = run_cli("train.py", *COMMAND[1:], f"run_dir={tmp_path}", "train.resume=true")
        assert second.code == 2
        assert second.stderr.count("\n") == 1
        assert f"in use by process {os.getpid()}" in second.stderr
        with pytest.raises(UserError, match="another run_dir"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_state_within_an_epoch_goes_on_with_the_next_batch(tmp_path):
    runtime.start("CPU")
    trainer = make_trainer(tmp_path, train__save_every_steps=4, optim__epochs=1)
    seen = []
    real = trainer.train_step

    def stopping(images, labels):
        seen.append(images.asnumpy().sum())
        if len(seen) == 6:
            raise KeyboardInterrupt
        return real(images, labels)

    trainer.train_step = stopping
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    resumed = make_trainer(tmp_path, train__resume=True, optim__epochs=1)
    assert resumed.done.steps == 4
    images = next(resumed.train_loader.epoch(0, resumed.done.steps)).images
    assert images.sum() == pytest.approx(seen[4], rel=1e-6)
