"""How far the answers of two nets lie apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Of the largest output. On CPU in float32 a reloaded MINDIR is bitwise equal; other runtimes add up in another order.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}


class VerificationError(RuntimeError):
    """A file does not compute what it should."""


class Difference(NamedTuple):
    """Largest difference of an output: ``absolute``, and ``relative`` to the largest magnitude expected; of ``images``
    the class with the highest logit was ``agreeing`` times the same.
    """

    absolute: float
    relative: float
    agreeing: int
    images: int

    def __str__(self) -> str:
        text = f"{self.absolute:.3g} absolute, {self.relative:.3g} of the largest output"
        return f"{text}, top-1 the same for {self.agreeing} of {self.images}"

    def within(self, tolerance: float) -> bool:
        """Whether this is no more than ``tolerance``, relative; nan is not."""
        return self.relative <= tolerance


def compare(given: np.ndarray, expected: np.ndarray) -> Difference:
    """The difference of two batches of logits, in float64.

    Raises:
        VerificationError: their shapes differ.
    """
    if given.shape != expected.shape:
        raise VerificationError(f"gives shape {given.shape}, expected {expected.shape}: is it another model?")
    given, expected = given.astype(np.float64), expected.astype(np.float64)
    absolute = float(np.abs(given - expected).max())
    rows = [values.reshape(len(values), -1).argmax(1) for values in (given, expected)]
    relative = absolute / max(float(np.abs(expected).max()), 1e-12)
    return Difference(absolute, relative, int((rows[0] == rows[1]).sum()), len(given))
