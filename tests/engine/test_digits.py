"""The digits run gives the same bits as ever: what is built around it changes none of its numbers."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest

from acmix_ms import runtime
from tests.conftest import ROOT

# Of the first release's training, the same to the last bit ever since; on the machine that it was seen on.
DIGEST = "7c40fa5bc9a9d9a9b149d2d160ac2b338279ffc6782d5a4ed7c3afcb0d3d988c"
SEEN_ON = {"version": (2, 8), "vendor": "AuthenticAMD", "wide": False}  # no AVX-512, for which other kernels are taken
ROW = {"train_loss": 2.34502, "val_loss": 2.22178, "val_top1": 18.5915, "val_top5": 65.3521}


def machine():
    """What decides in which order sums are taken."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            text = file.read()
    except OSError:
        return {}
    vendor = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("vendor_id")), "")
    return {"version": runtime.mindspore_version(), "vendor": vendor, "wide": "avx512f" in text}


@pytest.mark.slow
def test_the_digits_run_gives_the_same_bits(tmp_path):
    command = [sys.executable, "-m", "tests.helpers.digits_case", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    # Everywhere the numbers of the log; to the last bit where sums are taken in the same order.
    assert {name: float(row[name]) for name in ROW} == pytest.approx(ROW, rel=0.01, abs=1.0)
    assert float(row["train_loss"]) == pytest.approx(ROW["train_loss"], rel=1e-3)
    if machine() == SEEN_ON:
        assert done.stdout.splitlines()[-1] == f"digest {DIGEST}"
