"""For tests that need a stand-in for an Ascend."""

from __future__ import annotations

import shutil
import sys

import pytest

needs_stand_in = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, ("cc", "c++", "nm", "readelf"))),
    reason="a stand-in for CANN is made with compilers of C and C++ and binutils, on Linux",
)
