"""The launcher: what it shows, that it leaves nothing behind, and its command line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from acmix_ms.errors import UserError
from acmix_ms.launch.logs import Tail
from scripts import launch
from tests.helpers.launching import ENVIRONMENT, LAUNCH, ROOT, linux, log, processes, run, start, wait_for, worker

CONFIG = "configs/classification/resnet_digits.yaml"


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
    settings = ["optim.epochs=500", "data.batch_size=360", "runtime.threads=1", "runtime.device=CPU"]
    train = ("train.py", "--config", CONFIG, *settings, f"run_dir={folder}")
    launcher = start("--devices", 2, "--max-restarts", 1, "--log-dir", logs, *train)
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
    train = ("train.py", "--config", ROOT / CONFIG)
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
    args = ["--devices", "2", str(ROOT / "train.py"), "--config", str(ROOT / CONFIG), f"run_dir={folder}"]

    def command(*more):
        return launch.command_of(launch.parse([*args, *more]))

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
    tail = Tail(Path("rank_1.log"), "rank 1", set())
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
