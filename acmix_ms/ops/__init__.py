"""The ACmix operator: Cells above pure functions."""

from acmix_ms.ops.cells import ACmix, ShiftConv, WindowACmix

__all__ = ["ACmix", "ShiftConv", "WindowACmix"]
