"""Run and export models with MindSpore's own Ascend backend without an Ascend, and tell what it launched and wrote.

The backend works on a stand-in for CANN (`acmix_ms.deploy.ascend.cann`) in a process of its own: kernels are selected,
built and launched, memory is planned, as on a device. CANN's own refusals stay unseen, and so does speed.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from acmix_ms.deploy.ascend import cann, launches
from acmix_ms.deploy.ascend.air import Graph
from acmix_ms.deploy.ascend.launches import Recording
from acmix_ms.deploy.ascend.meanings import NoMeaningError

MODES = ("infer", "fused", "train", "air")
PRECISIONS = ("fp32", "fp16")
SOCS = ("Ascend910B3", "Ascend910A")
LINES_OF_ERROR = 3


@dataclass(frozen=True)
class Job:
    """Something to run.

    Attributes:
        model: a registered name.
        mode: ``"infer"`` as trained, ``"fused"`` as exported, ``"train"`` for one step of train.py, ``"air"`` for an
            AIR file of the latter form.
        precision: ``"fp32"`` or ``"fp16"``.
        image_size: of the square images.
        batch: how many of them.
        optimizer: of a train step.
        numbers: a file for the results as npz; then every kernel is computed, too.
    """

    model: str
    mode: str = "infer"
    precision: str = "fp32"
    image_size: int = 224
    batch: int = 1
    optimizer: str = "sgd"
    numbers: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a `Job`.

    Attributes:
        job: which one.
        recording: what was launched while it ran, compiling aside.
        peak: bytes of memory of the device, as it was planned.
        again: what was launched and called by a second step of training.
        waits: how often the host waited for the device in that step.
        unknown: kernels that were to be computed and have no meaning in `compute`.
        error: why it did not run to its end, or what is wrong with a graph; else empty.
        graph: of an AIR file.
    """

    job: Job
    recording: Recording
    peak: int = 0
    again: Recording = field(default_factory=Recording)
    waits: int = 0
    unknown: tuple[str, ...] = ()
    error: str = ""
    graph: Graph | None = None

    @property
    def fine(self) -> bool:
        """It ran, on the AI Core alone."""
        return not self.error and not self.recording.fall_backs


def run(jobs: Sequence[Job], soc: str | None, command: Sequence[str]) -> Iterator[Result]:
    """Run jobs one after the other; where one ends its process, the others go on in a new one.

    Args:
        jobs: what to run.
        soc: which Ascend to find, as ``aclrtGetSocName`` tells it: one of `SOCS` or another; None for the CPU.
        command: of the worker, scripts/dry_run_worker.py.

    Raises:
        UserError: no stand-in can be made here, see `cann.stand_in`.
    """
    folder, left = cann.stand_in() if soc else None, list(jobs)
    while left:
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "log"
            environment = cann.environment(folder, soc, log) if soc else None
            for result in _one_process(left, [*command, "Ascend" if soc else "CPU"], environment, log):
                left = left[1:]
                yield result


def _one_process(
    jobs: Sequence[Job], command: Sequence[str], environment: dict[str, str] | None, log: Path
) -> Iterator[Result]:
    """The results of jobs until they are done, or up to the one that ends the process."""
    with open(log.with_name("stderr"), "w+", encoding="utf-8", errors="replace") as said:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
            cwd=log.parent,
            text=True,
        )
        try:
            for job in jobs:
                answer = _ask(worker, job)
                found = _recorded(log)
                if answer is None:
                    worker.wait()
                    yield Result(job, found["run"], error=_last_words(said, worker.returncode))
                    return
                log.write_text("")  # of the next job; the stand-in appends
                if log.with_name("net.air").exists():
                    yield _exported(job, answer, log.with_name("net.air"))
                else:
                    waits = found["again"].waits - found["idle"].waits  # the step ends with one for all
                    told = answer["peak"], found["again"], waits, tuple(answer["unknown"]), answer["error"]
                    yield Result(job, found["run"], *told)
        finally:
            worker.kill()
            worker.communicate()


def _exported(job: Job, answer: dict, air: Path) -> Result:
    graph, error = Graph(air), answer["error"]
    air.unlink()
    if len(graph.inputs) != 1:
        error = f"the file has {len(graph.inputs)} inputs: {', '.join(graph.inputs[:4])}"
    elif graph.missing:
        error = "; ".join(graph.missing[:4])
    elif graph.constant_bytes < answer["weights"]:
        error = f"the file has {graph.constant_bytes} bytes of constants for {answer['weights']} of weights"
    elif job.numbers and not error:
        try:
            np.savez(job.numbers, *graph.compute(images_of(job)))
        except NoMeaningError as problem:
            error = f"no meaning of {problem}"
    return Result(job, Recording(), error=error, graph=graph)


def images_of(job: Job) -> np.ndarray:
    """(batch, 3, size, size) float32: what a job is given."""
    shape = (job.batch, 3, job.image_size, job.image_size)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def _ask(worker: subprocess.Popen, job: Job) -> dict | None:
    """The worker's answer; None if it has ended."""
    try:
        worker.stdin.write(json.dumps(asdict(job)) + "\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return None
    answer = worker.stdout.readline()
    return json.loads(answer) if answer else None


def _recorded(log: Path) -> dict[str, Recording]:
    """What was noted while the last job ran, by the worker's marks."""
    found = {mark: Recording() for mark in ("run", "again", "idle")}
    if log.exists():
        found.update(launches.read(log))
    return found


def _last_words(said, status: int) -> str:
    said.seek(0)
    lines = [line.strip() for line in said if line.strip() and not line.startswith(("[WARNING]", "[INFO]"))]
    errors = [line for line in lines if "Error" in line or "[ERROR]" in line] or lines
    return " | ".join(errors[-LINES_OF_ERROR:]) or f"it ended with status {status}"


def difference(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest difference of two sets of arrays, relative, and where it is.

    Each is judged by the largest magnitude of its own array, or a thousandth of that of its kind (outputs, weights,
    gradients as the optimizer keeps them), where it is larger: some gradients are zero but for rounding. A single
    number is judged by the largest of its kind: a rate's gradient is a long sum that nearly cancels.

    Raises:
        ValueError: they are not of the same names and shapes.
    """
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in expected.items()}:
        raise ValueError("other arrays")
    largest: dict[str, float] = {}
    for name, value in expected.items():
        kind = _kind(name)
        largest[kind] = max(largest.get(kind, 0.0), float(np.abs(value).max(initial=0)))
    worst = 0.0, ""
    for name, value in expected.items():
        share = 1 if value.size == 1 else 1e-3
        scale = max(float(np.abs(value).max(initial=0)), share * largest[_kind(name)], 1e-30)
        apart = float(np.abs(found[name].astype(np.float64) - value).max(initial=0)) / scale
        if np.isnan(apart):
            return apart, name
        worst = max(worst, (apart, name))
    return worst


def _kind(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "optimizer":
        return parts[1]
    return "outputs" if name.startswith("arr_") else "weights"
