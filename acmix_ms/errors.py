"""The one exception that means "what you gave cannot work", and how the command line shows it."""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Bad input: the message is one line that names the argument or file, the value received and the remedy."""


def closest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """A hint such as ``did you mean 'swin_tiny'?``, or the choices themselves when nothing is near."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=count, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "choose from " + ", ".join(choices)


def printable(text: str) -> str:
    r"""The text as a terminal may have it: what would move the cursor, change colours or the direction of writing, and
    bytes of file names that are no text, are written as in ``\x1b``.
    """
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8, as Python keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", errors="backslashreplace").decode()


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command: a `UserError` becomes one line on stderr and exit code 2, without a traceback.

    No output ends it: see `SteadyOutput`.
    """
    sys.stdout, sys.stderr = map(SteadyOutput.around, (sys.stdout, sys.stderr))
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print("error: " + printable(" ".join(str(error).split())), file=sys.stderr)
        sys.exit(2)


class SteadyOutput(io.TextIOWrapper):
    """Text output that raises nothing, for what matters is the work and not what is told of it.

    Names of files that are not UTF-8 are shown with backslashes. When nobody reads any more (``| head``), the terminal
    is gone or the disk full, the rest goes nowhere.
    """

    @classmethod
    def around(cls, stream):
        """The stream itself where it is no file, such as None, or what a test has put there."""
        if type(stream) is not io.TextIOWrapper:
            return stream
        stream.flush()
        how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        return cls(stream.buffer, stream.encoding, "backslashreplace", **how)

    def write(self, text: str) -> int:
        """As any stream."""
        try:
            return super().write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """As any stream."""
        try:
            super().flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Let all go nowhere from here on, what is still in buffers and what MindSpore writes too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
