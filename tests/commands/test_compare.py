"""scripts/compare.py: every seed of every configuration once, going on after an interruption, mistakes."""

from __future__ import annotations

import json

import pytest

from acmix_ms import config
from acmix_ms.engine import run_dir
from acmix_ms.errors import UserError
from scripts import ablate, compare

CONFIGS = [str(ablate.CONFIG.with_name(f"{name}.yaml")) for name in ("swin_digits", "acmix_swin_digits")]


@pytest.fixture
def trained(monkeypatch):
    """Instead of training, a result that depends on seed and model; the list of what was asked for."""
    asked = []

    def pretend(cfg):
        asked.append((cfg.model.name, cfg.seed))
        folder = run_dir.prepare(cfg.run_dir, resume=False)
        config.dump(cfg, folder / run_dir.CONFIG)
        result = {"top1": 90.0 + 2 * cfg.seed + cfg.model.name.startswith("acmix"), "params": 1234}
        (folder / ablate.RESULT).write_text(json.dumps(result))
        return result

    monkeypatch.setattr(ablate, "train_apart", pretend)
    return asked


def test_each_seed_of_each_is_trained_once_and_summarised(tmp_path, trained, capsys):
    where = f"run_dir={tmp_path}"
    compare.main([*CONFIGS, "--seeds", "1", where])
    assert trained == [("swin_digits", 0), ("acmix_swin_digits", 0)]
    compare.main([*CONFIGS, "--seeds", "2", where])
    assert trained[2:] == [("swin_digits", 1), ("acmix_swin_digits", 1)]
    text = (tmp_path / compare.TABLE).read_text(encoding="utf-8")
    assert "| `swin_digits` | 1,234 | 91.00 ± 1.41 | 90.00, 92.00 |" in text
    assert "| `acmix_swin_digits` | 1,234 | 92.00 ± 1.41 | 91.00, 93.00 |" in text
    assert text in capsys.readouterr().out
    with pytest.raises(UserError, match="optim.epochs: 5 -> 6"):
        compare.main([*CONFIGS, where, "optim.epochs=6"])


def test_mistakes(tmp_path, trained):
    with pytest.raises(UserError, match="different names"):
        compare.main([CONFIGS[0], CONFIGS[0]])
    with pytest.raises(UserError, match="different names"):
        compare.main(["optim.epochs=1"])
    with pytest.raises(UserError, match="nowhere.yaml"):
        compare.main([str(tmp_path / "nowhere.yaml")])
    assert trained == []
