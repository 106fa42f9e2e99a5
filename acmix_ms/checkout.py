"""Where ``models/`` and ``configs/`` are: inside acmix_ms once it is installed (setup.py), beside it in a checkout.

In both the models are the package ``acmix_ms.models``, so that ``models`` of another project is not in its way. In the
root of a checkout ``models`` can be imported as well, and gives the same modules: one registry, each class once.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location, spec_from_loader
from pathlib import Path
from types import ModuleType

PACKAGE = "acmix_ms.models"
_INSIDE = Path(__file__).resolve().parent
_BESIDE = not (_INSIDE / "models").is_dir()
_HOME = _INSIDE.parent if _BESIDE else _INSIDE
CONFIGS = _HOME / "configs"


def shipped(path: str | os.PathLike) -> Path:
    """``configs/...`` of the project itself where the working folder has no such file; any other path as it is."""
    path = Path(path)
    own = CONFIGS.parent / path
    return own if path.parts[:1] == (CONFIGS.name,) and not path.exists() and own.is_file() else path


class _Finder(MetaPathFinder, Loader):
    """Finds ``acmix_ms.models`` beside acmix_ms, and its modules under the name ``models.*``."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name == PACKAGE:
            folder = _HOME / "models"
            return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        ours = name.startswith("models.") and sys.modules["models"] is sys.modules.get(PACKAGE)
        # MindSpore asks for modules of names that are none, such as models.create_model, to see which files to watch.
        return spec_from_loader(name, self) if ours and find_spec(f"acmix_ms.{name}") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"acmix_ms.{spec.name}")
        spec.loader_state = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state


def find_models() -> None:
    """Make `acmix_ms.models` importable in a checkout; an installed package has it where Python looks by itself."""
    if _BESIDE:
        sys.meta_path.insert(0, _Finder())
