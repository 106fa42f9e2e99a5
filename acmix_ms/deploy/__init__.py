"""Files for devices: exported, and proved to compute the same before they get their name."""

from acmix_ms.deploy.comparison import (
    TOLERANCES,
    Difference,
    Differences,
    VerificationError,
    compare,
    compare_outputs,
)
from acmix_ms.deploy.description import Description, Output
from acmix_ms.deploy.exporter import FORMATS, check_format, check_output, export, outputs, possible_formats, verify
from acmix_ms.deploy.files import SUFFIXES, open_file
from acmix_ms.deploy.runner import CellRunner, NotFiniteError, Runner

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "TOLERANCES",
    "CellRunner",
    "Description",
    "Difference",
    "Differences",
    "NotFiniteError",
    "Output",
    "Runner",
    "VerificationError",
    "check_format",
    "check_output",
    "compare",
    "compare_outputs",
    "export",
    "open_file",
    "outputs",
    "possible_formats",
    "verify",
]
