"""Groups of processes: the same training as one process, and exact evaluation."""

from __future__ import annotations

import json
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.engine import parallel
from acmix_ms.engine.metrics import Accuracy
from acmix_ms.errors import UserError
from tests.helpers.launching import ENVIRONMENT, ROOT, run
from tests.helpers.tiny import TinyNet


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank saw, for groups of 1, 2 and 3 with the same global batch; and the folder of each."""
    if sys.platform != "linux":
        pytest.skip("msrun starts groups on Linux only")
    found = {}
    for size in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"group{size}")
        case = (ROOT / "tests" / "helpers" / "group_case.py", folder, 48)
        if size == 1:  # without any launcher
            command = [sys.executable, *map(str, case)]
            done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        else:
            code, out, err = run("--devices", size, "--log-dir", folder / "logs", *case)
            assert (code, err) == (0, ""), out + err
            assert "rank 0 is through" in out
            assert out.count("is through") == 1, "only rank 0 prints"
            assert out.count("epoch 1/1  validation") == 1
            assert all((folder / "logs" / f"rank_{rank}.log").exists() for rank in range(size))
        assert len(list(folder.glob("result_*.json"))) == size
        found[size] = [json.loads((folder / f"result_{rank}.json").read_text()) for rank in range(size)]
        written = sorted(
            p.name for p in folder.iterdir() if p.name.endswith((".ckpt", ".csv", ".html", ".png", ".yaml"))
        )
        assert written == [
            *("best.ckpt", "config.yaml", "curves.png", "last.ckpt", "log.csv", "rates.csv", "report.html"),
            "step-00000030.ckpt",
        ]
    return found


@pytest.mark.slow
def test_groups_train_as_one_process(results):
    """The losses of 30 steps; in float32 the sums differ in their order only."""
    alone = results[1][0]["losses"]
    assert len(alone) == 30
    assert alone[-1] < alone[0] - 0.05, "it learns"
    for size in (2, 3):
        for seen in results[size]:
            assert seen["losses"] == results[size][0]["losses"], "every rank sees the mean over all"
            np.testing.assert_allclose(seen["losses"], alone, rtol=1e-4)


@pytest.mark.slow
def test_all_ranks_have_the_weights_of_rank_0(results):
    for size in (2, 3):
        first = results[size][0]
        assert first["drawn"] == results[1][0]["drawn"], "rank 0 draws what a process alone draws"
        for other in results[size][1:]:
            assert other["drawn"] != first["drawn"], "ranks draw differently"
            assert other["taken_over"] == first["drawn"]
            assert other["trained"] == first["trained"], "and stay together to the last bit"


@pytest.mark.slow
def test_every_image_is_evaluated_once(results):
    for size in (1, 2, 3):
        for seen in results[size]:
            assert [score["count"] for score in seen["scores"]] == [355, 355]
            assert seen["scores"] == results[size][0]["scores"]
            small, large = seen["scores"]
            assert small["top1"] == large["top1"]
            assert small["loss"] == pytest.approx(large["loss"], rel=1e-6)
            assert small["classes"] == large["classes"]
            assert sum(found["images"] for found in small["classes"]) == 355
            right = sum(found["images"] * found["top1"] for found in small["classes"])
            assert right / 355 == pytest.approx(small["top1"])
        assert results[size][0]["scores"][0]["loss"] == pytest.approx(results[1][0]["scores"][0]["loss"], rel=1e-3)


@pytest.mark.slow
def test_statistics_sums_and_overflows_are_agreed_on(results):
    for size in (1, 2, 3):
        for seen in results[size]:
            mean, variance = seen["statistics"]
            np.testing.assert_allclose(mean, (size - 1) / 2, rtol=1e-6)
            np.testing.assert_allclose(variance, 1 + (size - 1) / 2, rtol=1e-6)
            assert [row[0] for row in seen["gathered"]] == [2.0**40 + rank for rank in range(size)]
            assert [row[1] for row in seen["gathered"]] == pytest.approx([-0.1] * size, abs=1e-12)
            assert seen["bytes"] == ["x" * (5 * rank) for rank in range(size)], "of any lengths, none too"
            assert seen["arrays"] == [[i / 3 for i in range(rank)] for rank in range(size)], "to the last bit"
            loss, finite = seen["poisoned"]
            assert not finite
            assert not np.isfinite(loss)
            assert seen["verdicts"] == [True, True], "one rank's verdict is that of all"


def test_alone_nothing_is_exchanged():
    parameter = ms.Parameter(ms.Tensor([1.0, 2.0]))
    parallel.broadcast([parameter])
    assert parameter.asnumpy().tolist() == [1.0, 2.0]
    assert parallel.gather([3.0, 4.0]).tolist() == [[3.0, 4.0]]
    given = ("loss", {"term": "of it"}, ("gradient",))
    assert parallel.build_mean([parameter])(*given) == given
    assert parallel.gather_bytes(b"abc") == [b"abc"]


def test_sums_of_parts_are_the_whole():
    random = np.random.default_rng(0)
    logits, labels, ids = random.standard_normal((20, 7)), random.integers(0, 7, 20), np.arange(20)
    whole, *parts, together = (Accuracy("abcdefg") for _ in range(4))
    whole.update(logits, (labels,), ids)
    for part, rows in zip(parts, (slice(13), slice(13, None))):
        part.update(logits[rows], (labels[rows],), ids[rows])
    together.merge([part.state() for part in parts])
    given, expected = together.result(), whole.result()
    assert given.pop("loss") == pytest.approx(expected.pop("loss"))
    assert given == expected
    assert isinstance(given["count"], int)


def test_synchronised_norms_are_refused_on_cpu():
    with pytest.raises(UserError, match="train.sync_bn=true: .* Ascend only, not on CPU"):
        parallel.synchronise_norms(TinyNet())


def test_synchronised_norms_keep_parameters_and_names(monkeypatch):
    class Synchronised(nn.BatchNorm2d):  # MindSpore's own cannot be built on CPU
        pass

    monkeypatch.setattr(ms, "get_context", lambda key: "Ascend")
    monkeypatch.setattr(runtime, "world_size", lambda: 2)
    monkeypatch.setattr(nn, "SyncBatchNorm", Synchronised)
    net = TinyNet()
    net.own = nn.BatchNorm2d(4, eps=1e-3, momentum=0.8)
    before = {name: id(value) for name, value in net.parameters_and_names()}
    parallel.synchronise_norms(net)
    assert [type(cell).__name__ for _, cell in net.cells_and_names()].count("Synchronised") == 3
    assert net.body[1] is net.body.cell_list[1]
    assert {name: id(value) for name, value in net.parameters_and_names()} == before
    assert [value.name for value in net.get_parameters()] == list(before)
    assert (net.own.eps, net.own.momentum) == (1e-3, pytest.approx(0.2))
