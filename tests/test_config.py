"""Typed configuration: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix_ms import config
from acmix_ms.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs" / "classification").glob("*.yaml"))


@pytest.fixture
def file(tmp_path):
    """``file(text)``: the path of a YAML file with this text; ``file(text, name)`` for several."""

    def write(text: str, name: str = "some.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_file_over_bases_over_defaults(file):
    file("optim: {lr: 1, epochs: 5, momentum: 0.5}", "base/a.yaml")
    file("optim: {lr: 2}\nseed: 7", "base/b.yaml")
    path = file("base: [base/a.yaml, base/b.yaml]\noptim: {epochs: 6}")
    cfg = config.load(path)
    assert (cfg.optim.lr, cfg.optim.epochs, cfg.optim.momentum, cfg.seed) == (2.0, 6, 0.5, 7)
    assert cfg.data.name == "digits"
    assert cfg.run_dir == str(Path("runs") / "some")


def test_overrides_come_last_and_numbers_are_numbers(file):
    path = file("optim: {lr: 0.1}\nmodel: {kwargs: {drop_path_rate: 2e-1}}")
    cfg = config.load(
        path, ["optim.lr=1e-3", "optim.lr=5e-4", "resume=true", "model.kwargs.shift=tensor", "data.path=a=b"]
    )
    assert cfg.optim.lr == 5e-4
    assert cfg.train.resume is True
    assert cfg.model.kwargs == {"drop_path_rate": 0.2, "shift": "tensor"}
    assert cfg.data.path == "a=b"


def test_dump_reads_back(file, tmp_path):
    cfg = config.load(file("optim: {lr: 1e-3, betas: [0.9, 0.95]}\nmodel: {kwargs: {mix: sum}}"))
    config.dump(cfg, tmp_path / "dumped.yaml")
    assert config.load(tmp_path / "dumped.yaml") == cfg


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", "'optim.lrr': did you mean 'optim.lr'"),
        ("lr=1", "'lr': did you mean 'optim.lr'"),
        ("modle.name=x", "'modle': did you mean 'model'"),
        ("zzzzzz=1", "unknown key 'zzzzzz'"),
        ("optim=3", "optim is a section"),
        ("optim.lr=fast", "optim.lr='fast': must be a number"),
        ("optim.lr=", "optim.lr"),
        ("optim.lr=0", "optim.lr=0.0: must be > 0"),
        ("optim.lr=nan", "optim.lr=nan: must be finite"),
        ("optim.lr=inf", "optim.lr=inf: must be finite"),
        ("optim.epochs=1.5", "optim.epochs=1.5: must be a whole number"),
        ("optim.epochs=0", "optim.epochs=0: must be >= 1"),
        ("optim.momentum=1", "optim.momentum=1.0: must be >= 0 and < 1"),
        ("optim.betas=[0.9]", "optim.betas=[0.9]: give two numbers"),
        ("optim.layer_decay=0", "optim.layer_decay=0.0: must be"),
        ("optim.layer_decay=1.1", "optim.layer_decay=1.1: must be > 0 and <= 1"),
        ("model.frozen_stages=-2", "model.frozen_stages=-2: must be >= -1"),
        ("optim.min_lr=3", "optim.min_lr=3.0: must be <= optim.lr"),
        ("optim.warmup_epochs=91", "optim.warmup_epochs=91.0: must be <= optim.epochs=90"),
        ("data.batch_size=0", "data.batch_size=0: must be >= 1"),
        ("data.name=digit", "did you mean 'digits'"),
        ("optim.name=adam", "did you mean 'adamw'"),
        ("runtime.device=TPU", "runtime.device='TPU'"),
        ("train.resume=maybe", "train.resume"),
        ("train.precision=fp8", "train.precision='fp8'"),
        ("seed=-1", "seed=-1"),
        ("optim.lr=${nothing}", "optim.lr='${nothing}': references"),
        ("resume", "key=value"),
        ("=3", "key=value"),
        ("data.path=[1", "argument 'data.path=[1' is not valid YAML"),
    ],
)
def test_wrong_override_is_named(file, override, words):
    with pytest.raises(UserError) as raised:
        config.load(file("seed: 0"), [override])
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lrr: 1}", "some.yaml: unknown key 'optim.lrr'"),
        ("- 1", "key: value"),
        ("optim: {lr: 1", "not valid YAML"),
        ("base: [1]", "base must be"),
        ("base: none.yaml", "none.yaml does not exist (named as base of"),
        ("base: some.yaml", "leads back to itself"),
        ("optim:", "optim is a section"),
    ],
)
def test_wrong_file_is_named(file, text, words):
    with pytest.raises(UserError) as raised:
        config.load(file(text))
    assert words in str(raised.value)


def test_missing_file_suggests_a_neighbour(file):
    path = file("seed: 0", "resnet.yaml")
    with pytest.raises(UserError, match="resnte.yaml does not exist; did you mean 'resnet.yaml'"):
        config.load(path.with_name("resnte.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    cfg = config.load(path)
    assert path.stem.startswith(cfg.model.name)
    assert "python train.py" in path.read_text().partition("base:")[0], "the header names the command"
