"""The processes that msrun has started on this host, from their start to their end: what they say, signals, failures.

msrun leaves as soon as they run. They become children of this process, which so learns at once how each of them ends.
Needs no MindSpore.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from acmix_ms.launch.logs import Tail

MSRUN, SCHEDULER = "msrun", "the scheduler"  # names of processes; the others are "rank 0", "rank 1", ...

POLL_SECONDS = 0.2
FAILED_GRACE = 5  # seconds from a failure until the other processes are killed: most hang in a collective
STOPPED_GRACE = 30  # from Ctrl-C or SIGTERM: a checkpoint may be on its way
SCHEDULER_GRACE = 10  # from the end of the last worker
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def adopt_orphans() -> None:
    """What descends from this process becomes its child when the parent ends (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Signals:
    """Ctrl-C and SIGTERM, remembered for the loop that can act on them."""

    def __init__(self):
        self.received: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self.received.append(number))


class Group:
    """One start of the processes of this host; `adopt_orphans` comes first.

    Args:
        command: of msrun, which must not wait for the processes.
        environment: of all of them.
        logs: file by name, in the order of their start: `MSRUN`, on the first host `SCHEDULER`, ``"rank <number>"``.
        signals: that the user has sent; they are passed on.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], logs: Mapping[str, Path], signals: Signals
    ):
        self._command, self._environment, self._signals = command, environment, signals
        self._logs = dict(logs)
        self._running: dict[int, str] = {}  # names, as those of the logs, by process id
        self._tails: list[Tail] = []
        self._code = 0  # of the whole
        self._deadline: float | None = None  # when what still runs is killed

    def run(self) -> int:
        """Start the processes and wait for their end; returns the exit code."""
        try:
            if self._start():
                self._watch()
        finally:
            self._kill()
        for tail in self._tails:
            tail.show(last=True)
        return self._code

    def _start(self) -> bool:
        log = self._logs.pop(MSRUN)
        with open(log, "w", encoding="utf-8") as file:
            # In a session of its own, so that the terminal's Ctrl-C comes to us alone.
            msrun = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while msrun.poll() is None and not self._signals.received:
            time.sleep(POLL_SECONDS)
        if self._signals.received:
            msrun.kill()
            msrun.wait()
            self._code = 128 + self._signals.received[0]
            return False
        said: set[str] = set()
        self._tails = [Tail(path, name, said) for name, path in self._logs.items() if name != SCHEDULER]
        if msrun.returncode:
            self._fail(msrun.returncode, f"msrun could not start the processes; see {log}")
            return False
        found = children()
        if len(found) != len(self._logs):  # msrun takes up what ends before itself
            self._fail(1, f"a process ended as soon as it was started; see the logs in {log.parent}")
            return False
        self._running = dict(zip(found, self._logs))
        return True

    def _watch(self) -> None:
        """Until all workers have ended, or the deadline that follows a failure or a signal."""
        suspect, suspect_counts = None, 0.0
        while self._workers():
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            ended = self._reap()
            for tail in self._tails:
                tail.show()
            self._pass_signals_on()
            failed = sorted((code, name) for name, code in ended if code)  # first those that were killed, below zero
            if [name for _, name in failed] == [SCHEDULER]:
                # It runs the script too: where that is wrong, a worker is about to say so better.
                suspect, suspect_counts, failed = failed[0], now + FAILED_GRACE, []
            if suspect and now > suspect_counts:
                failed = [suspect]
            if failed and not self._code:
                self._blame(*next((item for item in failed if item[1] != SCHEDULER), failed[0]))
            if ended and self._deadline:  # those that wait for one that has ended wait for ever
                self._deadline = min(self._deadline, now + FAILED_GRACE)
            if self._deadline and now > self._deadline:
                return
        deadline = time.monotonic() + (0 if self._code else SCHEDULER_GRACE)
        while self._running and time.monotonic() < deadline and not self._signals.received:
            time.sleep(POLL_SECONDS)
            self._reap()

    def _blame(self, code: int, name: str) -> None:
        """Tell which process failed, and ask the others to end."""
        when = time.strftime("%H:%M:%S")
        if code < 0:
            said = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            said = f"ended with exit code {code}"
        self._fail(128 - code if code < 0 else code, f"{name} {said} at {when}; see {self._logs[name]}")
        self._deadline = time.monotonic() + FAILED_GRACE
        self._signal(signal.SIGTERM)

    def _fail(self, code: int, message: str) -> None:
        self._code = code
        print(f"error: {message}", file=sys.stderr, flush=True)

    def _pass_signals_on(self) -> None:
        received = self._signals.received
        if received and not self._code:
            self._code = 128 + received[0]
            say(f"{signal.Signals(received[0]).name}: the processes are told to end; once more kills them")
            self._deadline = time.monotonic() + STOPPED_GRACE
            self._signal(received[0])
        elif len(received) > 1:
            self._deadline = 0.0

    def _workers(self) -> list[int]:
        return [pid for pid, name in self._running.items() if name != SCHEDULER]

    def _signal(self, number: int) -> None:
        for pid in self._workers():
            os.kill(pid, number)  # not reaped yet, so the id is still theirs

    def _reap(self) -> list[tuple[str, int]]:
        """Names and exit codes, negative for signals, of processes that have ended since."""
        ended = []
        for pid, name in list(self._running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self._running[pid]
                ended.append((name, os.waitstatus_to_exitcode(status)))
        return ended

    def _kill(self) -> None:
        """Nothing that descends from us may stay, such as data workers of a process that was killed."""
        while left := children():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)
        self._running = {}


def children() -> list[int]:
    """Ids of the processes whose parent this one is, also of those that have ended and wait, oldest first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.append((int(fields[19]), int(entry.parent.name)))  # the time of its start comes first
    return [pid for _, pid in sorted(found)]


def say(text: str) -> None:
    """A line of the launcher's own."""
    print(f"launch: {text}", file=sys.stderr, flush=True)
