"""The other end of a measuring process: start it, ask it, and tell in one line how it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence


class WorkerError(RuntimeError):
    """A process refused what it was asked, or ended: one line that names it."""


class Worker:
    """A process that answers lines of JSON, started by ``command`` (see ``benchmarks/workers/serve.py``).

    Args:
        name: what error messages call it.
        command: program and arguments.
        environment: of the process; None: as this one.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self.name = name
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=None if environment is None else dict(environment),
                text=True,
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"{name}: {command[0]} cannot be started ({error.strerror})") from error

    def ask(self, do: str, **values) -> dict:
        """Have it do something, wait for the answer.

        Raises:
            WorkerError: it refuses, or the process has ended.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise WorkerError(self._ending())
        answer = json.loads(line)
        if "refused" in answer:
            raise WorkerError(f"{self.name}: {answer['refused']}")
        return answer

    def run(self, count: int) -> list[float]:
        """Seconds of ``count`` steps."""
        return self.ask("run", count=count)["seconds"]

    def _ending(self) -> str:
        """How the process ended, with the last line that it wrote to stderr."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing to stderr")
        how = f"exit code {code}"
        if code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += ", as the system does when memory runs out"
        return f"{self.name}: the process ended ({how}): {said[:300]}"

    def close(self) -> None:
        """End the process; it leaves by itself when its stdin is closed."""
        if not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception) -> None:
        self.close()
