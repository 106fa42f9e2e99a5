"""train.py, eval.py and export.py as a user runs them, and every wrong input as one line and exit code 2."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

import eval as eval_script
import export as export_script
import train as train_script
from acmix_ms import config, runtime
from acmix_ms.commands.train import _initial
from acmix_ms.data.preprocess import Preprocess, preprocess_of
from acmix_ms.deploy import Description
from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError
from models import build, create_model
from tests.helpers.tiny import TinyNet, make_images, register

ROOT = Path(__file__).resolve().parents[2]
DIGITS = "configs/classification/resnet_digits.yaml"
SCRIPTS = {"train": train_script, "eval": eval_script, "export": export_script}


@pytest.fixture
def call(monkeypatch):
    """``call("train", "--config", ...)``: the main function of a script, in this process, from the repository root."""
    monkeypatch.chdir(ROOT)
    register(monkeypatch)
    return lambda script, *args: SCRIPTS[script].main([str(arg) for arg in args])


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_one_line(result, *words):
    """Exit code 2, and on stderr nothing but one line that begins with ``error:`` and holds the words."""
    assert result.code == 2, result
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_train_resume_evaluate_export(run_cli):
    """The main job, each step a process of its own."""
    run = run_cli.run_dir
    common = ("--config", DIGITS, f"run_dir={run}", "optim.epochs=2", "data.batch_size=128", "runtime.device=CPU")
    trained = run_cli("train.py", *common)
    assert trained.code == 0, trained.stderr
    assert "epoch 2/2  validation: top-1" in trained.stdout
    names = [".lock", "best.ckpt", "best.json", "config.yaml", "curves.png", "environment.json", "last.ckpt", "log.csv"]
    names += ["report.html", "step-00000011.ckpt", "step-00000022.ckpt"]
    assert sorted(p.name for p in run.iterdir()) == names
    assert "best.ckpt" in trained.stdout.splitlines()[-1]

    before = tree(run)
    again = run_cli("train.py", *common)
    assert_one_line(again, "last.ckpt", "train.resume=true", "another run_dir")
    assert tree(run) == before

    longer = (*common, "resume=true", "optim.epochs=3")
    assert_one_line(run_cli("train.py", *longer), "optim.epochs: 2 -> 3", "train.allow_changes=true")
    resumed = run_cli("train.py", *longer, "train.allow_changes=true")
    assert resumed.code == 0, resumed.stderr
    assert "2 epochs done" in resumed.stdout
    assert "epoch 3/3" in resumed.stdout
    assert "epoch 2/3" not in resumed.stdout

    evaluated = run_cli("eval.py", "--config", run / "config.yaml", "--checkpoint", run / "best.ckpt")
    assert evaluated.code == 0, evaluated.stderr
    best = float(resumed.stdout.splitlines()[-1].split("best top-1 ")[1].split(" %")[0])
    top1 = float(evaluated.stdout.split("top-1 ")[1].split(" %")[0])
    assert abs(best - top1) < 0.6  # two images: threads sum in different orders
    assert re.search(r"  355 images  \d+ img/s$", evaluated.stdout.splitlines()[-1])
    assert "top-5" in evaluated.stdout

    output = run / "net.mindir"
    exported = run_cli(
        *("export.py", "--config", run / "config.yaml", "--checkpoint", run / "best.ckpt"),
        *("--format", "mindir", "--output", output, "--batch", "dynamic"),
    )
    assert exported.code == 0, exported.stderr
    assert "batch 1: largest difference" in exported.stdout
    assert "batch 3: largest difference" in exported.stdout
    assert ms.load(str(output)) is not None

    (run / "report.html").unlink()
    reported = run_cli("scripts/report.py", run)
    assert (reported.code, reported.stdout) == (0, f"written: {run / 'report.html'}\n"), reported.stderr
    assert "3 epochs, 33 steps" in (run / "report.html").read_text()


def test_mistakes_are_one_line_in_a_real_process(run_cli, tmp_path):
    """A selection in subprocesses; the same errors and more are checked in-process below."""
    run_dir = f"run_dir={run_cli.run_dir}"
    assert_one_line(run_cli("train.py", "--config", "configs/none.yaml"), "configs/none.yaml does not exist")
    assert_one_line(run_cli("train.py", "--config", DIGITS, run_dir, "optim.lrr=1"), "'optim.lr'")
    assert_one_line(run_cli("train.py"), "--config")
    assert_one_line(run_cli("train.py", "--config", DIGITS, run_dir, "runtime.device=Ascend"), "Ascend")
    assert_one_line(run_cli("train.py", "--config", DIGITS, run_dir, "model.name=resnet_digit"), "'resnet_digits'")

    output = tmp_path / "net.air"
    air = run_cli("export.py", "--model", "resnet26", "--format", "air", "--output", output)
    assert_one_line(air, "Ascend host")
    assert air.stdout == ""
    assert not output.exists()

    damaged = tmp_path / "damaged.ckpt"
    checkpoint.save(damaged, TinyNet().parameters_dict())
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert_one_line(run_cli("eval.py", "--config", DIGITS, "--checkpoint", damaged), str(damaged), "truncated")


def test_unreadable_image_stops_a_real_run_with_its_name(run_cli, tmp_path):
    images = make_images(tmp_path / "images")
    broken = images / "val" / "dog" / "0.png"
    broken.write_bytes(b"no image")
    result = run_cli(
        *("train.py", "--config", DIGITS, f"run_dir={run_cli.run_dir}", "optim.epochs=1"),
        *("data.name=imagefolder", f"data.path={images}", "data.batch_size=4"),
        "data.on_error=fail",
    )
    assert_one_line(result, str(broken))


def test_failed_verification_exits_with_3(call, tmp_path, capsys):
    output = tmp_path / "net.mindir"
    assert call("export", "--model", "restless", "--image-size", 8, "--format", "mindir", "--output", output) == 3
    captured = capsys.readouterr()
    assert "random" in captured.out, "exporting random weights is said"
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_checkpoint(tmp_path):
    path = tmp_path / "tiny.ckpt"
    checkpoint.save(path, TinyNet(10).parameters_dict(), meta={"model": "tiny_net", "num_classes": 10})
    return path


def wrong(call, *args):
    with pytest.raises(UserError) as raised:
        call(*args)
    return str(raised.value)


def test_train_mistakes(call, tmp_path, monkeypatch):
    run = tmp_path / "run"
    base = ("train", "--config", DIGITS, f"run_dir={run}", "model.name=tiny_net", "optim.epochs=1")
    assert "none does not exist" in wrong(call, "train", "--config", "none")
    assert "unrecognized arguments: --confg" in wrong(call, *base, "--confg=x")
    assert "no such folder" in wrong(call, *base, "data.name=imagefolder", f"data.path={tmp_path / 'none'}")
    assert "'tiny_net'" in wrong(call, *base, "model.name=tiny_nett")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorboardX", None)
        assert "pip install tensorboardX" in wrong(call, *base, "train.events=true", f"run_dir={tmp_path / 'new'}")
        assert not (tmp_path / "new").exists()
    seven = wrong(call, *base, "model.num_classes=7")
    assert "model.num_classes=7, but the data have 10 classes: leave model.num_classes out" in seven
    assert "data.name=digits: its pixels have no classes; give ade20k" in wrong(call, *base, "task=segmentation")
    assert "bf16" in wrong(call, *base, "train.precision=bf16")
    assert "none.ckpt does not exist" in wrong(call, *base, "model.init_checkpoint=none.ckpt")
    assert "runtime.device=GPU" in wrong(call, *base, "runtime.device=GPU")
    (tmp_path / "file").write_text("kept")
    assert "cannot write" in wrong(call, *base, f"run_dir={tmp_path / 'file' / 'run'}")
    assert (tmp_path / "file").read_text() == "kept"
    assert not list(run.glob("*.ckpt"))


def test_a_run_dir_on_a_read_only_file_system_is_named(call):
    if not Path("/proc").is_dir():
        pytest.skip("/proc is not here")
    assert "run_dir=/proc/run: cannot write" in wrong(call, "train", "--config", DIGITS, "run_dir=/proc/run")


def test_training_starts_from_given_weights(call, tmp_path, tiny_checkpoint):
    run = tmp_path / "run"
    # a rate of almost nothing: what is saved is what was given
    call("train", "--config", DIGITS, f"run_dir={run}", "model.name=tiny_net", "optim.epochs=2", "optim.lr=1e-12",
         "data.batch_size=512", "optim.weight_decay=0", f"model.init_checkpoint={tiny_checkpoint}")  # fmt: skip
    given, saved = checkpoint.read(tiny_checkpoint).weights, checkpoint.read(run / "last.ckpt").weights
    assert np.allclose(given["fc.weight"], saved["fc.weight"], atol=1e-6)


def test_fine_tuning_to_other_classes_and_resuming_it(call, tmp_path, tiny_checkpoint, capsys):
    images, run, given = make_images(tmp_path / "images", classes=("a", "b", "c")), tmp_path / "run", tiny_checkpoint
    base = ("train", "--config", DIGITS, f"run_dir={run}", "model.name=tiny_net",
            "data.name=imagefolder", f"data.path={images}", "data.batch_size=6", "model.frozen_stages=1",
            "optim.layer_decay=0.5", f"model.init_checkpoint={given}", "train.allow_changes=true")  # fmt: skip
    call(*base, "optim.epochs=1", "train.resume=true")  # there is nothing to resume yet
    said = capsys.readouterr().out
    assert f"classifier has 10 classes in {given}, 3 here: drawn anew\n" in said
    assert "frozen: the stem and 1 of 1 stages" in said
    before, after = checkpoint.read(given).weights, checkpoint.read(run / "last.ckpt").weights
    assert after["fc.weight"].shape == (3, 2048)
    assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("body."))
    assert not np.array_equal(before["rate1"], after["rate1"])

    given.unlink()
    assert "tiny.ckpt does not exist" in wrong(call, *base, f"run_dir={tmp_path / 'other'}")
    capsys.readouterr()
    call(*base, "optim.epochs=2", "train.resume=true")
    said = capsys.readouterr().out
    assert "1 epochs done" in said
    assert "drawn anew" not in said
    assert checkpoint.read(run / "last.ckpt").meta["epoch"] == 2

    scratch = (*base, f"run_dir={tmp_path / 'new'}", "model.init_checkpoint=null")
    assert "the last stage of TinyNet is 1, give 0 to 1" in wrong(call, *scratch, "model.frozen_stages=5")
    assert "model.frozen_stages=-7: must be >= -1" in wrong(call, *scratch, "model.frozen_stages=-7")


def test_in_a_group_only_rank_0_reads_what_all_start_from(monkeypatch, tmp_path):
    cfg = config.from_dict({"run_dir": str(tmp_path), "model": {"init_checkpoint": "only/there.ckpt"}})
    assert _initial(cfg) == {"init_checkpoint": "only/there.ckpt"}
    monkeypatch.setattr(runtime, "leads", lambda: False)
    assert _initial(cfg) == {}


@pytest.mark.slow
def test_fine_tuning_with_larger_images_in_a_real_process(run_cli, tmp_path):
    """From weights for 10 classes and 32x32 to a folder of 3 classes at 64x64; then eval.py reads what was written."""
    source, images = tmp_path / "pvt.ckpt", make_images(tmp_path / "images", classes=("a", "b", "c"))
    checkpoint.save(source, create_model("acmix_pvt_tiny", num_classes=10, image_size=32).parameters_dict())
    run = run_cli.run_dir
    result = run_cli(
        *("train.py", "--config", DIGITS, f"run_dir={run}", "model.name=acmix_pvt_tiny"),
        *("data.name=imagefolder", f"data.path={images}", "data.batch_size=4", "data.image_size=64"),
        *("optim.name=adamw", "optim.epochs=1", "optim.lr=1e-4", "optim.min_lr=0", "optim.layer_decay=0.75"),
        *("model.frozen_stages=2", "model.kwargs.image_size=64", f"model.init_checkpoint={source}"),
        *("runtime.mode=pynative", "optim.warmup_epochs=0"),
    )
    assert result.code == 0, result.stderr
    assert f"classifier has 10 classes in {source}, 3 here: drawn anew" in result.stdout
    resized = f"4 position tables of {source} resized (bicubic), first pos_embed1: 8x8 -> 16x16"
    assert resized in result.stdout
    assert "frozen: the stem and 2 of 4 stages" in result.stdout
    given, saved = checkpoint.read(source).weights, checkpoint.read(run / "last.ckpt").weights
    assert saved["pos_embed1"].shape == (1, 256, 64)
    assert np.array_equal(saved["block2.0.mlp.fc1.weight"], given["block2.0.mlp.fc1.weight"])
    assert not np.array_equal(saved["block3.0.mlp.fc1.weight"], given["block3.0.mlp.fc1.weight"])
    evaluated = run_cli("eval.py", "--config", run / "config.yaml", "--checkpoint", run / "best.ckpt")
    assert evaluated.code == 0, evaluated.stderr
    assert "9 images" in evaluated.stdout


def test_evaluation_by_class(call, tmp_path, tiny_checkpoint, capsys):
    output = tmp_path / "new folder" / "scores.json"
    base = ("eval", "--config", DIGITS, "model.name=tiny_net", "--checkpoint", tiny_checkpoint)
    call(*base, "--per-class", "--output", output)
    lines = capsys.readouterr().out.splitlines()
    scores = json.loads(output.read_text())
    assert f"top-1 {scores['top1']:.2f} %" in lines[-12]
    assert lines[-11].split()[:2] == ["class", "images"]
    for line, found in zip(lines[-10:], scores["classes"]):
        assert line.split()[:3] == [found["name"], str(found["images"]), f"{found['top1']:.2f}"]
    assert scores["checkpoint"] == str(tiny_checkpoint)
    call(*base)
    assert "class" not in capsys.readouterr().out
    assert "is a folder" in wrong(call, *base, "--output", tmp_path)


def test_evaluation_takes_its_configuration_from_the_file(call, tmp_path, tiny_checkpoint, capsys):
    """A checkpoint's own configuration, the recipe of its model, or the description beside an exported file."""
    knowing, net = tmp_path / "knowing.ckpt", TinyNet(10)
    cfg = config.from_dict({"model": {"name": "tiny_net"}, "data": {"batch_size": 100}})
    checkpoint.save(knowing, net.parameters_dict(), meta={"num_classes": 10, "config": config.to_yaml(cfg)})
    converted, file = tmp_path / "converted.ckpt", tmp_path / "net.mindir"
    checkpoint.save(converted, net.parameters_dict(), meta={"model": "tiny_net", "num_classes": 10})
    call("export", "--checkpoint", knowing, "--format", "mindir", "--batch", 50, "--output", file)
    digits = ("data.name=digits", "data.image_size=32")

    def score(*args):
        output = tmp_path / "scores.json"
        call("eval", "--output", output, "--checkpoint", *args)
        return json.loads(output.read_text())

    expected = score(knowing, "--config", DIGITS, "model.name=tiny_net")
    for args in ((knowing,), (converted, *digits), (file, "data.name=digits")):
        found = score(*args)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert [found[key] for key in ("top1", "count")] == [expected[key] for key in ("top1", "count")]

    # What the file says is where it starts; overrides come after it.
    images = ("data.name=imagefolder", f"data.path={make_images(tmp_path / 'images')}")
    assert "has 10 classes, the model 2" in wrong(call, "eval", "--checkpoint", knowing, *images)
    assert "model.num_classes=10, but the data have 2" in wrong(call, "eval", "--checkpoint", converted, *images)
    assert "gives 10 classes, the data have 2" in wrong(call, "eval", "--checkpoint", file, *images)
    assert "takes images of 32x32" in wrong(call, "eval", "--checkpoint", file, "data.image_size=24", digits[0])
    assert "'optim.lr'" in wrong(call, "eval", "--checkpoint", knowing, "optim.lrr=1")
    assert "not both" in wrong(call, "eval", "--checkpoint", knowing, "--config", DIGITS, "--model", "tiny_net")
    Path(f"{file}.json").unlink()
    assert f"{file}.json, which export.py writes" in wrong(call, "eval", "--checkpoint", file, digits[0])
    bare = tmp_path / "bare.ckpt"
    checkpoint.save(bare, net.parameters_dict())
    assert "does not say of which model it is" in wrong(call, "eval", "--checkpoint", bare)


def test_the_pictures_of_an_exported_file_are_prepared_as_its_description_says(tmp_path):
    prepare = Preprocess(resize=250, crop=200, interpolation="bicubic")
    about = Description("resnet50", 37, prepare, format="onnx", input_shape=(1, 3, 200, 200))
    about.write(tmp_path / "net.onnx")
    cfg = build.config_of_export(str(tmp_path / "net.onnx"))
    assert preprocess_of(cfg.data) == prepare
    assert (cfg.data.name, cfg.model.num_classes) == ("imagefolder", None)
    assert build.config_of_export(str(tmp_path / "net.onnx"), ["data.image_size=100"]).data.image_size == 100


@pytest.mark.parametrize("batch", [50, "dynamic"])
def test_a_mindir_scores_as_its_checkpoint(call, tmp_path, tiny_checkpoint, batch):
    """The file has a batch of its own, whatever data.batch_size says."""
    file = tmp_path / "tiny.mindir"
    call("export", "--model", "tiny_net", "--image-size", 32, "--checkpoint", tiny_checkpoint, "--format", "mindir",
         "--batch", batch, "--output", file)  # fmt: skip
    found = []
    for path in (tiny_checkpoint, file):
        output = tmp_path / f"{path.suffix}.json"
        call("eval", "--config", DIGITS, "model.name=tiny_net", "--checkpoint", path, "--output", output)
        found.append(json.loads(output.read_text()))
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-4)
    for key in ("top1", "top5", "count", "classes"):
        assert found[1][key] == found[0][key]

    base = ("eval", "--config", DIGITS, "--checkpoint", file)
    size = wrong(call, *base, "data.image_size=24")
    assert "takes images of 32x32 pixels, but data.image_size=24: give data.image_size=32" in size
    assert "--image-size 24" in size
    images = make_images(tmp_path / "images")
    two = wrong(call, *base, "data.name=imagefolder", f"data.path={images}")
    assert "gives 10 classes, the data have 2" in two
    file.write_bytes(b"text" * 100)
    assert "their sha256 differ" in wrong(call, *base)
    Path(f"{file}.json").unlink()
    assert "cannot be loaded as MINDIR" in wrong(call, *base)


def test_eval_mistakes(call, tmp_path, tiny_checkpoint):
    base = ("eval", "--config", DIGITS, "model.name=tiny_net")
    assert "does not exist" in wrong(call, *base, "--checkpoint", tmp_path / "none.ckpt")
    assert "is a folder" in wrong(call, *base, "--checkpoint", tmp_path)
    assert "--checkpoint" in wrong(call, *base)
    (tmp_path / "foreign.ckpt").write_text("text" * 100)
    assert "is not a checkpoint" in wrong(call, *base, "--checkpoint", tmp_path / "foreign.ckpt")
    other = wrong(call, "eval", "--config", DIGITS, "--checkpoint", tiny_checkpoint)
    assert "tiny_net" in other
    assert "another architecture" in other
    images = make_images(tmp_path / "images")
    two = wrong(call, *base, "data.name=imagefolder", f"data.path={images}",
                "--checkpoint", tiny_checkpoint)  # fmt: skip
    assert "has 10 classes, the model 2" in two
    shutil.rmtree(images / "val" / "dog")
    (images / "val" / "dog").mkdir()
    empty = wrong(call, *base, "data.name=imagefolder", f"data.path={images}", "--checkpoint", tiny_checkpoint)
    assert str(images / "val" / "dog") in empty


def test_export_mistakes(call, tmp_path, tiny_checkpoint):
    output = tmp_path / "out" / "net.mindir"
    base = ("export", "--model", "tiny_net", "--image-size", 32, "--output", output)
    mindir = (*base, "--format", "mindir")
    assert "--format onxx: did you mean 'onnx'" in wrong(call, *base, "--format", "onxx")
    assert "either --config FILE or --model NAME" in wrong(call, "export", "--format", "mindir")
    assert "either" in wrong(call, *mindir, "--config", DIGITS)
    assert "--batch" in wrong(call, *mindir, "--batch", "0")
    assert "--image-size" in wrong(call, *mindir, "--image-size", "-3")
    assert "does not exist" in wrong(call, *mindir, "--checkpoint", tmp_path / "none.ckpt")
    assert "has 10 classes, the model 7" in wrong(call, *mindir, "--checkpoint", tiny_checkpoint, "--num-classes", 7)
    assert "'tiny_net'" in wrong(call, *mindir, "--model", "tiny_nett")
    assert not output.exists()
    call(*mindir, "--checkpoint", tiny_checkpoint)
    before = output.read_bytes()
    assert "exists already" in wrong(call, *mindir, "--checkpoint", tiny_checkpoint)
    assert output.read_bytes() == before
    call(*mindir, "--checkpoint", tiny_checkpoint, "--force")


@pytest.mark.slow
def test_quickstart_beside_an_earlier_run(tmp_path):
    """One epoch is far from the target, which the exit code must say; everything else must be there all the same."""
    earlier, oldest = tmp_path / "runs" / "quickstart", tmp_path / "runs" / "quickstart.previous"
    for folder in (earlier, oldest):
        folder.mkdir(parents=True)
        (folder / "last.ckpt").write_text(folder.name)
    command = [sys.executable, str(ROOT / "scripts" / "quickstart.py"), "optim.epochs=1", "data.batch_size=128"]
    # in a folder of its own: it writes to runs/ in the working directory
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stderr
    assert "is below 97 %" in done.stderr
    assert "the earlier run is now in" in done.stdout
    assert (oldest / "last.ckpt").read_text() == "quickstart"
    summary = json.loads((earlier / "summary.json").read_text())
    assert {"top1", "params", "train_seconds", "export_max_difference"} <= summary.keys()
    assert 0 < summary["top1"] < 97
    assert summary["export_max_difference"] < 1e-4
    said = done.stdout.partition("[5/5] summary")[2]
    for name in (
        "best.ckpt",
        "last.ckpt",
        "acmix_resnet_digits.mindir",
        "curves.png",
        "report.html",
        "rates.png",
        "summary.json",
    ):
        assert (earlier / name).stat().st_size > 0
        assert str(Path("runs") / "quickstart" / name) in said
