"""What a command prints ends nothing: names that are no text, readers that leave, disks that are full."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from acmix_ms import errors
from tests.helpers.tiny import make_images

ROOT = Path(__file__).resolve().parents[1]
TELLS = """
import os, sys
from acmix_ms.errors import UserError, run_cli
def main():
    print("bad\\udcff.jpg", flush=True)
    print("bad\\udcff.jpg", file=sys.stderr)
    for _ in range(20000):
        print("a line that fills the pipe")
    sys.stdout.flush()
    os.write(1, b"what MindSpore writes by itself")
    open(sys.argv[1], "w").write("done")
    print("left in the buffer", end="")
    raise UserError("the end")
run_cli(main)
"""


def run_with(stdout, tmp_path, **options):
    command = [sys.executable, "-c", TELLS, str(tmp_path / "done")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environment, text=True, **options)


def test_a_reader_that_leaves_does_not_end_a_command(tmp_path):
    process = run_with(subprocess.PIPE, tmp_path)
    assert process.stdout.readline() == "bad\\udcff.jpg\n"
    process.stdout.close()
    told = process.stderr.read()
    assert (process.wait(), told) == (2, "bad\\udcff.jpg\nerror: the end\n")
    assert (tmp_path / "done").read_text() == "done"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_the_output_does_not_end_a_command(tmp_path):
    with open("/dev/full", "w") as full:
        process = run_with(full, tmp_path)
    told = process.stderr.read()
    assert (process.wait(), told) == (2, "bad\\udcff.jpg\nerror: the end\n")
    assert (tmp_path / "done").exists()


def test_output_that_is_no_file_is_left_alone(monkeypatch):
    for stream in (None, io.StringIO()):
        assert errors.SteadyOutput.around(stream) is stream


@pytest.mark.slow  # a process that trains
def test_training_goes_on_when_nobody_reads_what_it_tells(tmp_path):
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    odd = os.fsencode(images) + b"/train/cat/bad\xff.jpg"
    with open(odd, "wb") as file:
        file.write(b"no image")
    command = [sys.executable, "train.py", "--config", "configs/classification/acmix_resnet_digits.yaml",
               "data.name=imagefolder", f"data.path={images}", "model.num_classes=2", "data.batch_size=4",
               "optim.epochs=1", "train.log_every=1", f"run_dir={run}"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "parameters" in process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    assert (process.wait(), told) == (0, "")
    assert (run / "best.ckpt").exists() and (run / "last.ckpt").exists() and (run / "report.html").exists()
