"""Who computes what the stand-in launches, in the memory that it was given; see `meanings` for what that is."""

from __future__ import annotations

import ctypes
import json
import traceback

from acmix_ms.deploy.ascend.launches import launch_of
from acmix_ms.deploy.ascend.meanings import NoMeaningError, compute, view

FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
VERDICTS = ("aclnnAllFinite", "NPUGetFloatStatusV2", "NPUClearFloatStatusV2")  # 0: all numbers are finite
SMALL = 4096  # bytes: so much of a dry run is computed always, because control flow depends on flags


class Computer:
    """Computes launches.

    Attributes:
        everything: whether all are computed, or only those of a few numbers.
        callback: for ``stand_in_on_launch``.
        unknown: kernels that were to be computed and have no meaning here, or could not be.
    """

    def __init__(self):
        self.everything = False
        self.unknown: set[str] = set()
        self.callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._launched)

    def _launched(self, record: bytes) -> None:
        launch = launch_of(json.loads(record))
        if not self.everything:
            if launch.name in VERDICTS:  # of numbers that were not computed
                for operand in launch.operands[-1:]:
                    view(operand)[...] = 0
                return
            if launch.bytes > SMALL:
                return
        try:
            compute(launch)
        except NoMeaningError as error:
            self.unknown.add(str(error))
        except FAILURES:  # they would vanish in the C++ code that called
            self.unknown.add(f"{launch}: {traceback.format_exc(limit=-1)}")
