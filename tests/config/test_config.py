"""Typed configuration: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix_ms import config
from acmix_ms.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "classification").glob("*.yaml"))
DETECTION = sorted((ROOT / "configs" / "detection").glob("*.yaml"))


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
        ("optim=3", "optim is a section: give optim.<key>, such as optim.name"),
        ("optim.betas={a: 1}", "optim.betas={'a': '1'}: must be a list of numbers"),
        ("optim.betas=[[0.9],[0.9]]", "optim.betas[0]=['0.9']: must be a number"),
        ("optim.betas.0=0.5", "optim.betas={'0': '0.5'}: must be a list of numbers"),
        ("optim.betas=[0.9,1.0]", "optim.betas=[0.9, 1.0]: must be >= 0 and < 1"),
        ("model.kwargs=[]", "model.kwargs=[]: must be a section"),
        ("model.kwargs=null", "model.kwargs='null': must be a section"),
        ("data.path=\udcff", "argument 'data.path=\\udcff' is not valid YAML: special characters are not allowed"),
        ("data.path=a\0b", "argument 'data.path=a\\x00b' is not valid YAML: special characters are not allowed"),
        ('data.path="a\\0b"', "data.path='a\\x00b': has control characters"),
        ("\udcff=3", "unknown key '\\udcff'"),
        (f"seed={10**23}", "seed=1e+23: must be a whole number"),
        (f"seed={'9' * 5000}", "seed=inf: must be finite"),
        ("seed=2147483648", "seed=2147483648: must be within +-2147483647"),
        ("optim.weight_decay=inf", "optim.weight_decay=inf: must be finite"),
        ("optim.clip_norm=1e999", "optim.clip_norm=inf: must be finite"),
        ("data.augment.cutmix=.inf", "data.augment.cutmix=inf: must be finite"),
        ("data.augment.mixup=nan", "data.augment.mixup=nan: must be finite"),
        ("model.kwargs.x=[1, nan]", "model.kwargs.x[1]=nan: must be finite"),
        ("data.image_size=100000", "data.image_size=100000: must be >= 1 and <= 4096"),
        ("model.kwargs.num_classes=3", "model.kwargs.num_classes=3: give model.num_classes"),
        ("model.kwargs.name=x", "model.kwargs.name='x': give model.name"),
        ("model.kwargs.features_only=true", "model.kwargs.features_only=True: training needs logits"),
        ("model.kwargs.depths=3", "model.kwargs.depths=3: must be a list of numbers"),
        ("model.kwargs.depths=[2, 2, x, 2]", "model.kwargs.depths[2]='x': must be a whole number"),
        ("model.kwargs.window_size=0", "model.kwargs.window_size=0: must be >= 1"),
        ("model.kwargs.drop_path_rate=[0.1]", "model.kwargs.drop_path_rate=[0.1]: must be a number"),
        ("model.kwargs.drop_path_rate=1", "model.kwargs.drop_path_rate=1.0: must be >= 0 and < 1"),
        ("model.name=???", "model.name=???: a value is missing"),
        ('model.kwargs.x=[1, "???"]', "model.kwargs.x[1]=???: a value is missing"),
        ("model.name=${data.name}", "references such as ${key} are not resolved"),
        ("data.batch_size=010", "data.batch_size='010': must be a whole number"),
        ("data.batch_size=0x10", "data.batch_size='0x10': must be a whole number"),
        ("data.batch_size=1_000", "data.batch_size='1_000': must be a whole number"),
        ("data.batch_size=1:30", "data.batch_size='1:30': must be a whole number"),
        ("data.batch_size=true", "data.batch_size='true': must be a whole number"),
        ("data.batch_size='8'", "data.batch_size='8': must be a whole number"),
        ("train.resume=yes", "train.resume='yes': must be true or false"),
        ("train.resume=1", "train.resume='1': must be true or false"),
        ("model.name=null", "model.name='null': must be a text, not null"),
        ("model.kwargs.x=" + "[" * 300 + "]" * 300, "nested more than 20 levels deep"),
        ("model.kwargs." + "a." * 300 + "b=1", "no key is that deep"),
        ("model.kwargs.x=&a [*a]", "no anchors and tags"),
        ("model.kwargs.x=!!python/name:os", "no anchors and tags"),
        ("model.kwargs.x={a: 1, a: 2}", "'a' is given twice"),
        ("model.kwargs.x={[1]: 2}", "a key must be a name"),
        ("seed=1\n--- 2", "several documents"),
        ("task=detections", "did you mean 'detection'"),
        ("data.canvas.height=800", "data.canvas.height=800: is for task=detection or segmentation; leave it out"),
        ("optim.schedule=step", "optim.milestones=[]: optim.schedule=step needs one or several"),
        ("optim.warmup_iterations=-1", "optim.warmup_iterations=-1: must be >= 0"),
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
        ("base: 3", "base must be a file name or a list of file names, not '3'"),
        ("base: true", "base must be"),
        ("base:", "base must be"),
        ("base: {a: b}", "base must be"),
        ("base: ${model.name}", "references such as"),
        ('base: ["???"]', "a value is missing"),
        ('base: "a\\0b"', "control characters"),
        ("{a: " * 300 + "1" + "}" * 300, "nested more than 20 levels deep"),
        ("seed: 1\nseed: 2", "line 2: 'seed' is given twice"),
        ("model: {name: \0}", "not valid YAML: special characters are not allowed"),
        ("seed: 1\n---\nseed: 2", "several documents"),
        ("config_version: 3", "config_version=3, and 2 is the newest known here: update acmix_ms"),
        ("config_version: two", "config_version='two': must be a whole number"),
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


def test_of_two_contradicting_overrides_the_wrong_one_is_told(file):
    with pytest.raises(UserError, match="optim is a section"):
        config.load(file("seed: 0"), ["optim=3", "optim.lr=0.2"])


def test_a_text_stays_as_it_was_typed(file):
    path = file("model: {name: 010, kwargs: {date: 2020-01-01, size: 1_000, say: 'true', half: .5, no: null}}")
    cfg = config.load(path, ["data.path=/photos #1/x: y", "run_dir=1e3"])
    assert (cfg.model.name, cfg.data.path, cfg.run_dir) == ("010", "/photos #1/x: y", "1e3")
    assert cfg.model.kwargs == {"date": "2020-01-01", "size": "1_000", "say": "true", "half": 0.5, "no": None}
    for comments in (False, True):
        assert config.from_text(config.to_yaml(cfg, comments=comments)) == cfg


ODD = [
    *("", "~", "-", "--", ":", "?", "*a", "&a 1", "!x 1", "%", "@", "`", "|", ">", "'", '"', "{", "}", "[", "]", "#"),
    *("[1", "{a", "{: }", "{a: {b: []}}", "[[[]]]", "<<: {a: 1}", "---", "...", "\ufeff1", "\x1b[31m", "\ud800"),
    *("\t", "\n", ",", "1e999", "-.inf", "0o7", "1__0", "+", ".", "e1", "9" * 5000, "x" * 5000, "2020-01-01"),
    *("true", "[true]", "[null]"),
]


@pytest.mark.parametrize(
    "key",
    ["seed", "run_dir", "optim.betas", "model.kwargs", "model.kwargs.a", "train.resume", "data", "base", "a..b", "."],
)
def test_odd_values_are_taken_or_refused_in_one_line(file, key):
    for value in ODD:
        for read in (
            lambda given=f"{key}={value}": config.load(file("seed: 0"), [given]),
            lambda given=f"{key}: {value}": config.from_text(given),
        ):
            try:
                cfg = read()
            except UserError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 400
            else:
                assert config.from_text(config.to_yaml(cfg)) == cfg


def test_files_that_cannot_be_read_are_named(file, tmp_path):
    loop, latin = tmp_path / "loop.yaml", tmp_path / "latin.yaml"
    loop.symlink_to(loop.name)
    latin.write_bytes(b"run_dir: caf\xe9")
    for path, words in (
        (loop, "loop.yaml cannot be read"),
        (latin, "latin.yaml cannot be read: 'utf-8'"),
        (tmp_path, "cannot be read: [Errno 21]"),
        ("/dev/zero", "has more than 1000000 bytes"),
    ):
        with pytest.raises(UserError) as raised:
            config.load(path)
        assert words in str(raised.value)
    for i in range(30):
        file(f"base: {i + 1}.yaml", f"{i}.yaml")
    with pytest.raises(UserError, match="base of a base, 20 times"):
        config.load(tmp_path / "0.yaml")


def test_what_belongs_to_another_task_is_refused(file):
    dense = ["task=detection", "data.canvas.short_sides=[480, 800]", "data.canvas.flip=0.5"]
    cfg = config.load(file("seed: 0"), dense)
    assert cfg.data.canvas.short_sides == [480, 800]
    for wrong, message in (
        ("data.canvas.height=100", "data.canvas.height=100: must be a multiple of 32"),
        ("data.canvas.max_side=640", r"data.canvas.max_side=640: must be >= the largest of .*short_sides=\[480, 800\]"),
    ):
        with pytest.raises(UserError, match=message):
            config.load(file("seed: 0"), [*dense, wrong])
    with pytest.raises(UserError, match="data.canvas.height=96: must be <= data.canvas.width=64"):
        config.load(file("seed: 0"), [*dense, "data.canvas.height=96", "data.canvas.width=64"])
    with pytest.raises(UserError, match="data.name=coco: is for task=detection; give task=detection"):
        config.load(file("seed: 0"), ["data.name=coco"])
    with pytest.raises(UserError, match="task=detection: not built yet; choose from classification"):
        config.require_task(cfg, "classification")
    with pytest.raises(UserError, match="data.augment.mixup=0.8: is for task=classification"):
        config.load(file("seed: 0"), [*dense, "data.augment.mixup=0.8"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.iterations=100", "optim.warmup_iterations=101"], "must be <= optim.iterations=100"),
        (["optim.schedule=step", "optim.milestones=[8, 90]"], "below optim.epochs=90"),
        (["optim.schedule=step", "optim.milestones=[11, 8]"], "growing"),
        (["optim.schedule=step", "optim.milestones=[8, 11]", "optim.iterations=11"], "below optim.iterations=11"),
    ],
)
def test_schedules_that_never_end_well_are_refused(file, overrides, words):
    with pytest.raises(UserError, match=words):
        config.load(file("seed: 0"), overrides)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    cfg = config.load(path)
    assert path.stem.startswith(cfg.model.name)
    assert "python train.py" in path.read_text().partition("base:")[0], "the header names the command"
