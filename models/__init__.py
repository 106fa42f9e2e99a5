"""Model zoo: every backbone, detector and segmentor of the paper beside its plain baseline."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .registry import create_model, list_models, model_task, register_model

__all__ = ["create_model", "list_models", "model_task", "register_model"]

if __name__ == "models":  # imported in the root of a checkout: acmix_ms/checkout.py
    sys.modules[__name__] = importlib.import_module("acmix_ms.models")


def __getattr__(name: str):
    # MindSpore is loaded when a model is asked for, so that a mistyped command answers before.
    if name in __all__:
        from . import registry

        registry.import_families()
        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
