"""Run a session of measurements: a process for each specification, the same weights and inputs, answers that agree."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acmix_ms import runtime
from benchmarks.protocol import RELOADED, Measured, Spec, interleave
from benchmarks.targets import AGREEMENT, DEPLOY_AGREEMENT
from benchmarks.worker import Worker, WorkerError

FOLDER = Path(__file__).resolve().parent / "workers"
CLASSES = 1000
SECOND_LOSS = 10 * AGREEMENT  # AdamW's first step divides small gradients by their own size: rounding shows


class Disagreement(RuntimeError):
    """Two implementations that are compared do not compute the same."""


@dataclass(frozen=True)
class Settings:
    """What all sessions share: where and how to run, and the official side (clone and Python), if there is one."""

    device: str
    threads: int
    precision: str
    warmup: int
    repetitions: int
    clone: str | None = None
    official_python: str = sys.executable


def say(text: str) -> None:
    """A line of progress."""
    print(f"    {text}", flush=True)


class Session:
    """Measures some specifications in turns. Use it once: ``Session(settings).measure(specs)``."""

    def __init__(self, settings: Settings, report: Callable[[str], None] = say):
        self.settings, self.report = settings, report
        self.weights: dict[tuple, str] = {}  # file by (model, options without those that hold no weights)

    def measure(self, specs: Sequence[Spec], macs: dict[Spec, int] | None = None) -> dict[Spec, Measured]:
        """Build, compare the outputs, take turns, ask for the memory.

        Raises:
            Disagreement: outputs differ; nothing was timed.
        """
        found = {spec: Measured(spec, macs=(macs or {}).get(spec)) for spec in specs}
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, contextlib.ExitStack() as stack:
            self.folder = Path(folder)
            workers: dict[Spec, Worker] = {}
            for number, spec in enumerate(specs):
                try:
                    workers[spec] = self.start(stack, spec, number, found[spec])
                except WorkerError as error:
                    found[spec].failure = str(error)
                    self.report(f"left out: {error}")
            self.compare(workers, found)
            timings, failed = interleave(
                {spec: worker.run for spec, worker in workers.items()},
                warmup=self.settings.warmup,
                repetitions=self.settings.repetitions,
                failures=(WorkerError,),
                report=self.report,
            )
            for spec in workers:
                found[spec].timing, found[spec].failure = timings.get(spec), failed.get(spec)
                if spec in timings:
                    found[spec].peak = workers[spec].ask("memory")["peak"]
        product = next((m for spec, m in found.items() if spec.source == "gemm" and m.timing), None)
        for measured in found.values():
            measured.gemm = product and product.gflops
        return found

    def start(self, stack: contextlib.ExitStack, spec: Spec, number: int, found: Measured) -> Worker:
        """A process that has built what ``spec`` says."""
        request = {
            "source": spec.source,
            "model": spec.model,
            "form": spec.form,
            "threads": self.settings.threads,
        }
        if spec.source != "gemm":
            request["inputs"] = str(self.inputs(spec))
            request.update(self.exchange(spec))
        if spec.foreign:
            request.update(clone=self.settings.clone, image_size=spec.image_size)
        else:
            request["device"] = self.settings.device
            if spec.source != "gemm":
                request.update(options=dict(spec.options), precision=self.settings.precision)
        if spec.source == "file":
            request["path"] = spec.model
        elif spec.form in RELOADED:
            # Exported by another process: what exporting takes is not what running takes.
            request["path"] = str(self.folder / f"{number}.mindir")
            with self.worker(spec) as exporter:
                exporter.ask("build", **{**request, "form": spec.form.replace("mindir", "export")})
        self.report(f"building {spec.label}")
        worker = stack.enter_context(self.worker(spec))
        answer = worker.ask("build", **request)
        if "save" in request:
            self.weights[self.key(spec)] = request["save"]
        found.flops, found.versions, found.device = answer.get("flops"), answer["versions"], answer["device"]
        return worker

    def worker(self, spec: Spec) -> Worker:
        """A new process of the right kind."""
        if spec.foreign:
            script = "mmdetection.py" if spec.source == "mmdetection" else "official.py"
            command = [self.settings.official_python, str(FOLDER / script)]
            return Worker(spec.label, command, runtime.foreign_environment())
        return Worker(spec.label, [sys.executable, str(FOLDER / "ours.py")])

    def inputs(self, spec: Spec) -> Path:
        """File of images and labels, the same for the same shape."""
        path = self.folder / f"inputs-{'-'.join(map(str, spec.shape))}.npz"
        if not path.exists():
            random = np.random.default_rng(0)
            images = random.standard_normal(spec.shape).astype(np.float32)
            np.savez(path, images=images, labels=random.integers(0, CLASSES, spec.batch))
        return path

    @staticmethod
    def key(spec: Spec) -> tuple:
        """What has the same weights."""
        return spec.model, tuple(pair for pair in spec.options if pair[0] != "drop_path_rate")

    def exchange(self, spec: Spec) -> dict[str, str]:
        """Load the weights that the first process with this model has saved, or save them as the first."""
        if spec.source in ("mindcv", "file"):
            return {}
        key = self.key(spec)
        if key in self.weights:
            return {"load": self.weights[key]}
        ending = "npz" if spec.foreign else "ckpt"
        return {"save": str(self.folder / f"weights-{len(self.weights)}.{ending}")}

    def compare(self, workers: dict[Spec, Worker], found: dict[Spec, Measured]) -> None:
        """Outputs of everything that computes the same from the same; the first of each is the measure."""
        firsts: dict[tuple, tuple[Spec, np.ndarray]] = {}
        for spec, worker in list(workers.items()):
            if spec.source in ("gemm", "mindcv", "file"):
                continue
            path = self.folder / f"output-{len(firsts)}-{len(found)}.npy"
            try:
                kind = worker.ask("output", path=str(path)).get("kind")
            except WorkerError as error:
                found[spec].failure = str(error)
                self.report(f"left out: {error}")
                del workers[spec]
                continue
            output = np.load(path).astype(np.float64)
            group = (self.key(spec), spec.batch, spec.image_size, spec.training, kind)
            first, expected = firsts.setdefault(group, (spec, output))
            if first is not spec:
                self.check(spec, first, output, expected, found[spec])

    def check(self, spec: Spec, first: Spec, output: np.ndarray, expected: np.ndarray, found: Measured) -> None:
        """Raise Disagreement where two outputs are too far from each other."""
        if output.shape != expected.shape:
            raise Disagreement(f"{spec.label} gives {output.shape}, {first.label} gives {expected.shape}")
        relative = np.abs(output - expected) / max(np.abs(expected).max(), 1e-12)
        found.difference = float(relative.max())
        same_side = spec.source == first.source and not {spec.form, first.form} & set(RELOADED)
        allowed = DEPLOY_AGREEMENT if same_side else AGREEMENT
        if spec.training:
            allowed = np.array([AGREEMENT, SECOND_LOSS])
        if self.settings.precision != "fp32":
            allowed = np.inf  # 16 bits are as exact as they are: the difference is told, and that is all
        self.report(f"{spec.label} differs by {found.difference:.1e} of the largest output from {first.label}")
        if not np.all(relative <= allowed):
            raise Disagreement(
                f"{spec.label} differs by {found.difference:.2e} of the largest output from {first.label}, "
                f"allowed is {np.min(allowed):g}: nothing was timed"
            )


def count_macs(specs: Sequence[Spec], settings: Settings) -> dict[Spec, int]:
    """Multiply-adds of one step of each specification (the official code's are ours); in a process that ends."""
    counted = [spec for spec in specs if spec.source not in ("gemm", "file")]
    wanted = dict.fromkeys((spec.model, spec.options, spec.image_size) for spec in counted)
    with Worker("counting multiply-adds", [sys.executable, str(FOLDER / "ours.py")]) as worker:
        answer = worker.ask(
            "count", device=settings.device, models=[(model, dict(options), size) for model, options, size in wanted]
        )
    one = dict(zip(wanted, answer["macs"]))
    return {s: one[s.model, s.options, s.image_size] * s.batch * s.steps_of_forward for s in counted}
