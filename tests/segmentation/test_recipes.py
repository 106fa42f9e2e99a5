"""The configurations of segmentation: complete, as published, and told truly in their headers and in the table."""

from __future__ import annotations

import re

import pytest
import yaml
from mindspore.nn.utils import no_init_parameters

from acmix_ms import config
from acmix_ms.analysis.reported import TABLE2
from acmix_ms.engine.optim import learning_rate
from models import build
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs" / "segmentation").glob("*.yaml"))
PAPER = [path for path in CONFIGS if "shapes" not in path.stem]
TABLE = {
    name: (recipe, int(steps), int(batch), result)
    for name, recipe, steps, batch, result in re.findall(
        r"^\| \[`(\w+)`\]\(segmentation/\1\.yaml\) \| `(\w+)` \| (\d+) \| (\d+) \| (.+) \|$",
        (ROOT / "configs" / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}


def test_every_row_of_table_2_has_a_configuration():
    assert sorted(TABLE) == [path.stem for path in CONFIGS]
    rows = {f"{row.model}_{row.schedule}": row for row in TABLE2}
    assert sorted(rows) == [path.stem for path in PAPER]
    for path in PAPER:
        miou = rows[path.stem].miou
        assert TABLE[path.stem][-1] == f"{miou} (paper)"
        assert f"mIoU {miou} (paper); not run here" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_headers_and_table_agree_with_the_file(path):
    cfg, text = config.load(path), path.read_text(encoding="utf-8")
    recipe, steps, batch, result = TABLE[path.stem]
    assert yaml.safe_load(text)["base"] == f"../base/{recipe}.yaml"
    assert (cfg.task, cfg.optim.iterations, cfg.data.batch_size) == ("segmentation", steps, batch)
    header = text.partition("base:")[0]
    assert f"configs/segmentation/{path.name}" in header
    assert re.sub("_(40|160)k$", "", path.stem) == cfg.model.name
    assert build.config_of_model(cfg.model.name).task == "segmentation"
    assert "paper" in result or result == "not measured" or result.partition(" (measured)")[0] in header


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_nets_and_schedules_are_as_published(path):
    cfg = config.load(path)
    with no_init_parameters():  # their values take longer than the net
        build.create(cfg, 150)
    uper = path.stem.startswith("upernet")
    batch, peak, power, warmup = (16, 6e-5, 1.0, 1500) if uper else (32, 2e-4, 0.9, 0)
    total = cfg.optim.iterations
    rates = [learning_rate(step, cfg.optim, 1263, batch) for step in (0, warmup, (total + warmup) // 2, total)]
    assert rates == pytest.approx([peak * (1e-6 if uper else 1), peak, peak * 0.5**power, 0], abs=1e-12)
    assert cfg.optim.weight_decay == (0.01 if uper else 1e-4)
    assert cfg.model.kwargs["drop_path_rate"] == (0.3 if uper else 0.1)
    assert cfg.train.sync_bn
    canvas, segments = cfg.data.canvas, cfg.data.segments
    assert (canvas.height, canvas.width, canvas.short_sides, canvas.max_side) == (512, 512, [512], 2048)
    assert (segments.scales, segments.cat_max_ratio, segments.photometric) == ([0.5, 2.0], 0.75, True)


def test_a_segmentor_without_a_recipe_has_ade20ks():
    cfg = build.config_of_model("semantic_fpn_resnet50", ["data.batch_size=1"])
    assert (cfg.task, cfg.data.name, cfg.data.canvas.width) == ("segmentation", "ade20k", 512)
    assert cfg.run_dir == "runs/semantic_fpn_resnet50"
