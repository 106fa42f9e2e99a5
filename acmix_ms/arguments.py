"""Command-line parsing for the entry scripts: mistakes are one line, as everywhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from acmix_ms import config
from acmix_ms.errors import UserError

LARGEST_SIDE = 4096  # of an image, in pixels; as data.image_size
PRINT_CONFIG = "--print-config"


class ArgumentParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `UserError` instead of printing its usage and leaving."""

    def error(self, message: str):
        """Called by argparse for wrong arguments."""
        raise UserError(f"{message}; see {self.prog} --help")

    def add_config(self, *, required: bool = True) -> None:
        """Add ``--config FILE``, ``key=value`` overrides and ``--print-config``, and all keys to the help."""
        self.add_argument("--config", required=required, metavar="FILE", help="YAML file, such as one in configs/")
        self.add_argument("overrides", nargs="*", metavar="key=value", help="change a key, such as optim.lr=0.05")
        self.add_argument(PRINT_CONFIG, action="store_true", help="print all keys as they would be used, and leave")
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self.epilog = "\n".join(["keys and their defaults:", *(f"  {line}" for line in config.describe_keys())])

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        """As argparse does; with ``--print-config`` nothing else is required, and the process ends here."""
        args = sys.argv[1:] if args is None else args
        wanted = PRINT_CONFIG in args and any(PRINT_CONFIG in action.option_strings for action in self._actions)
        if wanted:
            for action in self._actions:
                action.required = False
        found = super().parse_intermixed_args(args, namespace)
        if wanted:
            print(config.to_yaml(_effective(found), comments=True), end="")
            self.exit()
        return found

    def add_flag(self, name: str, *, help: str) -> None:
        """Add ``--name`` and ``--no-name``, on by default."""
        self.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=help)


def _effective(found: argparse.Namespace) -> config.Config:
    """The configuration of a command line: that of its file, or the defaults."""
    if found.config:
        return config.load(found.config, found.overrides)
    for name in ("model", "checkpoint"):
        if getattr(found, name, None):
            raise UserError(f"{PRINT_CONFIG} goes with --config FILE, not with --{name}")
    return config.from_overrides(found.overrides)


def positive_int(text: str) -> int:
    """An argparse type."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def share(text: str) -> float:
    """An argparse type: 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


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
