"""Command-line parsing for the entry scripts: mistakes are one line, as everywhere."""

from __future__ import annotations

import argparse

from acmix_ms.errors import UserError

LARGEST_SIDE = 8192  # of an image, in pixels


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
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def sides_or_dynamic(text: str) -> tuple[int, int] | None:
    """An argparse type: ``N`` or ``HxW`` as (H, W), or None for ``dynamic``."""
    if text == "dynamic":
        return None
    sides = tuple(positive_int(side) for side in text.split("x"))
    if len(sides) > 2 or max(sides) > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is no N or HxW up to {LARGEST_SIDE}")
    return sides if len(sides) == 2 else 2 * sides


def size_or_dynamic(text: str) -> int | None:
    """An argparse type: a positive number, or None for ``dynamic``."""
    return None if text == "dynamic" else positive_int(text)
