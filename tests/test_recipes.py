"""Every configuration: it builds model, optimizer and schedule, the recipes train, and the table of them is true."""

from __future__ import annotations

import dataclasses
import re

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore.nn.utils import no_init_parameters

from acmix_ms import config, runtime
from acmix_ms.analysis import reported
from acmix_ms.data.augment import Mixing, parse_auto_augment
from acmix_ms.engine import finetune
from acmix_ms.engine.optim import build_optimizer, learning_rate
from acmix_ms.engine.trainer import Trainer
from models import build, create_model
from tests.config.test_config import CONFIGS, DETECTION, ROOT

TOP1 = {row.model: row.top1 for row in reported.FIGURE4}
TABLES = {
    folder: {
        name: (recipe, int(epochs), int(batch), result)
        for name, recipe, epochs, batch, result in re.findall(
            rf"^\| \[`(\w+)`\]\({folder}/\1\.yaml\) \| `(\w+)` \| (\d+) \| (\d+) \| (.+) \|$",
            (ROOT / "configs" / "README.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    for folder in ("classification", "detection")
}
TABLE = TABLES["classification"]
COCO = [path for path in DETECTION if "shapes" not in path.stem]
# A small net of the family, so that one step of the recipe takes seconds.
STEPS = {
    "acmix_resnet26_imagenet": ("acmix_resnet_digits", {}),
    "acmix_san10_imagenet": ("acmix_san_digits", {}),
    "acmix_pvt_tiny_imagenet": ("acmix_pvt_tiny", {"image_size": 32, "drop_path_rate": 0.0}),
    "acmix_swin_tiny_imagenet": ("acmix_swin_digits", {"drop_path_rate": 0.0}),
}


def test_every_model_that_the_paper_trains_has_a_configuration():
    assert {f"{name}_imagenet" for name in TOP1} <= {path.stem for path in CONFIGS}


def test_the_table_lists_every_configuration():
    assert sorted(TABLE) == [path.stem for path in CONFIGS]
    assert sorted(TABLES["detection"]) == [path.stem for path in DETECTION]


def test_every_row_of_the_papers_detectors_has_a_configuration():
    rows = {f"{row.model}_{row.schedule}": row for row in (*reported.TABLE3, *reported.TABLE4)}
    assert sorted(rows) == [path.stem for path in COCO]
    for path in COCO:
        told = rows[path.stem].score
        assert TABLES["detection"][path.stem][-1] == f"{told} (paper)"
        assert re.search(rf"{'Box' if told.startswith('AP50') else 'mAP'} {told} \(paper\); not run", path.read_text())


@pytest.mark.parametrize("path", DETECTION, ids=lambda path: path.stem)
def test_headers_and_table_of_detection_agree_with_the_file(path):
    cfg, text = config.load(path), path.read_text(encoding="utf-8")
    recipe, epochs, batch, _ = TABLES["detection"][path.stem]
    assert yaml.safe_load(text)["base"] == f"../base/{recipe}.yaml"
    assert (cfg.task, cfg.optim.epochs, cfg.data.batch_size) == ("detection", epochs, batch)
    assert f"configs/detection/{path.name}" in text.partition("base:")[0]
    assert re.sub("_[13]x$", "", path.stem) == cfg.model.name
    assert build.config_of_model(cfg.model.name).task == "detection"


@pytest.mark.parametrize("path", DETECTION, ids=lambda path: path.stem)
def test_detectors_optimizers_and_schedules_are_built(path):
    cfg = config.load(path)
    with no_init_parameters():
        net = build.create(cfg, 80)
    if cfg.model.frozen_stages:
        finetune.freeze(net, cfg.model.frozen_stages)
    if cfg.model.norm_eval:
        finetune.keep_statistics(net)
    assert cfg.data.canvas.height % 32 == cfg.data.canvas.width % 32 == 0
    if path not in COCO:
        return
    # As published: the rate for 16 images after 500 steps, a tenth and a hundredth of it from the milestones on.
    steps, long = 117_266 // 16, path.stem.endswith("3x")
    epochs, stones = (36, (27, 33)) if long else (12, (8, 11))
    peak = 1e-2 if cfg.optim.name == "sgd" else 1e-4
    rates = [learning_rate(step, cfg.optim, steps, 16) for step in (0, 500, *(stone * steps for stone in stones))]
    assert rates == pytest.approx([peak / 1000, peak, peak / 10, peak / 100], rel=1e-6)
    assert learning_rate(500, cfg.optim, steps, 32) == pytest.approx(2 * peak)
    assert cfg.optim.epochs == epochs
    assert (cfg.data.canvas.height, cfg.data.canvas.width, cfg.data.canvas.max_side) == (800, 1344, 1333)
    assert max(cfg.data.canvas.short_sides) == 800
    resnet = not re.search("pvt|swin", cfg.model.name)
    assert (cfg.optim.name == "sgd", cfg.model.norm_eval, bool(cfg.model.frozen_stages)) == (resnet,) * 3
    assert cfg.optim.weight_decay == (0.05 if "swin" in path.stem else 1e-4)
    assert len(build_optimizer(net, cfg.optim).parameters) == len(net.trainable_params())


def test_a_detector_without_a_recipe_has_cocos_canvas():
    cfg = build.config_of_model("retinanet_pvt_large", ["data.batch_size=1"])
    assert (cfg.task, cfg.model.name, cfg.data.canvas.width) == ("detection", "retinanet_pvt_large", 1344)
    assert cfg.run_dir == "runs/retinanet_pvt_large"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_and_table_agree_with_the_file(path):
    cfg, text = config.load(path), path.read_text(encoding="utf-8")
    recipe, epochs, batch, result = TABLE[path.stem]
    assert yaml.safe_load(text)["base"] == f"../base/{recipe}.yaml"
    assert (cfg.optim.epochs, cfg.data.batch_size) == (epochs, batch)
    header = text.partition("base:")[0]
    assert f"configs/classification/{path.name}" in header
    if path.stem.endswith("_imagenet"):
        top1 = TOP1[cfg.model.name]
        assert result == f"{top1} (paper)"
        assert f"{top1} % (paper); not run here" in header
    else:
        numbers = result.partition(" (measured)")[0]
        assert numbers == "not measured" or numbers in header


@pytest.mark.parametrize("path", [path for path in CONFIGS if "digits" not in path.stem], ids=lambda path: path.stem)
def test_model_optimizer_and_schedule_are_built(path):
    cfg = config.load(path)
    net = create_model(cfg.model.name, num_classes=1000, **cfg.model.kwargs)
    optimizer = build_optimizer(net, cfg.optim)
    assert len(optimizer.parameters) == len(net.trainable_params())
    # The learning rate that the papers name for their global batch, at the peak and at the end.
    family = re.match("resnet|san|pvt|swin", cfg.model.name.replace("acmix_", "")).group()
    global_batch, peak, end = {
        "resnet": (128, 0.1, 0),
        "san": (256, 0.1, 0),
        "pvt": (1024, 1e-3, 1e-5),
        "swin": (1024, 1e-3, 1e-5),
    }[family]
    steps = 1_281_167 // global_batch
    rates = [
        learning_rate(epoch * steps, cfg.optim, steps, global_batch)
        for epoch in (0, cfg.optim.warmup_epochs, cfg.optim.epochs)
    ]
    assert rates[1:] == pytest.approx([peak, end], abs=1e-9)
    assert rates[0] == pytest.approx(peak * cfg.optim.warmup_start if cfg.optim.warmup_epochs else peak)
    transformer = family in ("pvt", "swin")
    assert (parse_auto_augment(cfg.data.augment.auto_augment) is not None) == transformer
    assert (Mixing.of(cfg.data.augment) is not None) == transformer
    assert cfg.data.augment.repeated_aug == (3 if family == "pvt" else 1)


class Noise:
    """Two random images with the labels that the recipe asks for."""

    batch_size, size, num_classes, class_names = 2, 1, 1000, ["x"] * 1000

    def __init__(self, side, mixing):
        random = np.random.default_rng(0)
        self.batch = random.standard_normal((2, 3, side, side)).astype(np.float32), np.array([3, 7], np.int32)
        if mixing:
            self.batch = mixing(*self.batch, 1000, random)

    def __len__(self):
        return 5000


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.slow
def test_a_step_of_each_recipe_lowers_the_loss(name, tmp_path):
    cfg = config.load(ROOT / "configs" / "classification" / f"{name}.yaml", [f"run_dir={tmp_path}"])
    model, kwargs = STEPS[name]
    optim = dataclasses.replace(cfg.optim, warmup_epochs=0, lr_reference_batch=None, lr=cfg.optim.lr / 4)
    cfg = dataclasses.replace(cfg, optim=optim)
    loader = Noise(16 if model == "acmix_swin_digits" else 32, Mixing.of(cfg.data.augment))
    assert loader.batch[1].ndim == (2 if cfg.data.augment.mixup else 1)
    runtime.start(mode="graph")
    trainer = Trainer(create_model(model, num_classes=1000, **kwargs), cfg, loader, loader)
    trainer.model.set_train(True)
    losses = []
    for _ in range(4):
        loss, _, finite = trainer.train_step(*map(ms.Tensor, loader.batch))
        assert bool(finite.asnumpy())
        losses.append(float(loss.asnumpy()))
    assert losses[0] == pytest.approx(np.log(1000), rel=0.3)
    assert losses[-1] < losses[0]
