"""What tests of the counts share."""

from __future__ import annotations

import importlib.util

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def script():
    """scripts/complexity.py as a module; its name would hide the module of the toolbox."""
    spec = importlib.util.spec_from_file_location("complexity_script", ROOT / "scripts" / "complexity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
