"""Requests to stop, SIGTERM and SIGINT, answered between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """The run was asked to stop and has saved its state; the exit code is 128 + the number of the signal."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class StopRequest:
    """``with StopRequest() as stop``: ``stop.number`` is the signal that came, or None.

    MindSpore hands Ctrl-C on as SIGTERM while a graph runs. A second Ctrl-C ends the process at once. Outside of the
    main thread nothing is installed.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
