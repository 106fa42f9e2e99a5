"""Detectors in the trainer: the same bits after an interruption, the same steps and scores in a group, 16 bits."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from acmix_ms import runtime
from acmix_ms.data.shapes import ShapesSet, make
from models import tasks
from tests.helpers import detection_case
from tests.helpers.launching import ENVIRONMENT, ROOT, linux, run

CASE = ROOT / "tests" / "helpers" / "detection_case.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    make(folder / "data", ShapesSet(images=16, val_images=5, size=96))
    return folder


def alone(folder, what):
    command = [sys.executable, str(CASE), str(folder), what]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(folder):
    said = alone(folder, "resume")
    assert "killed" in said
    found = dict(line.split(" ", 1) for line in said.splitlines() if line.startswith(("whole ", "parts ")))
    (whole, steps), (parts, rest) = found["whole"].split(), found["parts"].split()
    assert (steps, rest) == ("8", "2"), "it goes on within the second epoch"
    assert whole == parts


@linux
@pytest.mark.slow
def test_a_group_stays_together_and_scores_as_one_process(folder):
    alone(folder / "one", "group")
    code, out, err = run("--devices", 2, "--log-dir", folder / "logs", CASE, folder / "two", "group")
    assert (code, err) == (0, ""), out + err
    one = json.loads((folder / "one" / "result_0.json").read_text())
    first, second = (json.loads((folder / "two" / f"result_{rank}.json").read_text()) for rank in (0, 1))
    assert first == second, "losses are means, weights and scores those of all"
    assert len(first["losses"]) == 8 and first["losses"][-1] < first["losses"][0]
    assert first["scores"]["count"] == one["scores"]["count"] == 5
    assert first["scores"]["bbox_mAP"] == pytest.approx(one["scores"]["bbox_mAP"], abs=1e-6)


@pytest.mark.slow
def test_sixteen_bits_learn(folder):
    """Convolutions in float16; boxes and losses keep 32 bits, with coordinates that 16 bits would round."""
    runtime.start("CPU", "graph", 3)
    losses = detection_case.train(detection_case.configuration(folder / "half", folder / "data", precision="fp16"))[1]
    assert len(losses) == 8 and np.isfinite(losses).all()
    full = detection_case.configuration(folder / "full", folder / "data")
    task = tasks.build_task(full)
    assert losses[-1] < losses[0]
    assert task.net.in_half == ("backbone", "neck", "bbox_head")
