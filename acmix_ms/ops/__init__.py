"""The ACmix operator: Cells above pure functions."""

from acmix_ms.ops.base import ShiftConv
from acmix_ms.ops.sliding import ACmix
from acmix_ms.ops.window import WindowACmix

__all__ = ["ACmix", "ShiftConv", "WindowACmix"]
