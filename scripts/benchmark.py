"""Measure speed and memory, or predict speed; ``benchmarks/command.py`` says how."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms.errors import run_cli  # noqa: E402
from benchmarks.command import main  # noqa: E402

if __name__ == "__main__":
    run_cli(main)
