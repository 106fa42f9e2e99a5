"""What a figure depends on beside the code: the processor, and the versions of what computes."""

from __future__ import annotations

import platform
from importlib import metadata

import numpy as np


def versions() -> dict[str, str]:
    """Of what our processes compute with."""
    found = {"Python": platform.python_version(), "NumPy": np.__version__}
    for name, package in (("MindSpore", "mindspore"), ("mindcv", "mindcv")):
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """As the system calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
