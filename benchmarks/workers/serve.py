"""How a measuring process talks with scripts/benchmark.py: one JSON object per line, on its stdin and stdout.

Standard library only: the process of the official code loads this too, and its Python may have nothing of ours.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable


class Refusal(Exception):
    """What was asked cannot be done here: told to the other side as one line; the process goes on."""


def memory(field: str) -> int:
    """``"VmRSS"`` (resident now) or ``"VmHWM"`` (the most so far) of this process in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
    except (OSError, StopIteration):  # not Linux: the peak is all that can be known
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Begin anew with the most memory so far, where the system can: copies made while loading weights are no cost."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def use_cores(count: int) -> None:
    """Stay on ``count`` cores, where the system can; call it before a framework makes its threads.

    MindSpore's switch for the number of threads reaches one of its two kernel runtimes only: its matrix products and
    convolutions take every core that they are allowed to use.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if count < len(cores):
            os.sched_setaffinity(0, cores[:count])


class Job(ABC):
    """What one process measures; `serve` calls its methods by name."""

    def __init__(self):
        self.baseline = 0
        self.step: Callable[[], object] = lambda: None

    def imported(self) -> None:
        """Call it when everything is imported: memory is told above this."""
        self.baseline = memory("VmRSS")
        forget_peak()

    @abstractmethod
    def build(self, **spec) -> dict:
        """Make ``self.step``, which runs once and waits for the result; the answer describes it."""

    @abstractmethod
    def output(self, path: str) -> dict:
        """Write as ``.npy`` what must agree between processes: logits, or the losses of the first training steps."""

    def run(self, count: int) -> dict:
        """Seconds of each of ``count`` steps."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def memory(self) -> dict:
        """The most memory since the weights were there, above what the imports took, in bytes."""
        return {"peak": max(0, memory("VmHWM") - self.baseline)}


def serve(job: Job) -> None:
    """Answer ``{"do": name, ...}`` with what the method gives, until stdin ends."""
    # Frameworks print what they like: their stdout becomes stderr, and the answers keep the real one.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(job, request.pop("do"))(**request)
        except Refusal as error:
            answer = {"refused": " ".join(str(error).split())}
        except Exception:  # noqa: BLE001  (whatever it is, it ends this process, and stderr tells why)
            traceback.print_exc()
            sys.exit(1)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
