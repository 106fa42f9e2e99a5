"""Names of earlier versions keep working: in checkpoints, in files, on the command line."""

from __future__ import annotations

import pytest

from acmix_ms import config, runtime
from acmix_ms.config.migrations import MOVED
from acmix_ms.config.schema import VERSION, keys
from acmix_ms.errors import UserError

# What version 1 wrote, to the letter: with tests.helpers.tiny's net on the digits, two epochs.
VERSION_1 = """\
run_dir: runs/x
seed: 0
model:
  name: tiny_net
  num_classes: 10
  kwargs: {}
  init_checkpoint: null
  frozen_stages: 0
data:
  name: digits
  path: null
  batch_size: 128
  image_size: 32
  workers: 2
  on_error: skip
  min_crop_area: 0.08
  eval_crop_ratio: 0.875
  interpolation: bilinear
  augment: true
  auto_augment: null
  color_jitter: 0.0
  reprob: 0.0
  mixup: 0.2
  cutmix: 0.0
  mixup_prob: 1.0
  mixup_switch_prob: 0.5
  repeated_aug: 1
optim:
  name: sgd
  lr: 0.05
  lr_reference_batch: null
  epochs: 2
  warmup_epochs: 0.0
  warmup_start: 0.0
  min_lr: 0.0
  momentum: 0.9
  betas:
  - 0.9
  - 0.999
  eps: 1.0e-08
  weight_decay: 0.0001
  layer_decay: 1.0
  label_smoothing: 0.1
  clip_norm: 5.0
train:
  resume: false
  deterministic: false
  precision: fp32
  sync_bn: false
  ema_decay: 0.0
  recompute: false
  log_every: 5
  events: false
  save_every_steps: 0
  keep_checkpoints: 2
  allow_changes: false
runtime:
  device: auto
  mode: graph
  threads: null
"""
TODAY = {
    "model": {"name": "tiny_net"},
    "data": {"batch_size": 128, "augment": {"mixup": 0.2}},
    "optim": {"lr": 0.05, "epochs": 2, "clip_norm": 5.0},
    "loss": {"label_smoothing": 0.1},
    "train": {"log_every": 5},
}


def test_every_old_name_leads_to_one_of_today():
    assert set(MOVED) == set(range(1, VERSION))
    today = {key for key, _ in keys()}
    for table in MOVED.values():
        assert set(table.values()) <= today
        assert set(table) & today <= {"data.augment"}, "a name that has moved never comes back"


def test_a_checkpoint_of_version_1_means_what_it_meant(capsys):
    cfg = config.from_text(VERSION_1, ["seed=3"])
    assert (cfg.loss.label_smoothing, cfg.data.augment.mixup, cfg.data.augment.enabled) == (0.1, 0.2, True)
    assert (cfg.optim.lr, cfg.seed, cfg.model.num_classes, cfg.config_version) == (0.05, 3, 10, VERSION)
    assert config.from_text(config.to_yaml(cfg)) == cfg
    assert capsys.readouterr().err == "", "nobody wrote these names by hand"
    assert config.differences(VERSION_1, config.from_dict(TODAY)) == []
    changed = config.from_dict({**TODAY, "loss": {"label_smoothing": 0.2}})
    assert config.differences(VERSION_1, changed) == ["loss.label_smoothing: 0.1 -> 0.2"]


def test_images_of_version_1_were_resized_without_antialiasing():
    folders = VERSION_1.replace("name: digits", "name: imagefolder")
    assert config.from_text(folders).data.resize == "fast"
    assert config.from_text(VERSION_1).data.resize == "pillow", "digits are enlarged in their own way"


def test_old_names_in_files_and_on_the_command_line_are_told(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text("data: {augment: false, mixup: 0.8, batch_size: 8}")
    path = tmp_path / "mine.yaml"
    path.write_text("base: base.yaml\noptim: {label_smoothing: 0.1}")
    cfg = config.load(path, ["data.cutmix=1.0", "optim.label_smoothing=0.3"])
    assert (cfg.data.augment.enabled, cfg.data.augment.mixup, cfg.data.augment.cutmix) == (False, 0.8, 1.0)
    assert (cfg.loss.label_smoothing, cfg.data.batch_size) == (0.3, 8)
    told = capsys.readouterr().err.splitlines()
    assert "note: command line: data.cutmix is now data.augment.cutmix" in told
    assert f"note: {path}: optim.label_smoothing is now loss.label_smoothing" in told
    base = f"note: {tmp_path}/base.yaml: data.augment is now data.augment.enabled, data.mixup is now data.augment.mixup"
    assert base in told
    assert len(told) == 4


def test_the_configuration_of_an_old_run_is_a_file_like_any_other(tmp_path):
    (tmp_path / "config.yaml").write_text(VERSION_1)
    assert config.load(tmp_path / "config.yaml") == config.from_text(VERSION_1)
    (tmp_path / "config.yaml").write_text(VERSION_1 + "config_version: 1\n")
    assert config.load(tmp_path / "config.yaml") == config.from_text(VERSION_1)


def test_an_old_name_beside_its_new_one_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("optim: {label_smoothing: 0.1}\nloss: {label_smoothing: 0.2}")
    with pytest.raises(UserError, match="optim.label_smoothing is now loss.label_smoothing, which is given too"):
        config.load(tmp_path / "mine.yaml")


def test_a_newer_version_asks_for_an_update():
    with pytest.raises(UserError, match="config_version=99, and 2 is the newest known here: update"):
        config.from_text("config_version: 99\nnew: {keys: 1}")


def test_a_run_of_version_1_is_resumed(tmp_path, capsys):
    from acmix_ms.data import create_loader
    from acmix_ms.engine import checkpoint
    from acmix_ms.engine.trainer import Trainer
    from tests.helpers.tiny import TinyNet

    cfg = config.from_dict({**TODAY, "run_dir": str(tmp_path), "train": {"log_every": 5, "resume": True}})
    runtime.start("CPU", "graph")
    loaders = [create_loader(cfg.data, split) for split in ("train", "val")]
    old = Trainer(TinyNet(), cfg, *loaders)
    meta = {"model": "tiny_net", "num_classes": 10, "epoch": 1, "step": 11, "best_top1": 50.0, "config": VERSION_1}
    meta["in_epoch"] = {"steps": 0, "counted": 0, "loss_sum": 0.0}
    meta |= {"steps_per_epoch": 11, "global_batch": 128}
    checkpoint.save_state(tmp_path, old.net.parameters_dict(), old._state(), meta, keep=2)
    assert Trainer(TinyNet(), cfg, *loaders).epoch == 1
    assert "resumed from" in capsys.readouterr().out
    other = config.from_dict({**TODAY, "run_dir": str(tmp_path), "train": {"resume": True}, "loss": {}})
    with pytest.raises(UserError, match="loss.label_smoothing: 0.1 -> 0.0"):
        Trainer(TinyNet(), other, *loaders)
