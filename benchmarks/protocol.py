"""The protocol of a speed measurement: what is measured, in which order, and what the seconds come to.

Everything that is measured lives in a process of its own (`benchmarks.worker`), so that its peak memory is its
own and no framework disturbs another. The processes take turns (A B C A B C ...), and two of them are compared turn by
turn: what slows the machine for a while slows both, and leaves their ratio alone. Nothing here loads MindSpore, except
`gemm_step`, which runs in such a process.
"""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from acmix_ms import runtime
from acmix_ms.machine import cpu_model, versions

BATCH, SIZE = 4, 224  # unless the command or a row says otherwise
FORMS = ("infer", "deploy", "mindir", "mindir-raw", "mindir-unfused", "train", "train-maps")
RELOADED = ("mindir", "mindir-raw", "mindir-unfused")  # forms that run from a file
WORDS = {"official": "official, eager", "compiled": "official, torch.compile", "mmdetection": "mmdetection, eager"}
OF_DETECTORS = ("mindir-raw", "train-maps")
GEMM_SIZE = 2048  # 17 GFLOP: large enough to reach the rate that this machine's kernel can reach
TURN_SECONDS = 0.5  # a turn has as many steps as fit in about this; its time is their median
MOST_STEPS = 20  # in a turn
IDLE_SECONDS = 0.05  # between turns: threads that spin while they wait for work have gone to sleep by then
TRAIN_FACTOR = 3  # multiply-adds of a train step over those of a forward: one for inputs, one for weights


@dataclass(frozen=True)
class Spec:
    """One thing to measure.

    Attributes:
        model: name in the zoo (also for the official code), or path of a file; empty for the matrix product.
        form: ``"infer"`` (the net as trained, in graph mode), ``"deploy"`` (fused for inference), ``"mindir"``
            (fused, exported, loaded again), ``"mindir-unfused"`` (the same without fusing) or ``"train"`` (forward,
            backward, AdamW); of a file its format: ``"mindir"``, ``"onnx"`` or ``"ms"``. A detector gives maps as it
            was trained or fused, detections from a MINDIR, and maps again from a ``"mindir-raw"``; its step begins with
            the targets of the images, which ``"train-maps"`` leaves out, as it does the losses: it has the mean square
            of the maps in their place.
        source: ``"ours"``, ``"official"`` (the authors' PyTorch code, eager), ``"compiled"`` (the same under
            torch.compile), ``"mindcv"``, ``"mmdetection"`` (its own net, PyTorch, eager), ``"file"`` (one that is there
            already) or ``"gemm"`` (one large float32 matrix product by MindSpore).
        batch: images at once.
        image_size: side of the images in pixels, or height and width.
        options: keyword arguments of the model, as (name, value) pairs.
    """

    model: str
    form: str = "infer"
    source: str = "ours"
    batch: int = BATCH
    image_size: int | tuple[int, int] = SIZE
    options: tuple[tuple[str, object], ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the input: (B, 3, H, W)."""
        sides = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return self.batch, 3, *sides

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.source == "gemm":
            return f"matrix product {GEMM_SIZE}x{GEMM_SIZE}x{GEMM_SIZE}"
        name = " ".join([self.model, *(f"{key}={value}" for key, value in self.options)])
        source = WORDS.get(self.source, self.source)
        batch, _, height, width = self.shape
        return f"{name} ({source}, {self.form}, {batch}x{height}x{width})"

    @property
    def training(self) -> bool:
        """Whether a step has a backward pass."""
        return self.form.startswith("train")

    @property
    def foreign(self) -> bool:
        """Whether PyTorch runs it."""
        return self.source in ("official", "compiled", "mmdetection")

    @property
    def steps_of_forward(self) -> int:
        """Multiply-adds of one step over those of the forward pass."""
        return TRAIN_FACTOR if self.training else 1


GEMM = Spec("", source="gemm", batch=1, image_size=GEMM_SIZE)


@dataclass(frozen=True)
class Timing:
    """Seconds of one step, a value for each turn."""

    turns: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the turns."""
        return float(np.median(self.turns))

    def summary(self) -> dict[str, float]:
        """Median, extremes and quartiles in seconds."""
        return {"median": self.median, **spread(self.turns)}


def spread(values: Iterable[float]) -> dict[str, float]:
    """``min``, ``lower`` and ``upper`` quartile, ``max``."""
    low, lower, upper, high = np.percentile(list(values), [0, 25, 75, 100]).tolist()
    return {"min": low, "lower": lower, "upper": upper, "max": high}


@dataclass
class Measured:
    """What became of a `Spec`.

    Attributes:
        spec: what was to be measured.
        timing: None when it failed.
        peak: most memory above the imports, in bytes; None where another process holds it (MindSpore Lite).
        macs: multiply-adds of one step (convention A of `complexity`).
        gemm: GFLOP/s of the matrix product measured in between.
        flops: of one step, where they are known otherwise.
        difference: largest difference of its output from that of the first process with the same model and input,
            relative to the largest output.
        failure: why there is no timing.
        device: that it ran on.
        versions: of what it ran in.
    """

    spec: Spec
    timing: Timing | None = None
    peak: int | None = None
    macs: int | None = None
    gemm: float | None = None
    flops: float | None = None
    difference: float | None = None
    failure: str | None = None
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def gflops(self) -> float | None:
        """Achieved GFLOP/s: two operations for a multiply-add."""
        work = self.flops or (2 * self.macs if self.macs else None)
        return work / self.timing.median / 1e9 if work and self.timing else None

    @property
    def share(self) -> float | None:
        """Part of the rate of the matrix product that is reached."""
        return self.gflops / self.gemm if self.gflops and self.gemm else None

    def record(self) -> dict:
        """All of it as JSON values."""
        spec, timing = self.spec, self.timing
        return {
            "label": spec.label,
            "model": spec.model,
            "form": spec.form,
            "source": spec.source,
            "batch": spec.batch,
            "image_size": spec.image_size,
            "options": dict(spec.options),
            "device": self.device,
            "failure": self.failure,
            "seconds": timing and timing.summary(),
            "turns": timing and list(timing.turns),
            "latency_ms": timing and 1e3 * timing.median,
            "images_per_second": timing and spec.batch / timing.median,
            "peak_bytes": self.peak,
            "macs": self.macs,
            "gflops": self.gflops,
            "gemm_gflops": self.gemm,
            "gemm_share": self.share,
            "difference": self.difference,
        }


# ---------------------------------------------------------------------------------------------------------- the order
def interleave(
    runners: Mapping[object, Callable[[int], list[float]]],
    *,
    warmup: int,
    repetitions: int,
    failures: tuple[type[Exception], ...] = (),
    report: Callable[[str], None] = lambda text: None,
    pause: float = IDLE_SECONDS,
) -> tuple[dict[object, Timing], dict[object, str]]:
    """Measure several things in turns.

    Args:
        runners: by any key, a function that runs n steps and gives the seconds of each.
        warmup: steps of each before the first turn.
        repetitions: turns of each.
        failures: exceptions that end one runner and no other.
        report: called with a line of progress now and then.
        pause: seconds between turns.

    Returns:
        Timings, and for what failed the reason, by key.
    """
    steps, turns = {}, {key: [] for key in runners}
    failed: dict[object, str] = {}

    def attempt(key, count: int) -> list[float]:
        time.sleep(pause)
        try:
            return runners[key](count)
        except failures as error:
            failed[key] = str(error)
            report(f"failed: {error}")
            return []

    for key in runners:
        seconds = attempt(key, warmup)
        if seconds:
            # The last is the warmest: the first may hold a compilation.
            steps[key] = max(1, min(MOST_STEPS, round(TURN_SECONDS / max(seconds[-1], 1e-9))))
            report(f"warm: {getattr(key, 'label', key)}, about {1e3 * seconds[-1]:.1f} ms")
    for turn in range(repetitions):
        for key in runners:
            if key not in failed:
                turns[key].append(attempt(key, steps[key]))
        if turn + 1 in (1, repetitions) or (turn + 1) % 5 == 0:
            report(f"turn {turn + 1} of {repetitions}")
    timings = {k: Timing(tuple(float(np.median(s)) for s in turns[k])) for k in runners if k not in failed}
    return timings, failed


def ratios(slower: Timing, faster: Timing) -> tuple[float, ...]:
    """How many times longer ``slower`` takes, turn by turn."""
    return tuple(a / b for a, b in zip(slower.turns, faster.turns))


# ------------------------------------------------------------------------------------------------------- the machine
def gemm_step(size: int = GEMM_SIZE) -> tuple[Callable[[], object], float]:
    """A step that multiplies two float32 matrices through MindSpore on the current device, and its operations."""
    import mindspore as ms

    random = np.random.default_rng(0)
    left, right = (ms.Tensor(random.standard_normal((size, size)).astype(np.float32)) for _ in range(2))
    product = ms.ops.MatMul()

    def step() -> object:
        # One element is fetched: it waits for the product without copying all of it.
        return product(left, right)[0, 0].asnumpy()

    return step, 2.0 * size**3


def environment(**settings) -> dict:
    """What a figure depends on beside the code: this machine, and ``settings`` such as threads and precision."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": runtime.cpu_cores(),
        **settings,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }
