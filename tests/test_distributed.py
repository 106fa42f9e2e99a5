"""Groups of processes: the same training as one process, exact evaluation, a launcher that leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from tiny import TinyNet

from acmix_ms import runtime
from acmix_ms.engine import group, parallel
from acmix_ms.engine.metrics import Accuracy
from acmix_ms.errors import UserError
from scripts import launch

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "scripts" / "launch.sh"
SWIN = "configs/classification/acmix_swin_digits.yaml"
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
linux = pytest.mark.skipif(sys.platform != "linux", reason="msrun starts groups on Linux only")


def start(*args, **kwargs):
    """The launcher as a process that can be watched and killed."""
    command = [str(LAUNCH), *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes, **kwargs)


def run(*args, timeout=240):
    launcher = start(*args)
    out, err = launcher.communicate(timeout=timeout)
    return launcher.returncode, out, err


def processes(word):
    """(id, rank or None) of all processes with the word in their command, the launcher aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
            environment = dict(
                item.split("=", 1) for item in (folder / "environ").read_text().split("\0") if "=" in item
            )
        except (OSError, ProcessLookupError):
            continue
        if any(word in part for part in command) and not any("launch" in part for part in command):
            is_worker = environment.get("MS_ROLE") == "MS_WORKER"
            found.append((int(folder.name), int(environment["RANK_ID"]) if is_worker else None))
    return found


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        result = condition()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError(f"nothing after {seconds} s")


def worker(word, rank):
    return wait_for(lambda: next((pid for pid, number in processes(word) if number == rank), None))


@pytest.fixture
def script(tmp_path):
    """``script(body)``: one without MindSpore, for the launcher; ``me`` is its rank, or "sched" in the scheduler."""

    def write(body):
        path = tmp_path / "script.py"
        head = "import os, sys, time\nme = os.environ['RANK_ID'] if os.environ['MS_ROLE'] == 'MS_WORKER' else 'sched'\n"
        head += "time.sleep(1)\n"  # as long as imports take
        path.write_text(head + body)
        return path

    return write


# ------------------------------------------------------------------------------------------------- the same training
@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank saw, for groups of 1, 2 and 3 with the same global batch; and the folder of each."""
    if sys.platform != "linux":
        pytest.skip("msrun starts groups on Linux only")
    found = {}
    for size in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"group{size}")
        case = (ROOT / "tests" / "group_case.py", folder, 48)
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
            loss, finite = seen["poisoned"]
            assert not finite
            assert not np.isfinite(loss)


def test_alone_nothing_is_exchanged():
    parameter = ms.Parameter(ms.Tensor([1.0, 2.0]))
    parallel.broadcast([parameter])
    assert parameter.asnumpy().tolist() == [1.0, 2.0]
    assert parallel.gather([3.0, 4.0]).tolist() == [[3.0, 4.0]]
    loss, gradients = parallel.build_mean([parameter])("loss", ("gradient",))
    assert (loss, gradients) == ("loss", ("gradient",))


def test_sums_of_parts_are_the_whole():
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((20, 7)), random.integers(0, 7, 20)
    whole, parts, together = Accuracy(), [Accuracy(), Accuracy()], Accuracy()
    whole.update(logits, labels)
    parts[0].update(logits[:13], labels[:13])
    parts[1].update(logits[13:], labels[13:])
    together.set_sums(np.sum([part.sums() for part in parts], axis=0))
    assert together.result() == pytest.approx(whole.result())
    assert isinstance(together.result()["count"], int)


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


# ---------------------------------------------------------------------------------------------------------- the ends
@linux
def test_console_and_logs(script, tmp_path):
    body = """
print(f"hello from {me}")
if me != "0":
    print("[WARNING] noise")
    for line in "Traceback (most recent call last):", "  File x", "ValueError: trouble in " + me, "after it":
        print(line, file=sys.stderr)
print("no end of line", end="")
"""
    code, out, err = run("--devices", 2, "--log-dir", tmp_path / "logs", script(body))
    assert code == 0
    assert out == "hello from 0\nno end of line\n"
    trouble = ["Traceback (most recent call last):", "  File x", "ValueError: trouble in 1"]
    assert err.splitlines() == [f"[rank 1] {line}" for line in trouble]
    assert "[WARNING] noise" in (tmp_path / "logs" / "rank_1.log").read_text()


@linux
def test_a_killed_worker_ends_the_group(script, tmp_path):
    # Its child must go as well.
    body = """
import subprocess
if me == "1":
    subprocess.Popen(["sleep", "86399.25"])
print("up", me)
time.sleep(600)
"""
    path = script(body)
    launcher = start("--devices", 2, "--log-dir", tmp_path / "logs", path)
    wait_for(lambda: "up 1" in log(tmp_path / "logs" / "rank_1.log"))
    wait_for(lambda: not processes(str(tmp_path / "logs")))  # msrun has left
    os.kill(worker(str(path), 1), signal.SIGKILL)
    killed = time.monotonic()
    out, err = launcher.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert launcher.returncode == 128 + 9
    assert re.fullmatch(
        rf"error: rank 1 was killed by signal 9 \(SIGKILL\) at \d\d:\d\d:\d\d; see {tmp_path}/logs/rank_1.log\n", err
    )
    assert processes(str(path)) == []
    assert processes("86399.25") == []


def log(path):
    return path.read_text() if path.exists() else ""


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_workers(script, tmp_path, number):
    body = """
import signal
def end(number, frame):
    print("got", number, flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
print("up")
time.sleep(600)
"""
    path = script(body)
    launcher = start("--devices", 2, "--log-dir", tmp_path / "logs", path)
    logs = [tmp_path / "logs" / f"rank_{rank}.log" for rank in (0, 1)]
    wait_for(lambda: all("up" in log(file) for file in logs))
    wait_for(lambda: not processes(str(tmp_path / "logs")))  # msrun has left
    launcher.send_signal(number)
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + number
    assert all(f"got {int(number)}" in log(file) for file in logs)
    assert err.startswith(f"launch: {number.name}: ")
    assert processes(str(path)) == []


@linux
def test_restarts_are_counted_and_keep_the_logs(script, tmp_path):
    path = script("print('failing', me)\nsys.exit(7 if me == '1' else 0)")
    code, out, err = run("--devices", 2, "--max-restarts", 1, "--log-dir", tmp_path / "logs", path)
    assert code == 7
    assert err.count("error: rank 1 ended with exit code 7") == 2
    assert err.count("launch: restart 1 of 1, from the beginning") == 1
    assert {"rank_0.log", "rank_0.log.1", "rank_1.log", "rank_1.log.1"} <= {
        p.name for p in (tmp_path / "logs").iterdir()
    }


@linux
def test_what_would_fail_again_is_not_restarted(script, tmp_path):
    path = script("print('error: data.path=x: no such folder', file=sys.stderr)\nsys.exit(2)")
    code, out, err = run("--devices", 2, "--max-restarts", 3, "--log-dir", tmp_path / "logs", path)
    assert code == 2
    assert "restart" not in err
    assert "error: data.path=x: no such folder\n" in err


@linux
@pytest.mark.slow
def test_training_survives_a_killed_worker(tmp_path):
    """Killed after the first epoch, it is started again and goes on from the checkpoint; killed again, it ends."""
    folder, logs = tmp_path / "run", tmp_path / "logs"
    settings = [
        "optim.epochs=500",
        "data.batch_size=360",
        "model.kwargs.dim=8",
        "runtime.threads=1",
        "runtime.device=CPU",
    ]
    settings += ["model.kwargs.depths=[1,1,1,1]", "model.kwargs.num_heads=[1,1,2,2]", f"run_dir={folder}"]
    launcher = start("--devices", 2, "--max-restarts", 1, "--log-dir", logs, "train.py", "--config", SWIN, *settings)
    wait_for((folder / "last.ckpt").exists)
    os.kill(worker(str(folder), 1), signal.SIGKILL)
    wait_for((logs / "rank_0.log.1").exists, 30)
    wait_for(lambda: "validation" in log(logs / "rank_0.log"))
    os.kill(worker(str(folder), 1), signal.SIGKILL)
    killed = time.monotonic()
    out, err = launcher.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert launcher.returncode == 137
    assert err.count("error: rank 1 was killed by signal 9") == 2
    assert f"launch: restart 1 of 1, from the newest state in {folder}" in err
    before, after = out.split("resumed from")
    assert "epoch 1/500" in before
    assert "epoch 1/500" not in after
    assert processes(str(folder)) == []


# -------------------------------------------------------------------------------------------------------- the command
def wrong(*args):
    with pytest.raises(UserError) as raised:
        launch.main([str(arg) for arg in args])
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_usage_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    hosts = tmp_path / "hosts"
    train = ("train.py", "--config", ROOT / SWIN)
    for count in ("0", "-1", "two"):
        assert f"--devices: '{count}'" in wrong(f"--devices={count}", *train)
    assert "--devices" in wrong(*train)
    assert "script" in wrong("--devices", 2)
    assert "script nowhere.py does not exist" in wrong("--devices", 2, "nowhere.py")
    assert "--max-restarts -1" in wrong("--devices", 2, "--max-restarts", -1, *train)
    assert "--port 80" in wrong("--devices", 2, "--port", 80, *train)
    assert f"--hosts {hosts}: cannot be read" in wrong("--devices", 2, "--hosts", hosts, *train)
    hosts.write_text("# nobody\n")
    assert "names no host" in wrong("--devices", 2, "--hosts", hosts, *train)
    hosts.write_text("one\ntwo slots=8\n")
    assert "line 2: 'two slots=8'" in wrong("--devices", 2, "--hosts", hosts, *train)
    hosts.write_text("one\n\none\n")
    assert "line 3: one is there twice" in wrong("--devices", 2, "--hosts", hosts, *train)
    hosts.write_text("198.51.100.1\n198.51.100.2\n")  # addresses that nobody has
    assert "is none of 198.51.100.1, 198.51.100.2; add --node-rank" in wrong("--devices", 2, "--hosts", hosts, *train)
    assert "--node-rank 2: must be from 0 to 1" in wrong("--devices", 2, "--hosts", hosts, "--node-rank", 2, *train)
    assert "'optim.lr'" in wrong("--devices", 2, *train, "optim.lrr=1"), "the configuration is checked at once"


def test_a_port_in_use_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [LAUNCH, "--devices", "2", "--port", str(port), "--log-dir", tmp_path / "logs", "eval.py"],
            cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"error: --port {port}: is in use on this machine; give another one\n")


def test_the_command_of_each_host(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"198.51.100.1  # the master\n{socket.gethostname()}\n")
    assert launch.main(["--devices", "4", "--hosts", str(hosts), "--dry-run", "eval.py", "--config", "x y"]) == 0
    words = capsys.readouterr().out
    for expected in (
        "--worker_num 8 --local_worker_num 4",
        "--master_addr 198.51.100.1 --master_port 8118",
        "--node_rank 1",
    ):
        assert expected in words
    assert words.endswith("eval.py --config 'x y'\n")


def test_resume_is_appended_once(tmp_path):
    folder = tmp_path / "run"
    args = ["--devices", "2", str(ROOT / "train.py"), "--config", str(ROOT / SWIN), f"run_dir={folder}"]

    def command(*more):
        return launch.Command(launch.parse([*args, *more]), ["127.0.0.1"], 0)

    fresh = command()
    assert "no checkpoint" in fresh.resume()
    assert fresh.arguments[-1] == f"run_dir={folder}"
    folder.mkdir()
    (folder / "last.ckpt").write_text("")
    assert f"newest state in {folder}" in fresh.resume()
    fresh.resume()
    assert fresh.arguments.count("train.resume=true") == 1
    for given in ("train.resume=true", "resume=true"):
        resumed = command(given)
        resumed.resume()
        assert sum(argument.endswith("resume=true") for argument in resumed.arguments) == 1


def test_a_lines_kind_is_seen():
    tail = group.Tail(Path("rank_1.log"), "rank 1", set())
    lines = [
        "fine",
        "Traceback (most recent call last):",
        "  inside",
        "KeyError: 'x'",
        "  outside",
        "[ERROR] ME(1)",
        "Errors",
    ]
    assert [tail._is_error(line) for line in lines] == [False, True, True, True, False, True, False]
