"""Metrics, the training loop, and that a resumed run is the same run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from acmix_ms import config, runtime
from acmix_ms.analysis import figures
from acmix_ms.engine import checkpoint, logger, precision
from acmix_ms.engine.evaluation import evaluate
from acmix_ms.engine.losses import cross_entropy
from acmix_ms.engine.metrics import Accuracy
from acmix_ms.engine.metrics.classification import label_rank
from acmix_ms.engine.optim import set_learning_rate
from acmix_ms.errors import UserError
from models import create_model
from tests.helpers.tiny import TinyNet
from tests.helpers.training import make_trainer

ROOT = Path(__file__).resolve().parents[2]


def test_accuracy_ignores_padding_and_counts_top5():
    logits = np.tile(np.arange(10.0), (4, 1))  # class 9 leads, 5 to 9 are the top five
    accuracy = Accuracy("0123456789")
    accuracy.update(logits, (np.array([9, 5, 4, -1]),), np.arange(4))
    result = accuracy.result()
    assert (result["count"], result["top1"], result["top5"]) == (3, pytest.approx(100 / 3), pytest.approx(200 / 3))
    log_probabilities = logits[0] - np.log(np.exp(logits[0]).sum())
    assert result["loss"] == pytest.approx(-log_probabilities[[9, 5, 4]].mean())


def test_a_broken_net_is_never_right():
    labels = np.array([0, 0, 1])
    logits = np.array([[1.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
    assert (label_rank(logits, labels) >= 1).all()


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_training_learns_logs_and_saves(tmp_path, mode, capsys):
    trainer = make_trainer(tmp_path, mode=mode, optim__name="adamw", optim__lr=0.003)
    moving = trainer.net.body[1].moving_mean.asnumpy().copy()
    result = trainer.fit()
    rows = list(csv.DictReader(open(tmp_path / "log.csv")))
    columns = ["epoch", "step", "train_loss", "lr", "img_per_s", "val_top1", "val_top5", "val_loss"]
    assert list(rows[0]) == columns
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "11"), ("2", "22")]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"]) < 2.4
    best = max(float(row["val_top1"]) for row in rows)
    assert result["best"] == ("top1", pytest.approx(best, abs=1e-3), True)
    assert best > 30
    assert not np.array_equal(moving, trainer.net.body[1].moving_mean.asnumpy()), "batch norm saw no training"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.ckpt",
        "best.json",
        "config.yaml",
        "curves.png",
        "environment.json",
        "last.ckpt",
        "log.csv",
        "rates.csv",
        "report.html",
        "step-00000011.ckpt",
        "step-00000022.ckpt",
    ]
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "step-00000022.ckpt")
    output = capsys.readouterr().out
    assert "epoch 2/2  step 11/11  loss" in output
    assert "ETA 0:00:00" in output
    assert "scale" not in output
    rates = list(csv.DictReader(open(tmp_path / "rates.csv")))
    assert [(row["epoch"], row["layer"]) for row in rates] == [("1", ""), ("2", "")]
    assert float(rates[1]["alpha"]) == pytest.approx(float(trainer.net.rate1.asnumpy()[0]), abs=1e-5)
    assert rates[0]["alpha"] != rates[1]["alpha"]
    scores = json.loads((tmp_path / "best.json").read_text())
    assert scores["top1"] == pytest.approx(result["best"].value)
    assert sum(found["images"] for found in scores["classes"]) == 355
    assert json.loads((tmp_path / "environment.json").read_text())["MindSpore"] == ms.__version__

    assert config.load(tmp_path / "config.yaml").optim.lr == 0.003
    net = TinyNet()
    checkpoint.load_weights(net, tmp_path / "best.ckpt")
    scores = evaluate(net, trainer.val_loader)
    assert scores["count"] == 355
    assert scores["top1"] == pytest.approx(result["best"].value, abs=0.3)


def test_a_run_in_iterations_ends_within_an_epoch_validated_and_saved(tmp_path, capsys):
    trainer = make_trainer(tmp_path, optim__iterations=14)  # 11 steps are an epoch
    result = trainer.fit()
    assert (result["steps"], result["epochs"]) == (14, 2)
    rows = list(csv.DictReader(open(tmp_path / "log.csv")))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "11"), ("2", "14")]
    assert "epoch 2/2  validation" in capsys.readouterr().out
    saved = checkpoint.read(tmp_path / "last.ckpt")
    assert (saved.meta["step"], saved.meta["best"]["name"]) == (14, "top1")
    done = make_trainer(tmp_path, optim__iterations=14, train__resume=True)
    assert done.fit()["steps"] == 14, "nothing is left to do"
    assert list(csv.DictReader(open(tmp_path / "log.csv"))) == rows


@pytest.mark.parametrize("precision", ["mixed", "fp16"])
def test_sixteen_bits_train_under_plain_names(tmp_path, precision, capsys):
    trainer = make_trainer(tmp_path, train__precision=precision, optim__epochs=1)
    before = trainer.net.fc.weight.asnumpy().copy()
    trainer.fit()
    assert capsys.readouterr().out.count("  scale 16384  ") == 3  # steps 5, 10 and 11
    saved = checkpoint.read(tmp_path / "last.ckpt")
    assert saved.weights.keys() == TinyNet().parameters_dict().keys()
    assert {value.dtype for value in saved.weights.values()} == {np.dtype("f4")}, "weights stay float32"
    assert not np.array_equal(before, saved.weights["fc.weight"])
    assert saved.state["scaler.scale_value"] >= 1
    checkpoint.load_weights(TinyNet(), tmp_path / "best.ckpt")


def test_gradients_are_unscaled_and_clipped(tmp_path):
    """The length of the first step of SGD with rate 1 is that of the gradient, or what that is clipped to."""
    start = {name: parameter.asnumpy() for name, parameter in TinyNet().parameters_dict().items()}

    def trainer_and_batch(folder, **changes):
        net = TinyNet()
        ms.load_param_into_net(net, {name: ms.Parameter(value) for name, value in start.items()})
        trainer = make_trainer(folder, net, optim__weight_decay=0.0, **changes)
        set_learning_rate(trainer.optimizer, 1.0)
        trainer.model.set_train(True)
        batch = next(trainer.train_loader.epoch(0))
        return trainer, [ms.Tensor(part) for part in (batch.images, *batch.targets)]

    def length(trainer, batch):
        trainer.train_step(*batch)
        moved = (p.asnumpy().astype(np.float64) - start[p.name] for p in trainer.net.trainable_params())
        return np.sqrt(sum((change**2).sum() for change in moved))

    clipped, batch = trainer_and_batch(tmp_path / "clipped", optim__clip_norm=0.01)
    assert length(clipped, batch) == pytest.approx(0.01, rel=1e-3)
    free, batch = trainer_and_batch(tmp_path / "free", train__precision="mixed", optim__clip_norm=0.0)
    runtime.start("CPU", "pynative")
    gradients = ms.grad(lambda x, y: cross_entropy(free.net(x), y, 0.1), None, free.net.trainable_params())(*batch)
    expected = np.sqrt(sum((g.asnumpy().astype(np.float64) ** 2).sum() for g in gradients))
    runtime.start("CPU", "graph")
    assert expected > 0.1
    assert length(free, batch) == pytest.approx(expected, rel=0.02)


def test_overflow_skips_the_step_and_lowers_the_scale(tmp_path):
    trainer = make_trainer(tmp_path, train__precision="mixed")
    images, (labels,), _ = next(trainer.train_loader.epoch(0))
    trainer.model.set_train(True)
    before, scale = trainer.net.fc.weight.asnumpy().copy(), float(trainer.scaler.scale_value.asnumpy())
    _, _, finite = trainer.train_step(ms.Tensor(images * 1e30), ms.Tensor(labels))
    assert not bool(finite.asnumpy())
    assert np.array_equal(before, trainer.net.fc.weight.asnumpy())
    assert float(trainer.scaler.scale_value.asnumpy()) == scale / 2
    _, _, finite = trainer.train_step(ms.Tensor(images), ms.Tensor(labels))
    assert bool(finite.asnumpy())
    assert not np.array_equal(before, trainer.net.fc.weight.asnumpy())


def test_bf16_on_cpu_is_refused(tmp_path):
    with pytest.raises(UserError, match="train.precision=bf16.*CPU"):
        make_trainer(tmp_path, train__precision="bf16")


def test_bf16_is_cast_on_ascend_and_needs_no_scale():
    precision.require_precision("bf16", "Ascend")
    flags = {name: cell.get_flags() for name, cell in precision.cast(TinyNet(), "bf16").cells_and_names()}
    assert flags["_backbone.body.0"]["bf16"], "the convolution"
    assert flags["_backbone.body.1._backbone"]["fp32"], "the norm"
    assert precision.loss_scale(precision.build_scaler("bf16")) is None
    assert precision.loss_scale(precision.build_scaler("fp16")) == precision.FIRST_SCALE


def test_recomputing_the_operators_changes_no_step(tmp_path):
    losses = []
    for recompute in (False, True):
        runtime.start("CPU", "graph")  # the same seed
        net = create_model("acmix_resnet_digits", num_classes=10)
        trainer = make_trainer(tmp_path / str(recompute), net, train__recompute=recompute)
        trainer.model.set_train(True)
        images, (labels,), _ = next(trainer.train_loader.epoch(0))
        step = [trainer.train_step(ms.Tensor(images[:8]), ms.Tensor(labels[:8])) for _ in range(2)]
        losses.append([float(out[0].asnumpy()) for out in step])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_recomputing_without_an_operator_is_refused(tmp_path):
    with pytest.raises(UserError, match="train.recompute=true: this model has no ACmix operator"):
        make_trainer(tmp_path, train__recompute=True)


@pytest.mark.parametrize(
    ("broken", "words"), [("weight", "the loss is nan"), ("image", "the gradients are not finite")]
)
def test_lost_training_stops_with_step_and_rate_and_keeps_the_checkpoint(tmp_path, broken, words):
    trainer = make_trainer(tmp_path)
    real, calls = trainer.train_step, []

    def poisoned(images, labels):
        calls.append(1)
        if len(calls) == 15:
            if broken == "weight":
                runtime.assign(trainer.net.fc.bias, np.full(10, np.nan, np.float32))
            else:
                images = images * 1e38  # ReLU on CPU turns nan into 0: the loss stays finite
        return real(images, labels)

    trainer.train_step = poisoned
    with pytest.raises(UserError, match=rf"{words} at step 15 \(epoch 2, lr 0\.0146\)"):
        trainer.fit()
    assert len(calls) == 15 + 1, "what steps give is read every fifth step"
    saved = checkpoint.read(tmp_path / "last.ckpt")
    assert saved.meta["epoch"] == 1
    assert all(np.isfinite(value).all() for value in saved.weights.values())


@pytest.mark.parametrize(("optimizer", "precision"), [("sgd", "fp32"), ("adamw", "mixed")])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, optimizer, precision):
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "resume_case.py"), str(tmp_path), optimizer, precision]
    done = subprocess.run(command, cwd=ROOT, env=_with_root(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    digests = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("whole ", "parts ")))
    assert "killed" in done.stdout
    assert digests["whole"] == digests["parts"]
    logs = [(tmp_path / part / "log.csv").read_text().splitlines() for part in ("whole", "parts")]
    without_speed = [[row.split(",")[:4] + row.split(",")[5:] for row in rows] for rows in logs]
    assert without_speed[0] == without_speed[1]


def _with_root():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_resume_refuses_what_cannot_go_on(tmp_path):
    make_trainer(tmp_path, optim__epochs=1).fit()
    same = {"optim__epochs": 1, "train__resume": True}
    with pytest.raises(UserError, match="optim.name: sgd -> adamw; optim.lr: 0.05 -> 0.01.*train.allow_changes=true"):
        make_trainer(tmp_path, **same, optim__name="adamw", optim__lr=0.01)
    with pytest.raises(UserError, match="another optim.name"):
        make_trainer(tmp_path, **same, optim__name="adamw", train__allow_changes=True)
    with pytest.raises(UserError, match="data.batch_size: 128 -> 64"):
        make_trainer(tmp_path, **same, data__batch_size=64)
    with pytest.raises(UserError, match="11 steps per epoch of 128 images, now there are 22 of 64"):
        make_trainer(tmp_path, **same, data__batch_size=64, train__allow_changes=True)
    with pytest.raises(UserError, match="architecture"):
        make_trainer(tmp_path, TinyNet(width=24), **same)
    trainer = make_trainer(tmp_path, **same, train__log_every=7, data__workers=1)  # what changes no step may change
    assert trainer.epoch == 1
    more = make_trainer(tmp_path, train__resume=True, optim__epochs=3, train__allow_changes=True)
    assert more.epoch == 1


def test_resume_without_a_checkpoint_says_so_and_starts(tmp_path, capsys):
    assert make_trainer(tmp_path, train__resume=True).epoch == 0
    assert "starts from the beginning" in capsys.readouterr().out


def test_rows_of_epochs_that_no_checkpoint_has_are_dropped(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.fit()
    saved = checkpoint.read(tmp_path / "last.ckpt")
    # as if the process had died after the second row and before the second checkpoint
    meta = {key: value for key, value in saved.meta.items() if key not in ("checksum", "format_version")}
    (tmp_path / "step-00000022.ckpt").unlink()
    checkpoint.save_state(tmp_path, saved.weights, saved.state, {**meta, "epoch": 1, "step": 11}, keep=2)
    make_trainer(tmp_path, train__resume=True).fit()
    rows = list(csv.DictReader(open(tmp_path / "log.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    rates = list(csv.DictReader(open(tmp_path / "rates.csv")))
    assert [row["epoch"] for row in rates] == ["1", "2"]
    assert not (tmp_path / "rates.csv.partial").exists()


def test_rates_are_recorded_under_the_names_of_the_layers_in_any_precision(tmp_path):
    """Casting a net puts Cells around its layers."""
    names = []
    for kind in ("fp32", "mixed", "fp16"):
        net = create_model("acmix_resnet_digits", num_classes=10)
        trainer = make_trainer(tmp_path / kind, net, train__precision=kind)
        names.append([layer for layer, _, _ in figures.collect_rates(trainer.net)])
    assert names[0] == ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"]
    assert names[1] == names[2] == names[0]


def test_rows_that_a_full_disk_refused_are_written_with_the_next(tmp_path, monkeypatch, capsys):
    table = logger.Table(tmp_path / "table.csv", 0)

    def full(path, text):
        raise UserError(f"{path} cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(logger, "write_text", full)
        table.add([{"epoch": "1", "value": "a"}])
    assert "table.csv cannot be written: No space left on device; training goes on" in capsys.readouterr().out
    assert not (tmp_path / "table.csv").exists()
    table.add([{"epoch": "2", "value": "b"}])
    assert [row["value"] for row in logger.read_table(tmp_path / "table.csv")] == ["a", "b"]
    logger.Table(tmp_path / "table.csv", 0)
    assert not (tmp_path / "table.csv").exists(), "a fresh start leaves no row of another run"
