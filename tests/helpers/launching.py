"""The launcher in tests: started as its users start it, and what it left running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "scripts" / "launch.sh"
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


def log(path):
    """What stands in a log that may not be there yet."""
    return path.read_text() if path.exists() else ""
