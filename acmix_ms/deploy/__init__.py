"""Files for devices: exported, and proved to compute the same before they get their name."""

from acmix_ms.deploy.exporter import FORMATS, Difference, VerificationError, check_format, check_output, export, verify

__all__ = ["FORMATS", "Difference", "VerificationError", "check_format", "check_output", "export", "verify"]
