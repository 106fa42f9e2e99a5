"""Events for TensorBoard: read again from the files, also of runs that were resumed, and without a place to write."""

from __future__ import annotations

import csv
import struct
import sys

import pytest

from acmix_ms.engine import checkpoint, events, run_dir
from acmix_ms.errors import UserError
from tests.helpers.training import make_trainer


@pytest.fixture
def read():
    """``read(folder)``: {name: [(step, value)]} of all files, as TensorBoard takes them."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    def records(path):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)  # length, its checksum, event, its checksum
            yield Event.FromString(data[position + 12 : position + 12 + length])
            position += length + 16

    def found(folder):
        values = {}
        for path in sorted(folder.iterdir()):
            for event in records(path):
                if event.session_log.status == SessionLog.START:
                    values = {name: [row for row in rows if row[0] < event.step] for name, rows in values.items()}
                for value in event.summary.value:
                    values.setdefault(value.tag, []).append((event.step, value.simple_value))
        return values

    return found


def test_what_is_recorded_is_read_again(tmp_path, read):
    with events.recorder(tmp_path / "events", 0) as record:
        record(5, {"train/loss": 0.5, "train/lr": 0.25})
        assert read(tmp_path / "events")["train/loss"] == [(5, 0.5)], "at once: the process may be killed"
        record(10, {"train/loss": 0.125})
    assert read(tmp_path / "events") == {"train/loss": [(5, 0.5), (10, 0.125)], "train/lr": [(5, 0.25)]}


def test_a_resumed_run_replaces_the_steps_that_it_does_again(tmp_path, read):
    for done, values in ((0, (1.0, 2.0, 3.0)), (10, (4.0, 5.0))):
        with events.recorder(tmp_path / "events", done) as record:
            for number, value in enumerate(values, start=1):
                record(done + 5 * number, {"loss": value})
    assert read(tmp_path / "events") == {"loss": [(5, 1.0), (10, 2.0), (15, 4.0), (20, 5.0)]}


def test_a_full_disk_is_told_and_tried_again(tmp_path, read, monkeypatch, capsys):
    from tensorboardX.event_file_writer import EventsWriter

    def full(writer):
        raise OSError(28, "No space left on device")

    with events.recorder(tmp_path / "events", 0) as record:
        with monkeypatch.context() as patch:
            patch.setattr(EventsWriter, "flush", full)
            record(5, {"loss": 1.0})
        said = capsys.readouterr().out
        assert said == "warning: events cannot be written: No space left on device; training goes on\n"
        record(10, {"loss": 2.0})
    assert read(tmp_path / "events") == {"loss": [(5, 1.0), (10, 2.0)]}


def test_a_training_and_its_continuation_are_in_the_events(tmp_path, read, capsys):
    make_trainer(tmp_path, train__events=True, train__precision="mixed").fit()
    saved = checkpoint.read(tmp_path / "step-00000011.ckpt")
    assert saved.meta["epoch"] == 1
    (tmp_path / "step-00000022.ckpt").unlink()  # as if the process had died before it was written
    (tmp_path / run_dir.LAST).unlink()
    before = read(tmp_path / run_dir.EVENTS)
    make_trainer(tmp_path, train__events=True, train__precision="mixed", train__resume=True).fit()
    assert "resumed from" in capsys.readouterr().out

    found = read(tmp_path / run_dir.EVENTS)
    train, val = {f"train/{n}" for n in ("loss", "lr", "img_per_s", "loss_scale")}, {"val/loss", "val/top1", "val/top5"}
    assert found.keys() == train | val
    assert all([step for step, _ in found[name]] == [5, 10, 11, 16, 21, 22] for name in train)
    assert found["train/loss"][:3] == before["train/loss"][:3]
    assert [value for _, value in found["train/loss_scale"]] == [2.0**14] * 6
    rows = list(csv.DictReader(open(tmp_path / run_dir.LOG)))
    for name in ("loss", "top1", "top5"):
        assert [step for step, _ in found[f"val/{name}"]] == [11, 22]
        assert [value for _, value in found[f"val/{name}"]] == pytest.approx([float(r[f"val_{name}"]) for r in rows])
    assert len(list((tmp_path / run_dir.EVENTS).iterdir())) == 2


def test_nothing_is_written_or_needed_unless_wanted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with events.recorder(tmp_path / "events", 0, wanted=False) as record:
        record(5, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="train.events=true needs tensorboardX.* pip install tensorboardX"):
        events.require()
