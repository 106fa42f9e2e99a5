"""How fast a loader is by itself, when nothing but the loader works."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np

from acmix_ms.data.loader import Loader

TURN_SECONDS = 2.0  # a turn has as many batches as it takes to fill this


def measure(loader: Loader, *, warmup: int, repetitions: int) -> list[tuple[int, float]]:
    """(images, seconds) of each of ``repetitions`` turns, after ``warmup`` batches, epoch after epoch."""
    batches = _endless(loader)
    for _ in range(warmup):
        next(batches)
    turns = []
    for _ in range(repetitions):
        images, seconds, began = 0, 0.0, time.perf_counter()
        while seconds < TURN_SECONDS:
            images += len(next(batches)[0])
            seconds = time.perf_counter() - began
        turns.append((images, seconds))
    return turns


def _endless(loader: Loader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)
