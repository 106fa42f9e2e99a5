"""The protocol of measurements, on made-up seconds, and the command. No test looks at how fast anything is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from acmix_ms import runtime
from acmix_ms.errors import UserError
from benchmarks import command, files, runs, targets
from benchmarks.protocol import GEMM, Measured, Spec, Timing, environment, interleave, ratios
from benchmarks.report import FILES, Report
from benchmarks.session import Session, Settings
from benchmarks.worker import WorkerError
from tests.helpers.refusals import refusal
from tests.helpers.tiny import official_clone

ROOT = Path(__file__).resolve().parents[2]
OFFICIAL, OURS = Spec("acmix_resnet50", source="official"), Spec("acmix_resnet50")
SETTINGS = Settings("CPU", 1, "fp32", warmup=1, repetitions=2)


# ------------------------------------------------------------------------------------------------ made-up seconds
def test_turns_alternate_and_a_turn_is_the_median_of_its_steps():
    order = []

    def runner(name, seconds):
        def run(count):
            order.append((name, count))
            return [seconds] * (count - 1) + [seconds * 1.5]

        return run

    runners = {"a": runner("a", 2.0), "b": runner("b", 0.1)}
    timings, failed = interleave(runners, warmup=2, repetitions=3, pause=0)
    assert failed == {}
    # 0.15 s was the last step of b's warm-up: three fit into half a second
    assert order == [("a", 2), ("b", 2)] + [("a", 1), ("b", 3)] * 3
    assert timings["a"].turns == (3.0, 3.0, 3.0)
    assert timings["b"].turns == (0.1, 0.1, 0.1)


def test_one_that_fails_ends_alone():
    def dies(count):
        raise WorkerError("b: out of memory")

    said = []
    runners = {"a": lambda count: [1.0] * count, "b": dies}
    timings, failed = interleave(runners, warmup=1, repetitions=2, failures=(WorkerError,), report=said.append, pause=0)
    assert timings.keys() == {"a"}
    assert failed == {"b": "b: out of memory"}
    assert "failed: b: out of memory" in said


def test_timing_and_ratios():
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.summary() == {"median": 3.0, "min": 1.0, "lower": 2.0, "upper": 4.0, "max": 100.0}
    # a slow machine in the third turn slows both
    assert ratios(Timing((2.0, 2.0, 8.0)), Timing((1.0, 1.0, 4.0))) == (2.0, 2.0, 2.0)


def measured(spec, *turns, **more):
    return spec, Measured(spec, timing=Timing(turns) if turns else None, **more)


def row(name):
    return next(row for row in targets.ROWS if row.name == name)


def test_a_row_takes_the_best_form_turn_by_turn():
    deploy = dataclasses.replace(OURS, form="deploy")
    found = dict([measured(OFFICIAL, 20.0, 44.0, 21.0), measured(OURS, 3.0, 3.0, 3.0), measured(deploy, 1.0, 4.0, 2.0)])
    result = targets.evaluate(row("resnet50"), found)
    assert result.ours == deploy.label
    assert result.value == 11.0  # of 20, 11 and 10.5
    assert result.spread["min"] == 10.5
    assert result.met is True
    found = dict([measured(OFFICIAL, 9.0), measured(OURS, 1.0), measured(deploy, failure="no deploy form")])
    result = targets.evaluate(row("resnet50"), found)
    assert (result.value, result.met, result.ours) == (9.0, False, OURS.label)
    assert targets.evaluate(row("deploy-resnet50"), found).failure == "no deploy form"
    assert targets.evaluate(row("deploy-resnet50"), found).met is None


def test_memory_cost_growth_and_share():
    line = row("resnet50-memory")
    found = dict([measured(line.against[0], 1.0, peak=1000), measured(line.ours[0], 9.0, peak=400)])
    found.update([measured(line.ours[1], 1.0, peak=600)])
    assert targets.evaluate(line, found).value == 0.4
    assert targets.evaluate(line, found).met is True

    line = row("family-san10")
    assert line.reference == 1.0
    assert row("family-resnet50").reference == 3.6 / 4.1
    found = dict([measured(line.against[0], 2.0), measured(line.ours[0], 3.0)])
    assert targets.evaluate(line, found).value == 1.5
    assert targets.evaluate(line, found).met is False

    line = row("growth-swin-896")
    assert (line.ours[0].image_size, line.against[0].image_size, line.reference) == (896, 224, 16)
    found = dict([measured(line.against[0], 1.0), measured(line.ours[0], 16.8)])
    assert targets.evaluate(line, found).value == pytest.approx(1.05)

    line = row("share")
    # 40 of 100 GFLOP/s
    found = dict([measured(GEMM, 2.0, flops=200e9), measured(line.ours[0], 5.0, macs=100_000_000_000)])
    assert targets.evaluate(line, found).value == pytest.approx(0.4)


def test_a_train_step_is_three_forward_passes_and_ratios_of_the_product():
    one = Measured(Spec("x", "train"), Timing((2.0,)), macs=3_000_000_000, gemm=10.0)
    assert one.spec.steps_of_forward == 3
    assert one.gflops == 3.0
    assert one.share == 0.3
    assert Measured(Spec("x")).gflops is None


def test_rows_share_sessions_and_are_chosen_by_either_name():
    assert [line.name for line in targets.select(["resnet50"])] == ["resnet50", "resnet50-compiled", "deploy-resnet50"]
    assert [line.name for line in targets.select(["share"])] == ["share"]
    assert targets.select(None) == targets.ROWS
    plans = targets.sessions(targets.select(["swin", "mindcv"]))
    assert [spec.source for spec in plans["swin"]] == ["official", "compiled", "ours", "ours", "gemm"]
    assert len({line.name for line in targets.ROWS}) == len(targets.ROWS)
    smaller = targets.resized(row("growth-swin-448"), 2, 64)
    assert [(spec.batch, spec.image_size) for spec in smaller.specs] == [(2, 64), (2, 128)]
    assert targets.resized(row("share"), 2, 64).against == (GEMM,)


def test_the_report_says_what_was_found_and_what_was_not(tmp_path):
    report = Report(tmp_path, environment(threads=2, precision="fp32"), {"warmup": 1, "repetitions": 2})
    found = dict(
        [measured(OFFICIAL, 2.0, 2.2, versions={"PyTorch": "2.13.0"}), measured(OURS, 0.1, 0.2, peak=5_000_000)]
    )
    found.update([measured(dataclasses.replace(OURS, form="deploy"), failure="deploy: no such form")])
    report.add("resnet50", found, [targets.evaluate(line, found) for line in targets.select(["resnet50"])])
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert {"date", "cpu", "cores", "threads", "precision", "versions", "device"} <= written["environment"].keys()
    assert written["environment"]["versions"]["PyTorch"] == "2.13.0"
    assert [line["met"] for line in written["rows"]] == [True, None, None]
    assert written["measurements"][1]["images_per_second"] == pytest.approx(4 / 0.15)
    text = (tmp_path / "benchmark.md").read_text()
    for part in (">= 10x", "15.50x", "not measured", "* deploy: no such form", "PyTorch 2.13.0", "| 5 |"):
        assert part in text, part
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert "15.50x" in report.text()


# ------------------------------------------------------------------------------------------------------ the command
@pytest.mark.slow  # five processes that load MindSpore
def test_models_are_measured_and_written(run_cli, tmp_path):
    folder = tmp_path / "found"
    modes = ("--mode", "infer", "mindir-unfused", "mindir")
    command = ("scripts/benchmark.py", "--model", "acmix_resnet_digits", *modes, "--device", "CPU", "--image-size", 32,
               "--batch", 2, "--warmup", 1, "--repetitions", 2, "--output", folder)  # fmt: skip
    done = run_cli(*command)
    assert done.code == 0, done.stderr
    assert "turn 2 of 2" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    written = json.loads((folder / "benchmark.json").read_text())
    infer, unfused, mindir, product = written["measurements"]
    assert (infer["form"], unfused["form"], product["source"]) == ("infer", "mindir-unfused", "gemm")
    assert unfused["difference"] < 1e-5
    assert infer["macs"] == count_of_digits() * 2
    assert mindir["difference"] < 1e-5
    for one in (infer, unfused, mindir):
        assert len(one["turns"]) == 2
        assert one["images_per_second"] > 0
        assert one["peak_bytes"] > 0
        assert 0 < one["gemm_share"]
    assert written["environment"]["device"] == "CPU"
    assert "MindSpore" in written["environment"]["versions"]
    assert "acmix_resnet_digits (ours, mindir, 2x32x32)" in (folder / "benchmark.md").read_text()

    again = run_cli(*command)
    assert again.code == 2
    assert "--force" in again.stderr


def onnx_of(path, shape, batch=2):
    """An ONNX file that takes images of this shape."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    given = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, (batch, *shape))
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (batch, shape[0], 1, 1))
    node = onnx.helper.make_node("GlobalAveragePool", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "mean", [given], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.slow  # three processes that load MindSpore, and the command's own
def test_files_are_measured_at_their_own_size(run_cli, tmp_path):
    from acmix_ms.deploy import mindir
    from models import create_model

    path, folder = tmp_path / "net.mindir", tmp_path / "found"
    net = create_model("resnet_digits", num_classes=10).set_train(False)
    mindir.write(net, path, (2, 3, 32, 32))
    wide = onnx_of(tmp_path / "wide.onnx", (3, 32, 48))
    done = run_cli("scripts/benchmark.py", "--file", path, wide, "--warmup", 1, "--repetitions", 2, "--device", "CPU",
                   "--output", folder)  # fmt: skip
    assert done.code == 0, done.stderr
    file, other, product = json.loads((folder / "benchmark.json").read_text())["measurements"]
    assert (file["source"], file["form"], file["batch"], file["image_size"]) == ("file", "mindir", 2, 32)
    assert (other["source"], other["form"], other["batch"], other["image_size"]) == ("file", "onnx", 2, [32, 48])
    for one in (file, other):
        assert one["images_per_second"] > 0
        assert one["device"] == "CPU"
    assert product["source"] == "gemm"
    assert "(file, onnx, 2x32x48)" in (folder / "benchmark.md").read_text()
    assert "takes batches of 2" in wrong("--file", path, "--batch", 3)
    if not runtime.available("Ascend"):
        assert "--device Ascend: MindSpore finds none here" in wrong("--file", path, "--device", "Ascend")


def test_files_say_what_they_take(tmp_path, monkeypatch):
    from acmix_ms.deploy import lite

    path = onnx_of(tmp_path / "x.onnx", (3, 32, 48), "batch")
    (spec,) = files.specs([str(path), str(path)], None, "auto")
    assert (spec.form, spec.source, spec.shape) == ("onnx", "file", (4, 3, 32, 48))
    assert files.specs([str(path)], 7, "CPU")[0].batch == 7
    assert "takes 1 channels" in wrong("--file", onnx_of(tmp_path / "grey.onnx", (1, 8, 8)))
    assert "takes 2x3x8, not images" in wrong("--file", onnx_of(tmp_path / "flat.onnx", (3, 8)))
    monkeypatch.setattr(runtime, "available", lambda device: True)
    assert "x.onnx is run on CPU" in wrong("--file", path, "--device", "Ascend")
    assert "--file x.txt: unknown ending '.txt'" in wrong("--file", "x.txt")

    class Lite:
        def input_shape(self, path):
            return 8, 3, None, None

    monkeypatch.setattr(lite, "find", Lite)
    (spec,) = files.specs(["x.ms"], None, "auto")
    assert (spec.form, spec.shape) == ("ms", (8, 3, 224, 224))


def test_table5_measures_each_pair_from_files_at_the_papers_size(tmp_path, monkeypatch):
    asked = []

    class Fake(Session):
        def measure(self, specs, macs=None):
            asked.extend(specs)
            seconds = {("retinanet_acmix_pvt_tiny", "mindir"): 0.02, ("retinanet_pvt_small", "mindir"): 0.03}
            return dict(measured(spec, *([seconds[key]] if (key := (spec.model, spec.form)) in seconds else []))
                        for spec in specs)  # fmt: skip

    monkeypatch.setattr(runs, "Session", Fake)
    monkeypatch.setattr(runs, "count_macs", lambda specs, settings: dict.fromkeys(specs, 1))
    assert command.main(["--table5", "--output", str(tmp_path)]) == 0
    ours = [spec for spec in asked if spec.source == "ours"]
    pairs = [f"retinanet_{name}" for name in ("acmix_pvt_tiny", "pvt_small", "acmix_pvt_small", "pvt_large")]
    assert [spec.model for spec in ours] == [*pairs[:2] * 2, *pairs[2:] * 2]
    assert {(spec.form, spec.batch, spec.image_size) for spec in ours} == {("mindir", 1, 576), ("mindir-raw", 1, 576)}
    rows = next(iter(json.loads((tmp_path / "benchmark.json").read_text())["tables"].values()))
    assert [row["up to"] for row in rows] == ["detections", "maps"] * 2
    assert (rows[0]["ratio"], rows[0]["paper: ratio"], rows[0]["paper: FPS"]) == ("1.50", "1.35", "67.7 : 50.3")
    assert (rows[1]["ratio"], rows[3]["plain"]) == ("-", "retinanet_pvt_large")  # no seconds: it failed


def test_table2_measures_each_pair_in_both_sizes(tmp_path, monkeypatch):
    sessions = []

    class Fake(Session):
        def measure(self, specs, macs=None):
            sessions.append([spec for spec in specs if spec.source == "ours"])
            return dict(measured(spec, *([0.02 if "acmix" in spec.model else 0.03] if "tiny" in spec.model else []))
                        for spec in specs)  # fmt: skip

    monkeypatch.setattr(runs, "Session", Fake)
    monkeypatch.setattr(
        runs, "count_macs", lambda specs, settings: {spec: 3 if "acmix" in spec.model else 2 for spec in specs}
    )
    assert command.main(["--table2", "--output", str(tmp_path)]) == 0
    assert len(sessions) == 8 and {spec.form for specs in sessions for spec in specs} == {"mindir"}
    for specs in sessions:
        ours, plain = specs
        assert ours.model.replace("acmix_", "") == plain.model and ours.shape == plain.shape
    assert [specs[0].shape for specs in sessions[:2]] == [(1, 3, 512, 512), (1, 3, 512, 2048)]
    rows = next(iter(json.loads((tmp_path / "benchmark.json").read_text())["tables"].values()))
    assert len(rows) == 8 and rows[0]["ratio"] == "1.50" and rows[0]["multiply-adds: ratio"] == "1.50"
    assert (rows[1]["size"], rows[1]["paper: G multiply-adds"]) == ("512x2048", "160 : 158")
    assert rows[2]["ratio"] == "-" and rows[7]["plain"] == "upernet_swin_small"
    assert command.main(["--table2", "--image-size", "64", "--output", str(tmp_path), "--force"]) == 0
    assert [specs[0].shape for specs in sessions[8:]] == [(1, 3, 64, 64)] * 4


def count_of_digits():
    from acmix_ms.analysis.complexity import complexity
    from models import create_model

    return complexity(create_model("acmix_resnet_digits"), (1, 3, 32, 32)).macs()


def test_an_unknown_model_is_one_line(run_cli, tmp_path):
    done = run_cli("scripts/benchmark.py", "--model", "acmix_resnet51", "--output", tmp_path / "o")
    assert done.code == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "did you mean 'acmix_resnet50'" in done.stderr


def test_an_absent_device_is_one_line(run_cli, tmp_path):
    if runtime.available("Ascend"):
        pytest.skip("this machine has an Ascend")
    done = run_cli("scripts/benchmark.py", "--table7", "--device", "Ascend", "--output", tmp_path / "o")
    assert done.code == 2
    assert done.stderr.count("\n") == 1
    assert "--device Ascend: MindSpore finds none here" in done.stderr


def wrong(*args):
    return refusal(command.main, [str(arg) for arg in args])


def test_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ("--model", "resnet26")
    assert "--model NAME, --table7" in wrong()
    assert "--model NAME, --table7" in wrong(*model, "--table7")
    assert "--mode trian: did you mean 'train'?" in wrong(*model, "--mode", "trian")
    assert "--mode train: goes with --model" in wrong("--rows", "resnet50", "--mode", "train")
    assert "--mode infer train: goes with" in wrong("--table7", "--mode", "infer", "train")
    assert "files are exported as fp32" in wrong(*model, "--mode", "mindir", "--precision", "fp16")
    assert "nowhere.mindir does not exist" in wrong("--file", tmp_path / "nowhere.mindir")
    assert "leave out --image-size" in wrong("--file", "x.mindir", "--image-size", 64)
    assert "--batch" in wrong(*model, "--batch", 0)
    assert "--repetitions" in wrong(*model, "--repetitions", "many")
    assert "--image-size 16: give at least 32" in wrong(*model, "--image-size", 16)
    assert "--threads 4096: this process may use" in wrong(*model, "--threads", 4096)
    assert "--device TPU" in wrong(*model, "--device", "TPU")
    assert "--rows resnet5: did you mean 'resnet50'" in wrong("--rows", "resnet5")
    assert "nowhere: there is no ResNet/ResNet_ImageNet.py" in wrong("--against", tmp_path / "nowhere")
    official = ("--against", official_clone(tmp_path / "clone"))
    assert "--model san10: the authors released no such code" in wrong(*official, "--model", "san10")
    assert "in fp32" in wrong(*official, "--precision", "fp16")
    assert "leave --against out" in wrong(*official, "--table7")
    assert "leave --against out" in wrong(*official, "--table5")
    (tmp_path / "torchless").mkdir()
    (tmp_path / "torchless" / "torch.py").write_text("raise ImportError('No module named torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "torchless"))
    absent = wrong(*official)
    assert "No module named torch" in absent
    assert "pip install torch" in absent
    assert "--official-python" in absent
    assert "cannot import PyTorch" in wrong(*official, "--official-python", tmp_path / "no-python")
    (tmp_path / "file").write_text("")
    assert "--output" in wrong(*model, "--output", tmp_path / "file")
    assert not (tmp_path / "runs").exists()


def test_rows_without_the_official_code_say_so(tmp_path, capsys):
    assert command.main(["--rows", "resnet26-train", "--output", str(tmp_path)]) == 0
    assert "resnet26-train: needs the official code: --against CLONE" in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark.json").read_text())["rows"][0]["met"] is None


def test_the_paper_prints_a_row_for_each_shift():
    assert [label for label, _ in runs.TABLE7.values()] == [row.label for row in targets_of_table7()]
    shifts = [dict(row.options).get("shift", "learned") for row in targets_of_table7()]
    assert list(runs.TABLE7) == shifts


def targets_of_table7():
    from acmix_ms.analysis.reported import TABLE7

    return TABLE7


def test_what_cannot_be_counted_is_a_mistake_of_the_model(monkeypatch):
    def refuse(specs, settings):
        raise WorkerError("counting multiply-adds: the process ended")

    monkeypatch.setattr(runs, "count_macs", refuse)
    with pytest.raises(UserError, match="counting"):
        runs.count([OURS], SETTINGS)


def test_a_prediction_is_printed_and_written_as_one(tmp_path, capsys):
    arguments = ["--predict", "ascend910", "--model", "acmix_resnet_digits", "--image-size", "32", "--batch", "2"]
    assert command.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "prediction" in capsys.readouterr().out
    assert "prediction" in (tmp_path / "out" / "predicted.txt").read_text()
    assert "predicted_fps" in (tmp_path / "out" / "predicted.json").read_text()


def test_models_for_digits_are_measured_and_predicted_at_their_own_size(tmp_path, monkeypatch, capsys):
    assert (runs.own_size("acmix_swin_digits"), runs.own_size("acmix_swin_tiny")) == (32, 224)
    asked = []

    class Fake(Session):
        def measure(self, specs, macs=None):
            asked.extend(specs)
            return dict(measured(spec, 1.0) for spec in specs)

    monkeypatch.setattr(runs, "Session", Fake)
    monkeypatch.setattr(runs, "count_macs", lambda specs, settings: dict.fromkeys(specs, 1))
    assert command.main(["--model", "resnet_digits", "resnet26", "--output", str(tmp_path / "a")]) == 0
    assert [spec.image_size for spec in asked if spec.source == "ours"] == [32, 224]
    assert command.main(["--predict", "ascend910", "--model", "resnet_digits", "--output", str(tmp_path / "b")]) == 0
    assert "images of 32x32" in capsys.readouterr().out
    mixed = wrong("--predict", "ascend910", "--model", "resnet_digits", "resnet26", "--output", tmp_path / "c")
    assert "resnet_digits takes 32x32 and resnet26 takes 224x224; give --image-size" in mixed
    assert not (tmp_path / "c").exists()


def test_predictions_that_cannot_be():
    assert "--predict measures nothing" in wrong("--predict", "ascend910", "--table7")
    assert "ascend910" in wrong("--predict", "ascend91")
    assert "did you mean 'resnet50'" in wrong("--predict", "ascend910", "--model", "resnet500")


def test_help_names_everything():
    done = subprocess.run([sys.executable, "scripts/benchmark.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for name in ("--model", "--mode", "--against", "--rows", "--table7", "--threads", "--precision"):
        assert name in done.stdout
