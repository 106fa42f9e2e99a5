"""The scalars of a run for TensorBoard. tensorboardX writes them: an optional package, asked for by train.events=true.

MindSpore's own `SummaryRecord` writes another format, in which TensorBoard finds no scalars.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from acmix_ms.errors import UserError

Record = Callable[[int, Mapping[str, float]], None]  # (steps done, {"train/loss": 0.5})


def require(wanted: bool = True) -> None:
    """See that events can be written here, if they are ``wanted``. Cheap; call it before any other work.

    Raises:
        UserError: tensorboardX is not installed.
    """
    if wanted and importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "train.events=true needs tensorboardX, which is not installed: "
            "run pip install tensorboardX, or leave train.events out"
        )


@contextlib.contextmanager
def recorder(folder: Path, steps_done: int, wanted: bool = True) -> Iterator[Record]:
    """A function that writes scalars into ``folder``; unless they are ``wanted`` it does nothing.

    A run that goes on after ``steps_done`` steps gets a file of its own, which tells readers to forget what earlier
    files have of later steps. What cannot be written (a full disk) is told, and is tried again at the next call.

    Raises:
        UserError: see `require`.
    """
    if not wanted:
        yield lambda step, values: None
        return
    require()
    # The writer below SummaryWriter: its errors reach us, where those of SummaryWriter's thread would leave the
    # training waiting for it for ever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"), f".{steps_done}")

    def write(**fields: object) -> None:
        with _told():
            writer.write_event(Event(wall_time=time.time(), **fields))
            writer.flush()  # a killed run leaves all events before its checkpoints

    def record(step: int, values: Mapping[str, float]) -> None:
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        write(step=step, summary=Summary(value=found))

    write(step=steps_done + 1, file_version="brain.Event:2")
    write(step=steps_done + 1, session_log=SessionLog(status=SessionLog.START))
    try:
        yield record
    finally:
        with _told():
            writer.close()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        print(f"warning: events cannot be written: {error.strerror}; training goes on", flush=True)
