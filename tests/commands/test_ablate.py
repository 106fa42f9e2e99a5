"""scripts/ablate.py and scripts/figure5.py: the rows, the table, going on after an interruption, mistakes."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import mindspore as ms
import pytest
from mindspore import nn
from PIL import Image

from acmix_ms import config, runtime
from acmix_ms.analysis import ablation, figures
from acmix_ms.engine import checkpoint, run_dir
from acmix_ms.errors import UserError
from models import create_model
from scripts import ablate, figure5

CONFIG = str(ablate.CONFIG)


def test_rows_are_those_of_the_paper():
    assert [row.paper_top1 for row in ablation.TABLES["6"]] == [81.3, 80.5, 81.5, 81.6, 81.5, 81.9]
    assert [row.paper_top1 for row in ablation.TABLES["7"]] == [81.4, 81.4, 81.5, 81.9]
    assert [row.key for row in ablation.rows_of(["6", "7"])].count("learned") == 1
    assert len(ablation.rows_of(["6", "7"])) == 9


@pytest.mark.parametrize("row", ablation.rows_of(["6", "7"]), ids=lambda row: row.key)
def test_every_row_is_a_model_of_its_own(row):
    name, kwargs = ablation.model_of(row, "acmix_swin_digits")
    net = create_model(name, 10, **kwargs)
    options = {(cell.mix, cell.shift) for cell in operators(net) if hasattr(cell, "shift")}
    assert len(options) == (0 if row.key in ("attention", "conv") else 1)
    if options:
        assert row.key in next(iter(options))
    else:  # without a convolution path, or without the operator at all
        assert {cell.mix for cell in operators(net)} == ({"attention"} if row.key == "attention" else set())


def operators(net: nn.Cell) -> list[nn.Cell]:
    return [cell for _, cell in net.cells_and_names() if hasattr(cell, "mix")]


def test_records_have_mean_and_sample_deviation():
    results = {
        "learned": [{"top1": 90.0, "params": 1234567}, {"top1": 92.0, "params": 1234567}],
        "sum": [{"top1": 91.0, "params": 99}],
    }
    records = ablation.summarise(["6", "7"], results)
    assert [(r["table"], r["row"], r["top1_mean"], r["top1_std"], r["seeds"]) for r in records] == [
        ("6", "sum", 91.0, None, 1),
        ("6", "learned", 91.0, 1.41, 2),
        ("7", "learned", 91.0, 1.41, 2),
    ]
    text = ablation.markdown(records, "digits")
    assert "| 1 · att + 1 · conv | 99 | 91.00 | 1 | 81.5 |" in text
    assert "| α · att + β · conv | 1,234,567 | 91.00 ± 1.41 | 2 | 81.9 |" in text
    assert text.count("top-1 of Swin-T on ImageNet (paper)") == 2


@pytest.fixture
def trained(monkeypatch) -> list[config.Config]:
    """Instead of training, a result that depends on the seed; the list of what was asked for."""
    asked = []

    def pretend(cfg: config.Config) -> dict:
        asked.append(cfg)
        folder = run_dir.prepare(cfg.run_dir, resume=False)
        config.dump(cfg, folder / run_dir.CONFIG)
        result = {"top1": 90.0 + cfg.seed, "params": 1000}
        (folder / ablate.RESULT).write_text(json.dumps(result))
        return result

    monkeypatch.setattr(ablate, "train_apart", pretend)
    return asked


def test_tables_are_written_and_nothing_is_trained_twice(tmp_path, trained, capsys):
    arguments = ["--table", "7", "--seeds", "2", f"run_dir={tmp_path}/a"]
    ablate.main(arguments)
    folder = tmp_path / "a"
    assert [(c.model.kwargs.get("shift"), c.seed) for c in trained] == [
        (shift, seed) for seed in (0, 1) for shift in ("tensor", "fixed", "random", None)
    ]
    assert {Path(c.run_dir) for c in trained} == {
        folder / key / f"seed{seed}" for key in ("tensor", "fixed", "random", "learned") for seed in (0, 1)
    }
    assert "| 1,000 | 90.50 ± 0.71 | 2 | 81.9 |" in (folder / "ablations.md").read_text(encoding="utf-8")
    with (folder / "ablations.csv").open(newline="", encoding="utf-8") as file:
        assert [row["paper_top1"] for row in csv.DictReader(file)] == ["81.4", "81.4", "81.5", "81.9"]
    with Image.open(folder / "ablations.png") as picture:
        assert picture.format == "PNG"
    assert "[8/8]" in capsys.readouterr().out

    trained.clear()
    ablate.main([*arguments, "--seeds", "3", "runtime.threads=1"])  # where it runs makes no difference
    assert [c.seed for c in trained] == [2, 2, 2, 2]


def test_runs_of_another_configuration_are_not_mixed_in(tmp_path, trained):
    arguments = ["--table", "7", "--seeds", "1", f"run_dir={tmp_path}/a"]
    ablate.main(arguments)
    with pytest.raises(UserError, match=r"tensor.seed0 was trained with another .*optim.epochs: \d+ -> 99"):
        ablate.main([*arguments, "optim.epochs=99"])
    (tmp_path / "a" / "fixed" / "seed0" / ablate.RESULT).write_text("{}")
    with pytest.raises(UserError, match=r"fixed.seed0.result.json is not a result"):
        ablate.main(arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--table", "8"], "argument --table: invalid choice: '8'"),
        (["--seeds", "0"], "argument --seeds: '0' is not a whole number"),
        (["model.name=swin_digits"], "model.name=swin_digits: the tables vary an ACmix model"),
        (["--table", "6", "model.name=acmix_san_digits"], "no model conv_san_digits; .* only --table 7"),
        (["--config", "no.yaml"], "configuration file no.yaml does not exist"),
    ],
)
def test_mistakes_are_told_before_training(tmp_path, trained, arguments, message):
    with pytest.raises(UserError, match=message):
        ablate.main([*arguments, f"run_dir={tmp_path}/a"])
    assert not trained


@pytest.mark.slow
def test_one_run_for_real_in_a_process_of_its_own(tmp_path):
    small = "model.kwargs={dim: 8, num_heads: [1, 1, 1, 1], depths: [1, 1, 1, 1]}"
    base = config.load(CONFIG, [f"run_dir={tmp_path}/a", "optim.epochs=1", "data.batch_size=720", small])
    cfg = ablate.run_config(base, ablation.TABLES["6"][-1], 3)
    result = ablate.train_apart(cfg)
    assert 0 <= result["top1"] <= 100
    assert ablate.finished(cfg) == {"top1": result["top1"], "params": result["params"]}
    ablate.check_same(cfg)
    assert (Path(cfg.run_dir) / run_dir.BEST).exists()
    # Interrupted between the last epoch and the result: it is taken up, not begun anew.
    (Path(cfg.run_dir) / ablate.RESULT).unlink()
    assert ablate.train_apart(cfg)["top1"] == result["top1"]
    # A mistake in the other process is a mistake here.
    broken = dataclasses.replace(cfg, run_dir=str(tmp_path / "b"))
    broken.model.kwargs["dim"] = 7
    broken.model.kwargs["num_heads"] = [2, 2, 2, 2]
    with pytest.raises(UserError, match="dim=7 is not divisible by num_heads=2"):
        ablate.train_apart(broken)


# ------------------------------------------------------------------------------------------------------ Figure 5
def saved_run(folder: Path, model: str, seed: int, alpha: float) -> Path:
    runtime.start(mode="pynative")
    cfg = config.load(CONFIG, [f"model.name={model}", f"seed={seed}"])
    net = create_model(model, 10)
    for parameter in net.get_parameters():
        if parameter.name.endswith("rate1"):
            parameter.set_data(ms.Tensor([alpha], ms.float32))
    folder.mkdir(parents=True)
    checkpoint.save(
        folder / run_dir.BEST, net.parameters_dict(), meta={"num_classes": 10, "config": config.to_yaml(cfg)}
    )
    return folder


def test_figure5_draws_each_family_from_checkpoints(tmp_path, capsys, monkeypatch):
    runs = [
        saved_run(tmp_path / "a", "acmix_swin_digits", 0, 0.25),
        saved_run(tmp_path / "b", "acmix_swin_digits", 1, 0.75),
        saved_run(tmp_path / "c", "acmix_san_digits", 0, -0.5),
    ]
    drawn = {}
    monkeypatch.setattr(figures, "plot_rates", lambda families, path: drawn.update(families))
    figure5.main([*map(str, runs), "--output", str(tmp_path / "figure5.png")])
    assert drawn["acmix_swin_digits"] == {"seed 0": [(0.25, 0.5)] * 6, "seed 1": [(0.75, 0.5)] * 6}
    assert drawn["acmix_san_digits"]["seed 0"][0] == (-0.5, 0.5)
    assert "layers.0.blocks.0.attn   |alpha| 0.250  |beta| 0.500" in capsys.readouterr().out


def test_figure5_mistakes(tmp_path):
    output = ["--output", str(tmp_path / "x.png")]
    with pytest.raises(UserError, match="checkpoint no does not exist"):
        figure5.main(["no", *output])
    plain = saved_run(tmp_path / "plain", "swin_digits", 0, 0.0)
    with pytest.raises(UserError, match="swin_digits has no learned rates"):
        figure5.main([str(plain), *output])
    checkpoint.save(tmp_path / "bare.ckpt", create_model("acmix_san_digits", 10).parameters_dict())
    with pytest.raises(UserError, match="does not say how it was trained"):
        figure5.main([str(tmp_path / "bare.ckpt"), *output])
