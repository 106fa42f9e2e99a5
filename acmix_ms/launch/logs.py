"""What the processes of a group write: shown as it comes, kept from one start to the next."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path


class Tail:
    """Shows what is added to a log: of rank 0 everything, of the others only errors that nobody has told yet."""

    NOISE = re.compile(r"\[(INFO|WARNING)\] [A-Z_]+\(\d")  # MindSpore's own, which it tells whatever GLOG_v says
    ERROR = re.compile(r"error: |Traceback \(most recent|\[(ERROR|CRITICAL)\]|[\w.]*(Error|Exception)\b")

    def __init__(self, path: Path, name: str, said: set[str]):
        self._path, self._said = path, said
        self._everything, self._prefix = name == "rank 0", f"[{name}] "
        self._position, self._in_traceback = 0, False

    def show(self, last: bool = False) -> None:
        """Print the lines that are new; one that has no end yet only if it is the last."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._position)
            new = file.read()
        if not last:
            new = new[: new.rfind(b"\n") + 1]
        self._position += len(new)
        for line in new.decode(errors="replace").splitlines():
            if not self._is_error(line):
                if self._everything and not self.NOISE.match(line):
                    print(line, flush=True)
            elif self._everything or line not in self._said:
                print(line if self._everything else self._prefix + line, file=sys.stderr, flush=True)
                self._said.add(line)

    def _is_error(self, line: str) -> bool:
        begins = self.ERROR.match(line) is not None
        inside = self._in_traceback and line[:1].isspace()
        self._in_traceback = line.startswith("Traceback") or inside
        return begins or inside


def set_aside(logs: Iterable[Path]) -> None:
    """Keep each log of an earlier start under its name and a number."""
    for log in logs:
        number = 1
        while log.with_name(f"{log.name}.{number}").exists():
            number += 1
        if log.exists():
            log.rename(log.with_name(f"{log.name}.{number}"))
