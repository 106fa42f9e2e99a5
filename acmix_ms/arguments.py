"""Command-line parsing for the entry scripts: mistakes are one line, as everywhere."""

from __future__ import annotations

import argparse

from acmix_ms.errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `UserError` instead of printing its usage and leaving."""

    def error(self, message: str):
        """Called by argparse for wrong arguments."""
        raise UserError(f"{message}; see {self.prog} --help")

    def add_config(self, *, required: bool = True) -> None:
        """Add ``--config FILE`` and any number of ``key=value`` overrides."""
        self.add_argument("--config", required=required, metavar="FILE", help="YAML file, such as one in configs/")
        self.add_argument("overrides", nargs="*", metavar="key=value", help="change a key, such as optim.lr=0.05")

    def add_flag(self, name: str, *, help: str) -> None:
        """Add ``--name`` and ``--no-name``, on by default."""
        self.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=help)


def positive_int(text: str) -> int:
    """An argparse type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def size_or_dynamic(text: str) -> int | None:
    """An argparse type: a positive number, or None for ``dynamic``."""
    return None if text == "dynamic" else positive_int(text)
