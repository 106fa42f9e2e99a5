"""What every test shares: a started runtime, seeds, the command line in a subprocess, the reference vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from acmix_ms import runtime

import mindspore as ms  # isort: skip  (after the runtime has set MindSpore's environment)

ROOT = Path(__file__).resolve().parent.parent
EXIT_STATUS = pytest.StashKey[int]()
VECTOR_FOLDERS = (
    ROOT / "tests" / "vectors",
    ROOT.parent / "shared" / "reference" / "vectors",
    ROOT.parent / "shared" / "reference",
)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the result for `pytest_unconfigure`."""
    session.config.stash[EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End with the result of the tests. After hundreds of compiled graphs MindSpore 2.8.0 has once aborted in its own
    teardown ("corrupted size vs. prev_size"), when everything had passed and was reported.
    """
    if EXIT_STATUS in config.stash and not hasattr(config, "workerinput"):  # not one of pytest-xdist
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[EXIT_STATUS])


@pytest.fixture(scope="session", autouse=True)
def _synchronous() -> None:
    # PyNative runs asynchronously: without this an unsupported operator raises in a later test than its own.
    runtime.start(mode="pynative")
    ms.runtime.launch_blocking()


@pytest.fixture(autouse=True)
def _same_start(_synchronous: None) -> None:
    """Each test begins in PyNative mode with the same seeds, whatever ran before it."""
    runtime.start(mode="pynative", seed=0)


class CliResult(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., CliResult]:
    """``run_cli("train.py", "--config", ...)``: run an entry script from the repository root.

    ``run_cli.run_dir`` is an empty folder of the test's own, to be given as ``run_dir=...``.
    """

    def run(script: str, *args: object, timeout: float = 600) -> CliResult:
        command = [sys.executable, str(ROOT / script), *map(str, args)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
        return CliResult(done.returncode, done.stdout, done.stderr)

    run.run_dir = tmp_path / "run"
    run.run_dir.mkdir()
    return run


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], dict[str, np.ndarray]]:
    """``vectors("acmix_64_64_k7_h4_s1_14x14")``: the arrays of a reference file; a missing one is a failure."""

    def load(name: str) -> dict[str, np.ndarray]:
        for folder in VECTOR_FOLDERS:
            path = folder / f"{name}.npz"
            if path.is_file():
                with np.load(path) as arrays:
                    return dict(arrays)
        pytest.fail(f"reference vectors {name}.npz are neither in " + " nor in ".join(map(str, VECTOR_FOLDERS)))

    return load
