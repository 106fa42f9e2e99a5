"""What a run is judged by: best.ckpt and what it says of itself, whatever the task, and runs of before other tasks."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from mindspore import ops

from acmix_ms.engine import checkpoint, run_dir
from acmix_ms.engine.metrics import Evaluator, Metric
from acmix_ms.engine.standing import Best
from acmix_ms.engine.trainer import Trainer
from acmix_ms.errors import UserError
from tests.helpers.training import make_trainer

BEST = Best("top1", 90.0)


def test_a_state_that_cannot_be_written_does_not_take_back_what_the_best_checkpoint_scored(tmp_path, monkeypatch):
    trainer, scores = make_trainer(tmp_path), {"top1": 90.0, "top5": 99.0, "loss": 0.1, "count": 1, "classes": []}

    def full(*args, **kwargs):
        raise UserError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", full)
        trainer._save(scores)
    assert trainer.best == BEST == Best.of(checkpoint.read(tmp_path / run_dir.BEST).meta)
    before = (tmp_path / run_dir.BEST).read_bytes()
    trainer._save({**scores, "top1": 80.0})
    assert (tmp_path / run_dir.BEST).read_bytes() == before, "a worse one replaced it"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        trainer._save({**scores, "top1": 95.0})
    assert trainer.best == BEST, "it was not written"


def test_a_run_that_goes_on_asks_the_best_checkpoint_itself(tmp_path, capsys):
    trainer = make_trainer(tmp_path)
    trainer.best, trainer.epoch = Best("top1", 50.0), 1
    trainer._save()
    weights = trainer.net.parameters_dict()
    # Killed after best.ckpt was written and before its state was.
    checkpoint.save(tmp_path / run_dir.BEST, weights, meta={"best": BEST._asdict()})
    assert make_trainer(tmp_path, train__resume=True).best == BEST
    checkpoint.save(tmp_path / run_dir.BEST, weights, meta={"best": {"name": "mAP", "value": 99.0}})
    assert make_trainer(tmp_path, train__resume=True).best is None, "of another metric"
    (tmp_path / run_dir.BEST).write_bytes(b"damaged")
    assert make_trainer(tmp_path, train__resume=True).best is None
    assert "the next validation writes it anew" in capsys.readouterr().out
    (tmp_path / run_dir.BEST).unlink()
    assert make_trainer(tmp_path, train__resume=True).best is None


def test_runs_of_before_there_were_other_metrics_go_on(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.epoch = 1
    trainer._save()
    state = checkpoint.read(tmp_path / run_dir.LAST)
    old = {name: value for name, value in state.meta.items() if name not in ("best", "format_version")}
    old.update(in_epoch={"steps": 0, "counted": 0, "loss_sum": 0.0}, top1=87.5, best_top1=87.5)
    checkpoint.save_state(tmp_path, state.weights, state.state, old, keep=2)
    checkpoint.save(tmp_path / run_dir.BEST, state.weights, meta=old)
    resumed = make_trainer(tmp_path, train__resume=True)
    assert (resumed.epoch, resumed.best) == (1, Best("top1", 87.5))
    assert Best.of({"best_top1": -1.0}) is None, "nothing was validated yet"


class Brightness(Evaluator):
    """How far answers are from the mean of each image: another task, with another metric, of which less is better."""

    METRICS = (Metric("error", "mean error", digits=3, higher_is_better=False), Metric("worst", "worst", "m"))

    def __init__(self):
        self.errors = []

    def update(self, outputs, targets, ids):
        assert isinstance(outputs, tuple) and outputs[0].shape == (len(ids), 10)
        self.errors += np.abs(outputs[0][:, 0] - targets[0])[ids >= 0].tolist()

    def state(self):
        return {"errors": np.array(self.errors)}

    def merge(self, states):
        self.errors = [error for state in states for error in state["errors"]]

    def result(self):
        return {"error": float(np.mean(self.errors)), "worst": max(self.errors), "count": len(self.errors)}

    @classmethod
    def tables(cls, result):
        return [{"title": "Errors", "note": "", "header": ["worst"], "rows": [[f"{result['worst']:.2f}"]]}]


def squares(net, images, targets):
    """A loss of two named parts, of a net whose outputs are a tuple."""
    (answers,) = net(images)
    error = answers[:, 0] - targets
    terms = {"square": (error * error).mean(), "size": 0.01 * ops.abs(answers).mean()}
    return terms["square"] + terms["size"], terms


def bright_trainer(folder, **changes):
    """A trainer of that task, on the digits."""
    plain = make_trainer(folder, optim__lr=0.001, **changes)
    for loader in (plain.train_loader, plain.val_loader):
        real = loader.epoch

        def epoch(number, start=0, real=real):
            for images, _, ids in real(number, start):
                yield images, (images.mean((1, 2, 3)),), ids

        loader.epoch = epoch

    class Tuple(type(plain.net)):
        def construct(self, x):
            return (super().construct(x),)

    loaders = plain.train_loader, plain.val_loader
    return Trainer(Tuple(), plain.config, *loaders, loss=squares, make_evaluator=Brightness)


def test_another_task_trains_with_its_own_loss_and_evaluator(tmp_path, capsys):
    trainer = bright_trainer(tmp_path)
    result = trainer.fit()
    said = capsys.readouterr().out
    assert "(square " in said and ", size " in said, "the terms stand beside the loss"
    assert "validation: mean error 0." in said and "(355 images)" in said and "top-1" not in said
    with open(tmp_path / run_dir.LOG, newline="") as file:
        rows = list(csv.DictReader(file))
    losses, metrics = ["train_loss", "train_square", "train_size"], ["val_error", "val_worst"]
    assert list(rows[0]) == ["epoch", "step", *losses, "lr", "img_per_s", *metrics]
    for row in rows:
        whole, *terms = (float(row[name]) for name in losses)
        assert whole == pytest.approx(sum(terms), rel=1e-4)
    least = min(float(row["val_error"]) for row in rows)
    assert result["best"] == ("error", pytest.approx(least, rel=1e-4), False)
    assert result["best_told"] == f"mean error {result['best'].value:.3f}"
    assert checkpoint.read(tmp_path / run_dir.BEST).meta["best"] == result["best"]._asdict()
    assert json.loads((tmp_path / run_dir.BEST_SCORES).read_text())["error"] == result["best"].value
    page = (tmp_path / run_dir.REPORT).read_text()
    assert "mean error" in page and "<h2>Errors</h2>" in page and "top-1" not in page

    resumed = bright_trainer(tmp_path, train__resume=True, train__allow_changes=True, optim__epochs=3)
    assert resumed.best == result["best"]
    resumed.fit()
    with open(tmp_path / run_dir.LOG, newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_a_start_that_fails_leaves_no_folder_behind(tmp_path):
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "a" / "b", tmp_path / "there"):
        with pytest.raises(UserError, match="data"), run_dir.opened(folder, resume=False):
            raise UserError("no such data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
    with pytest.raises(UserError), run_dir.opened(tmp_path / "a" / "b", resume=False) as folder:
        (folder / run_dir.CONFIG).write_text("written")
        raise UserError("later")
    assert (tmp_path / "a" / "b" / run_dir.CONFIG).read_text() == "written", "what was written stays"
