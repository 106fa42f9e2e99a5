"""The ACmix operator: Cells above pure functions."""

from acmix_ms.ops.base import ShiftConv
from acmix_ms.ops.patchwise import PatchwiseACmix
from acmix_ms.ops.reduction import GlobalACmix, SpatialReductionACmix
from acmix_ms.ops.sliding import ACmix
from acmix_ms.ops.window import WindowACmix

__all__ = ["ACmix", "GlobalACmix", "PatchwiseACmix", "ShiftConv", "SpatialReductionACmix", "WindowACmix"]
