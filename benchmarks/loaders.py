"""How fast a loader is by itself, when nothing but the loader works."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from acmix_ms.config import DataConfig
from acmix_ms.data.loader import Batch, Loader
from benchmarks.protocol import environment, spread

FILE = "data.json"
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


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def run(loader: Loader, data: DataConfig, folder: Path, *, warmup: int, repetitions: int) -> None:
    """Print how many training images come per second, and write it as `FILE` into ``folder``."""
    what = f"data.name={data.name} data.batch_size={data.batch_size} data.image_size={data.image_size}"
    print(f"{what} data.workers={data.workers}: {loader.num_samples:,} images", flush=True)
    turns = measure(loader, warmup=warmup, repetitions=repetitions)
    images, seconds = (sum(column) for column in zip(*turns))
    rates = [count / duration for count, duration in turns]
    found = {
        "environment": environment(),
        "protocol": {"warmup": warmup, "repetitions": repetitions},
        "data": asdict(data),
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "turns": rates,
        **spread(rates),
    }
    (folder / FILE).write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(f"{images / seconds:.0f} img/s ({min(rates):.0f} to {max(rates):.0f} in {len(rates)} turns)")
    print(folder / FILE)
