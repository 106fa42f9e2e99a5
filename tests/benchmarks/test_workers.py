"""The processes that measure for scripts/benchmark.py, and the session that runs them side by side."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from acmix_ms import runtime
from benchmarks.protocol import Spec
from benchmarks.session import Disagreement, Session, Settings
from benchmarks.worker import Worker, WorkerError
from tests.helpers.tiny import TinyNet, official_clone, register

WORKERS = Path(__file__).resolve().parents[2] / "benchmarks" / "workers"
SETTINGS = Settings("CPU", 1, "fp32", warmup=1, repetitions=2)


# -------------------------------------------------------------------------------------------------------- processes
def program(tmp_path, body):
    """A worker without any framework: ``body`` is inside of its Job."""
    path = tmp_path / "program.py"
    indented = "\n".join("    " + line for line in body.splitlines())
    path.write_text(
        f"import json, os, signal, sys\nsys.path.insert(0, {str(WORKERS)!r})\nimport numpy as np\n"
        "from serve import Job, Refusal, serve\nclass Mine(Job):\n    def output(self, path): pass\n"
        f"{indented}\nserve(Mine())\n"
    )
    return [sys.executable, str(path)]


FAKE = """
def build(self, **spec):
    print("frameworks print, and answers stay answers")
    self.spec = spec
    self.imported()
    if "save" in spec:
        open(spec["save"], "w").write(spec["model"])
    self.weights = open(spec.get("load", spec.get("save"))).read()
    if spec["form"] == "deploy":
        raise Refusal("there is no\\ndeploy form")
    return {"device": "CPU", "versions": {"Fake": "1"}}
def output(self, path):
    assert self.weights == self.spec["model"]
    assert np.load(self.spec["inputs"])["images"].shape == (4, 3, 8, 8)
    np.save(path, np.float32([1, 2, 3 + ERROR * (self.spec["source"] == "ours")]))
    return {}
def run(self, count):
    if self.spec["source"] == "compiled":
        print("Killed: no memory", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
    return super().run(count)
"""


class FakeSession(Session):
    """Every process is the fake program."""

    command: list[str]

    def worker(self, spec):
        return Worker(spec.label, self.command)


def fake_session(tmp_path, error, settings=SETTINGS):
    session = FakeSession(settings, report=lambda text: None)
    session.command = program(tmp_path, FAKE.replace("ERROR", str(error)))
    return session


SMALL = {source: Spec("net", source=source, image_size=8) for source in ("official", "compiled", "ours")}


def test_a_session_shares_weights_compares_and_survives_deaths(tmp_path):
    deploy = dataclasses.replace(SMALL["ours"], form="deploy")
    found = fake_session(tmp_path, 1e-5).measure([*SMALL.values(), deploy], {SMALL["ours"]: 1000})
    assert len(found[SMALL["official"]].timing.turns) == 2
    assert found[SMALL["ours"]].difference == pytest.approx(1e-5 / 3, rel=0.1)
    assert found[SMALL["ours"]].peak >= 0
    assert found[SMALL["ours"]].versions == {"Fake": "1"}
    assert found[SMALL["compiled"]].timing is None
    assert "SIGKILL" in found[SMALL["compiled"]].failure
    assert "memory runs out" in found[SMALL["compiled"]].failure
    assert "Killed: no memory" in found[SMALL["compiled"]].failure
    assert found[deploy].failure == f"{deploy.label}: there is no deploy form"


def test_outputs_that_differ_are_never_timed(tmp_path):
    with pytest.raises(Disagreement, match=r"net \(ours.*differs by 3.3.e-04.*allowed is 0.0001: nothing was timed"):
        fake_session(tmp_path, 1e-3).measure(list(SMALL.values()))
    with pytest.raises(Disagreement, match="nan"):
        fake_session(tmp_path, "float('nan')").measure(list(SMALL.values()))
    mixed = dataclasses.replace(SETTINGS, precision="mixed")
    assert fake_session(tmp_path, 1e-3, mixed).measure([SMALL["official"], SMALL["ours"]])[SMALL["ours"]].timing


def test_a_worker_that_dies_is_named_with_its_last_words(tmp_path):
    with Worker("swin", program(tmp_path, "def build(self):\n    raise ValueError('too small')")) as worker:
        with pytest.raises(WorkerError, match=r"swin: the process ended \(exit code 1\): ValueError: too small"):
            worker.ask("build")
        with pytest.raises(WorkerError, match="swin"):  # and it stays dead
            worker.run(1)
    with pytest.raises(WorkerError, match="none: /nowhere/python cannot be started"):
        Worker("none", ["/nowhere/python"])


def test_a_worker_leaves_when_it_is_closed(tmp_path):
    worker = Worker("idle", program(tmp_path, "def build(self):\n    return {'pid': os.getpid()}"))
    pid = worker.ask("build")["pid"]
    worker.close()
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("name", ["serve.py", "official.py"])
def test_the_official_side_loads_nothing_of_ours(name):
    tree = ast.parse((WORKERS / name).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {"mindspore", "acmix_ms", "models"} & {each.split(".")[0] for each in names}


def test_other_frameworks_do_not_get_what_cures_mindspore(monkeypatch):
    monkeypatch.setattr(runtime, "_added", {"ONEDNN_MAX_CPU_ISA"})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("KEPT", "1")
    given = runtime.foreign_environment()
    assert "ONEDNN_MAX_CPU_ISA" not in given
    assert given["KEPT"] == "1"


# ------------------------------------------------------------------------------------------------------ our process
@pytest.fixture
def ours(monkeypatch, tmp_path):
    """An `Ours` in this process, and the arguments that build a tiny net."""
    monkeypatch.syspath_prepend(str(WORKERS))
    register(monkeypatch)
    module = importlib.import_module("ours")
    runtime.start("CPU", mode="graph")
    job = module.Ours()
    job.device = "CPU"
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, images=np.ones((2, 3, 32, 32), np.float32), labels=np.array([3, 5]))
    return (
        module,
        job,
        {"source": "ours", "model": "tiny_net", "options": {}, "inputs": str(inputs), "precision": "fp32"},
    )


def test_a_train_step_is_the_trainers_and_moves_the_weights(ours, tmp_path):
    _, job, arguments = ours
    job.build_net(form="train", **arguments)
    job.output(str(tmp_path / "losses.npy"))
    first, second = np.load(tmp_path / "losses.npy")
    assert second < first
    assert len(job.run(2)["seconds"]) == 2


def test_weights_go_from_one_process_to_the_next(ours, tmp_path):
    _, job, arguments = ours
    outputs = []
    for exchange in ({"save": str(tmp_path / "w.ckpt")}, {"load": str(tmp_path / "w.ckpt")}):
        job.build_net(form="infer", **arguments, **exchange)
        job.output(str(tmp_path / "logits.npy"))
        outputs.append(np.load(tmp_path / "logits.npy"))
    assert np.array_equal(*outputs)
    assert outputs[0].shape == (2, 1000)


def test_the_deploy_form_is_fused(ours, monkeypatch):
    _, job, arguments = ours
    seen = []
    monkeypatch.setattr("acmix_ms.ops.fuse.fuse", lambda net: seen.append(net) or net)
    job.build_net(form="deploy", **arguments)
    assert isinstance(seen[0], TinyNet)
    assert [array.shape for array in job.step()] == [(2, 1000)]


def test_an_onnx_file_runs_with_as_many_threads_as_asked(ours, monkeypatch):
    _, job, arguments = ours
    asked = []

    class Fake:
        def __init__(self, path, threads):
            asked.append((path, threads))

        def run(self, images):
            return images.mean((2, 3))

    monkeypatch.setattr("acmix_ms.deploy.onnx.Onnx", Fake)
    given = {"source": "file", "form": "onnx", "path": "x.onnx", "inputs": arguments["inputs"]}
    monkeypatch.setattr(job, "start", lambda *args: None)
    assert job.build(device="auto", threads=2, **given)["device"] == "CPU"
    assert asked == [("x.onnx", 2)]
    assert job.step().shape == (2, 3)
    assert len(job.run(3)["seconds"]) == 3


def test_mindspore_lite_takes_its_time_itself(ours, monkeypatch):
    _, job, arguments = ours

    class Lite:
        version = "2.0.0"

        def seconds(self, path, images, repeats, *, threads):
            return [len(images) / threads] * repeats

    monkeypatch.setattr("acmix_ms.deploy.lite.find", Lite)
    given = {"source": "file", "form": "ms", "path": "x.ms", "inputs": arguments["inputs"]}
    monkeypatch.setattr(job, "start", lambda *args: None)
    assert job.build(device="auto", threads=4, **given)["versions"]["MindSpore Lite"] == "2.0.0"
    assert job.run(3) == {"seconds": [0.5] * 3}
    assert job.memory() == {"peak": None}


# ------------------------------------------------------------------------------------------------------ with PyTorch
MINIATURE = """
from torchvision.models.utils import load_state_dict_from_url
import torch.nn as nn
def ACmix_ResNet(layers):
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*stem, nn.Flatten(), nn.Linear(8, 1000))
"""


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (it is optional)")
def test_the_official_side_with_a_miniature_of_the_clone(tmp_path):
    folder = official_clone(tmp_path / "clone", MINIATURE)
    inputs, weights = tmp_path / "inputs.npz", tmp_path / "weights.npz"
    np.savez(inputs, images=np.ones((2, 3, 32, 32), np.float32), labels=np.array([3, 5]))
    common = {"clone": str(folder), "threads": 1, "source": "official", "model": "acmix_resnet26", "image_size": 32}
    outputs = []
    for form, exchange in (("infer", {"save": str(weights)}), ("infer", {"load": str(weights)}), ("train", {})):
        with Worker(
            "official", [sys.executable, str(WORKERS / "official.py")], runtime.foreign_environment()
        ) as worker:
            assert "PyTorch" in worker.ask("build", form=form, inputs=str(inputs), **common, **exchange)["versions"]
            worker.ask("output", path=str(tmp_path / "out.npy"))
            outputs.append(np.load(tmp_path / "out.npy"))
            assert len(worker.run(3)) == 3
            assert worker.ask("memory")["peak"] >= 0
    assert np.array_equal(outputs[0], outputs[1])
    assert outputs[0].shape == (2, 1000)
    assert outputs[2][1] < outputs[2][0]
    saved = np.load(weights)
    assert np.abs(saved["1.running_mean"]).max() > 0.01
    with Worker("official", [sys.executable, str(WORKERS / "official.py")]) as worker:
        with pytest.raises(WorkerError, match="does not have the official code of acmix_swin_tiny"):
            worker.ask("build", form="infer", inputs=str(inputs), **{**common, "model": "acmix_swin_tiny"})
