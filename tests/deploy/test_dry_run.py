"""Models on MindSpore's own Ascend backend, with a stand-in for the device: what is launched, and what it computes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from acmix_ms.deploy.ascend import cann, dry_run, launches
from acmix_ms.deploy.ascend.dry_run import SOCS, Job
from acmix_ms.errors import UserError
from scripts import dry_run_ascend
from tests.helpers.ascend import needs_stand_in
from tests.helpers.refusals import refusal

WORKER = dry_run_ascend.WORKER
FAMILIES = {"acmix_resnet_digits": 32, "acmix_san_digits": 32, "acmix_swin_digits": 32, "acmix_pvt_tiny": 64}


@needs_stand_in
@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_what_an_ascend_is_told_computes_what_a_cpu_computes(model, capsys):
    """The native forms, which no run on a CPU executes, and the graph in an AIR file, in 32 bits and, if small, 16."""
    args = ["--models", model, "--numbers", "--image-size", str(FAMILIES[model]), "--precision", "fp32"]
    args += ["fp16"] * (FAMILIES[model] == 32)
    assert dry_run_ascend.main([*args, "--mode", "fused", "air"]) == 0, capsys.readouterr()


@needs_stand_in
@pytest.mark.slow
@pytest.mark.parametrize(("model", "optimizer"), [("acmix_resnet_digits", "sgd"), ("acmix_swin_digits", "adamw")])
def test_a_train_step_computes_what_it_computes_on_a_cpu(model, optimizer, capsys):
    args = ["--models", model, "--numbers", "--mode", "train", "--optimizer", optimizer]
    assert dry_run_ascend.main(args) == 0, capsys.readouterr()


@needs_stand_in
@pytest.mark.slow
@pytest.mark.parametrize(("soc", "models"), [(SOCS[0], ["acmix_san_digits"]), (SOCS[1], ["acmix_resnet_digits"])])
def test_every_family_runs_on_the_ai_core_alone(soc, models):
    jobs = [Job(model, mode, "fp16", FAMILIES[model], 2, "adamw" if mode == "train" else "")
            for model in models for mode in ("infer", "train")]  # fmt: skip
    for result in dry_run.run(jobs, soc, WORKER):
        assert result.fine, (result.job, result.error, result.recording.fall_backs)
        assert result.peak > 0
        names = result.recording.names("aclnn") + result.recording.names("aclop")
        assert not any(launch.wide for launch in result.recording.launches), result.job
        if result.job.mode == "train":
            assert names["AdamApplyOneWithDecayAssign"] or names["AdamApplyOneWithDecay"], "the update is launched"
            assert len(result.again.launches) > 500 and result.waits == 0, "steps do not wait for each other"
            assert not any("device to host" in way for way in result.again.ways), "nothing goes to the host and back"
            first_clear = [0] if soc == "Ascend910A" else []
            for step in (result.recording, result.again):  # overflows are forgotten first, where they are noted
                order = [launch.name for launch in step.launches]
                assert [i for i, name in enumerate(order) if name == "NPUClearFloatStatusV2"][:1] == first_clear


@needs_stand_in
@pytest.mark.slow
def test_detectors_and_segmentors_run_on_the_ai_core_alone():
    jobs = [Job("retinanet_shapes", "train", "fp16", 64, 2, "adamw"),
            Job("mask_rcnn_acmix_shapes", "fused", "fp16", 64),
            Job("upernet_acmix_shapes", "fused", "fp16", 64)]  # fmt: skip
    for result in dry_run.run(jobs, SOCS[1], WORKER):
        assert result.fine, (result.job, result.error, result.recording.fall_backs)
        assert not any(launch.wide for launch in result.recording.launches), result.job
        assert result.waits == 0


@needs_stand_in
def test_what_ends_its_process_is_told_and_the_others_go_on():
    wrong, fine = Job("no_such_model", image_size=32), Job("resnet_digits", image_size=32)
    results = list(dry_run.run([wrong, fine], SOCS[0], WORKER))
    assert "no_such_model" in results[0].error and not results[0].fine
    assert results[1].fine and results[1].recording.names("aclop")["Conv2D"]


# -------------------------------------------------------------------------------------------------------- what is noted
def tensor(dtype, *shape):
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    return {"dtype": dtype, "shape": list(shape), "strides": strides, "offset": 0, "format": 2, "at": 4096}


def test_a_log_is_read(tmp_path):
    lines = [
        {"option": 0, "value": "allow_fp32_to_fp16"},
        {"mark": "run 0"},
        {"call": "aclrtMemcpyAsync", "bytes": 12},
        {"aclnn": "aclnnMatmul", "args": [tensor("float32", 4, 8), tensor("float32", 8, 2), tensor("float32", 4, 2), 2],
         "floats": [0] * 8},
        {"aclop": "Conv2D", "in": [tensor("float32", 1, 3, 8, 8), None], "out": [tensor("float16", 1, 2, 8, 8)],
         "attr": {"groups": 1}},
        {"aclnn": "aclnnCast", "args": [tensor("float32", 9), 9, tensor("int64", 9)], "floats": [0] * 8},
        {"call": "rtAicpuKernelLaunchExWithArgs"},
        {"mark": "done 0"},
    ]  # fmt: skip
    path = tmp_path / "log"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"aclnn": "cut off')
    (_, before), (mark, found), _ = launches.read(path)
    assert mark == "run 0" and not before.launches and found.options == {0: "allow_fp32_to_fp16"}
    assert [str(launch) for launch in found.launches] == [
        "aclnnMatmul(float32[4,8], float32[8,2], float32[4,2])",
        "Conv2D(float32[1,3,8,8]) -> float16[1,2,8,8]",
        "aclnnCast(float32[9], int64[9])",
    ]
    assert found.launches[0].bytes == 4 * (32 + 16 + 8) and found.copied == 12
    assert [launch.name for launch in found.in_half] == ["aclnnMatmul", "Conv2D"]
    assert found.fall_backs == ["rtAicpuKernelLaunchExWithArgs"]
    assert [launch.is_cast for launch in found.launches] == [False, False, True]
    assert [bool(launch.wide) for launch in found.launches] == [False, False, True]


def test_differences_are_relative_to_their_kind():
    expected = {"arr_0": np.array([1.0, -4.0]), "optimizer.moments.a": np.array([1.0]),
                "optimizer.moments.b": np.array([1e-9])}  # fmt: skip
    found = {**expected, "optimizer.moments.b": np.array([2e-9])}
    assert dry_run.difference(found, expected) == (pytest.approx(1e-9), "optimizer.moments.b")
    assert dry_run.difference({**found, "arr_0": np.array([1.0, -4.4])}, expected) == (pytest.approx(0.1), "arr_0")
    assert np.isnan(dry_run.difference({**found, "arr_0": np.array([1.0, np.nan])}, expected)[0])
    with pytest.raises(ValueError, match="other arrays"):
        dry_run.difference({}, expected)


# ---------------------------------------------------------------------------------------------------------- the command
def test_mistakes(monkeypatch):
    def said(*args):
        return refusal(dry_run_ascend.main, [str(arg) for arg in args])

    assert "--models resnet27: did you mean 'resnet26'" in said("--models", "resnet27")
    assert "--image-size 16: give at least 32" in said("--image-size", 16)
    assert "--soc 910: give a name such as" in said("--soc", "910")
    assert "--mode: invalid choice" in said("--mode", "trian")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "needs compilers of C and C++ and binutils" in said("--models", "resnet_digits", "--mode", "infer")
    monkeypatch.setattr(cann.platform, "machine", lambda: "riscv64")
    with pytest.raises(UserError, match="needs Linux on x86_64 or aarch64, this is linux on riscv64"):
        cann.stand_in()


def test_a_table_has_a_row_for_each_graph():
    one = {"soc": "Ascend910B3", "model": "a", "mode": "fused", "precision": "fp32", "image_size": 32, "kernels": 7,
           "bytes": 3e6, "peak": 2**21, "error": "", "fall_backs": []}  # fmt: skip
    other = {**one, "soc": "Ascend910A", "error": "refused", "fall_backs": ["CustX"]}
    lines = dry_run_ascend.table([one, other]).splitlines()
    assert lines[0] == "| model | graph | Ascend910B3 fp32 | Ascend910A fp32 | fall-backs |"
    assert lines[2] == "| a | fused 32 | 7, 3 MB, 2 MiB | refused | CustX |"
