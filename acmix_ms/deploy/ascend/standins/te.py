"""In the place of CANN's Python packages for writing kernels: whatever is imported from them can be, and does nothing.

MindSpore imports them for kernels of its own that are compiled on the host; none of our graphs has one.
"""

import importlib.abc
import importlib.machinery
import sys
from unittest import mock

PACKAGES = ("te", "tbe", "topi", "impl")
REAL = ("te", "te.version")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules of any name below `PACKAGES`."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in PACKAGES and name not in REAL:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module):
        """Nothing is in it."""


sys.meta_path.insert(0, Finder())


def __getattr__(name):
    if name.startswith("__") or name == "version":
        raise AttributeError(name)
    return mock.MagicMock(name=f"te.{name}")
