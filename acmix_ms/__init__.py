"""ACmix for MindSpore: self-attention and convolution on one shared projection (CVPR 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acmix_ms import runtime  # noqa: F401  (first: it prepares the environment that MindSpore reads)
from acmix_ms.checkout import find_models

if TYPE_CHECKING:
    from acmix_ms.ops import ACmix, GlobalACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix

__version__ = "0.1.0"
__all__ = ["ACmix", "GlobalACmix", "PatchwiseACmix", "SpatialReductionACmix", "WindowACmix", "__version__"]

find_models()


def __getattr__(name: str):
    # The Cells are imported when they are asked for, so that a mistyped command answers before MindSpore loads.
    if name in __all__:
        from acmix_ms import ops

        return getattr(ops, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
