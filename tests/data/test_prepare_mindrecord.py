"""Preparing records: what is left out, a second call, one that was killed, a full disk, wrong arguments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from acmix_ms.data import records
from acmix_ms.data.loader import PADDING
from acmix_ms.data.records import DESCRIPTION, INDEX, PARTIAL, UNFINISHED
from acmix_ms.errors import UserError
from tests.helpers.records import loader_of, prepare, same
from tests.helpers.tiny import make_images

ROOT = Path(__file__).resolve().parents[2]

# The real command, but it stops for good, with a file half written, when it comes to the image that ends so.
HANGING = """
import sys, time
from acmix_ms.data import records
from acmix_ms.errors import run_cli
from scripts import prepare_mindrecord as script
real, records.RECORDS_AT_ONCE = script.encoded_record, 1
def encoded(path):
    while path.endswith("train/dog/2.jpg"):
        time.sleep(1)
    return real(path)
script.encoded_record = encoded
run_cli(script.main)
"""
# The real command with no room for any file of more than 10 MB.
LIMITED = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000)); from acmix_ms.errors import run_cli; "
    "from scripts import prepare_mindrecord; run_cli(prepare_mindrecord.main)"
)


def test_unreadable_images_are_left_out_and_named(tmp_path, capsys):
    images = make_images(tmp_path / "images")
    (images / "train" / "cat" / "1.JPEG").write_bytes(b"")
    (images / "val" / "dog" / "2.jpg").write_bytes(b"no image at all")
    folder = prepare(images, tmp_path / "records", "--shards", 2)
    told = capsys.readouterr().out
    assert "11 images of train in 2 file(s), 1 skipped" in told
    assert "skipped train/cat/1.JPEG: empty file" in told
    described = json.loads((folder / DESCRIPTION).read_text())
    assert described["train"]["skipped"] == {"cat/1.JPEG": "empty file"}
    assert described["val"]["skipped"] == {"dog/2.jpg": "no image of a known kind"}
    labels = np.concatenate([labels for _, (labels,), _ in loader_of("mindrecord", folder, "val").epoch(0)])
    assert list(labels) == [0, 0, 0, 1, 1, PADDING, PADDING, PADDING]
    assert capsys.readouterr().out == "", "nothing is unreadable any more"


def test_a_file_without_any_image_is_no_harm(tmp_path):
    images = make_images(tmp_path / "images")
    for name in ("3.png", "4.JPEG", "5.jpg"):
        (images / "train" / "cat" / name).write_bytes(b"")
    folder = prepare(images, tmp_path / "records", "--shards", 4)
    assert [file["images"] for file in json.loads((folder / DESCRIPTION).read_text())["train"]["files"]] == [3, 0, 3, 3]
    batch = next(loader_of("mindrecord", folder, batch_size=9, enabled=False).epoch(0))
    assert sorted(batch.targets[0]) == [0] * 3 + [1] * 6


def test_failing_is_a_choice(tmp_path):
    images = make_images(tmp_path / "images")
    (images / "train" / "cat" / "1.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"cat/1.JPEG cannot be read \(empty file\): replace or remove it"):
        prepare(images, tmp_path / "records", "--on-error", "fail")
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [".lock", UNFINISHED]


def test_a_split_without_any_image_is_named(tmp_path):
    images = make_images(tmp_path / "images")
    for path in (images / "val").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no image of val can be read, such as cat/0.png \(empty file\)"):
        prepare(images, tmp_path / "records")
    assert not (tmp_path / "records" / DESCRIPTION).exists()


def test_progress_and_a_second_call(images, tmp_path, capsys):
    prepare(images, tmp_path)
    told = capsys.readouterr().out
    assert "val, file 1 of 1  24/24 images" in told
    assert "ETA 0:00:00" in told
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    prepare(images, tmp_path)
    assert "holds these images already; nothing is done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before | {
        tmp_path / ".lock": (tmp_path / ".lock").stat().st_mtime_ns
    }


def test_a_finished_folder_is_mended_by_the_same_command(images, copied, capsys):
    (copied / "train.mindrecord1").write_bytes(b"cut")
    kept = (copied / "train.mindrecord0").stat().st_mtime_ns
    prepare(images, copied)
    assert "train.mindrecord1 has 3 bytes" in capsys.readouterr().out
    assert (copied / "train.mindrecord0").stat().st_mtime_ns == kept
    same(loader_of("mindrecord", copied).epoch(0), loader_of("imagefolder", images).epoch(0))


def test_another_data_set_is_never_overwritten(images, copied, tmp_path_factory):
    other = make_images(tmp_path_factory.mktemp("other"), classes=("cat", "owl"))
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(UserError, match="holds the records of other images; give another folder"):
        prepare(other, copied)
    os.rename(copied / DESCRIPTION, copied / UNFINISHED)
    with pytest.raises(UserError, match="unfinished preparation of other images"):
        prepare(other, copied)
    with pytest.raises(UserError, match="--shards 2: .*was begun with 3 files of train"):
        prepare(images, copied, "--shards", 2)
    os.rename(copied / UNFINISHED, copied / "elsewhere")
    with pytest.raises(UserError, match=r"holds train.mindrecord0, which is not of this preparation"):
        prepare(images, copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()}.items() >= {
        name: data for name, data in before.items() if name not in (DESCRIPTION, ".lock")
    }.items()


def kill_in_the_middle(images, folder, console):
    """Prepare in a real process, and kill it while it writes the fourth file of five."""
    command = [sys.executable, "-c", HANGING, "--input", str(images), "--output", str(folder), "--shards", "5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(console, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)
    half, deadline = folder / PARTIAL / "train.mindrecord3", time.monotonic() + 60
    try:
        while not (half.exists() and half.stat().st_size):
            assert process.poll() is None, console.read_text()
            assert time.monotonic() < deadline, console.read_text()
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"--output .*is in use by process {process.pid}"):
            prepare(images, folder)
    finally:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code == -signal.SIGKILL
    assert half.exists()


@pytest.mark.slow  # three processes that load MindSpore
def test_killed_in_the_middle_it_goes_on(images, tmp_path, run_cli):
    folder = tmp_path / "records"
    kill_in_the_middle(images, folder, tmp_path / "console")

    with pytest.raises(UserError, match="its preparation has not ended, go on with scripts/prepare_mindrecord.py"):
        loader_of("mindrecord", folder)
    finished = sorted(path for path in folder.glob("train.mindrecord*"))
    assert [path.name for path in finished] == [f"train.mindrecord{i}{end}" for i in range(3) for end in ("", INDEX)]
    kept = {path: path.stat().st_mtime_ns for path in finished}

    done = run_cli("scripts/prepare_mindrecord.py", "--input", images, "--output", folder)
    assert done.code == 0, done.stderr
    assert "going on: 9 images are in finished files" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == kept
    assert not list(folder.glob(f"{PARTIAL}*")) and not (folder / UNFINISHED).exists()
    for split in ("train", "val"):
        same(loader_of("mindrecord", folder, split).epoch(0), loader_of("imagefolder", images, split).epoch(0))


@pytest.mark.slow  # two processes that load MindSpore
def test_a_full_disk_is_one_line_and_a_second_call_goes_on(images, tmp_path, run_cli):
    command = [sys.executable, "-c", LIMITED, "--input", str(images), "--output", str(tmp_path / "records")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert full.returncode == 2, full.stderr
    assert full.stderr.count("\n") == 1
    assert "records cannot be written (" in full.stderr
    assert "GB are free): make room" in full.stderr
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [".lock", UNFINISHED]
    done = run_cli("scripts/prepare_mindrecord.py", "--input", images, "--output", tmp_path / "records")
    assert done.code == 0, done.stderr
    assert len(loader_of("mindrecord", tmp_path / "records", "val")) == 3


def test_what_is_not_read_back_is_not_kept(images, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_holds", lambda *args: False)
    with pytest.raises(UserError, match="cannot be written.*not what is read back"):
        prepare(images, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", UNFINISHED]


def test_wrong_arguments_are_one_line(images, tmp_path, run_cli):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output=.*file: cannot write there"):
        prepare(images, tmp_path / "file")
    with pytest.raises(UserError, match="--input .*nowhere: no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "records")
    with pytest.raises(UserError, match="--shards 1000: give at most 256"):
        prepare(images, tmp_path / "records", "--shards", 1000)
    done = run_cli("scripts/prepare_mindrecord.py", "--input", images, "--output", tmp_path / "o", "--shards", "0")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
