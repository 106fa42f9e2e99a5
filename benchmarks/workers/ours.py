"""The process that measures one model of the zoo (or mindcv's, an exported file, or a plain matrix product)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from serve import Job, Refusal, forget_peak, serve, use_cores  # noqa: E402

from acmix_ms import config, runtime  # noqa: E402
from acmix_ms.errors import UserError  # noqa: E402
from acmix_ms.machine import versions  # noqa: E402
from benchmarks.protocol import OF_DETECTORS, RELOADED, gemm_step  # noqa: E402

LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05  # of AdamW; the official side has the same


@contextlib.contextmanager
def refusing():
    """A `UserError` is an answer, not the end of the process."""
    try:
        yield
    except UserError as error:
        raise Refusal(str(error)) from error


def flattened(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One array as it is; of several all values one after the other."""
    return arrays[0] if len(arrays) == 1 else np.concatenate([array.reshape(-1) for array in arrays])


def mean_square(net, images):
    """A loss of a detector's maps that costs nearly nothing, see `acmix_ms.engine.losses.Loss`."""
    total = 0.0
    for maps in net(images):
        for values in maps:
            total = total + (values * values).mean()
    return total, {}


class Ours(Job):
    """One form of one model, or one file."""

    kind = "maps"  # what it gives: these or logits, detections, losses, or squares in their place
    lite: Callable[[int], list[float]] | None = None  # seconds of n steps, where MindSpore Lite runs them

    def start(self, device: str, threads: int, source: str) -> None:
        """Import everything, take the memory for the baseline, choose the device."""
        use_cores(threads)
        import mindspore  # noqa: F401

        import models  # noqa: F401
        from acmix_ms.engine import trainer  # noqa: F401

        if source == "mindcv":
            try:
                import mindcv  # noqa: F401
            except ImportError as error:
                raise Refusal(f"mindcv cannot be imported ({error}): install what it needs beside it") from error
        self.imported()
        with refusing():
            self.device = runtime.start(device, mode="graph", seed=0, threads=threads)

    def build(self, *, device: str, threads: int, source: str, **spec) -> dict:
        """Build what the specification says; see `protocol.Spec` for the fields."""
        self.start(device, threads, source)
        if source == "gemm":
            self.step, flops = gemm_step()
            return {"device": self.device, "versions": versions(), "flops": flops}
        if source == "file" and spec["form"] not in RELOADED:
            return self.open_file(threads=threads, **spec)
        with refusing():
            self.build_net(source=source, **spec)
        forget_peak()
        return {"device": self.device, "versions": versions()}

    def build_net(self, *, source, model, form, options, inputs, precision, load=None, save=None, path=None) -> None:
        """Net, weights and step.

        Args:
            source: ``"ours"``, ``"mindcv"`` or ``"file"``.
            model, form, options: name, how it runs, keyword arguments.
            inputs: .npz with ``images`` (B, 3, H, W) and ``labels`` (B,).
            precision: of `acmix_ms.engine.precision`.
            load, save: files of weights: .npz with official names, or a checkpoint of ours.
            path: of the MINDIR to export to (forms ``export`` and ``export-unfused``) or to run (`RELOADED`).
        """
        import mindspore as ms

        from acmix_ms.engine import precision as number_format

        with np.load(inputs) as arrays:
            self.images, self.labels = ms.Tensor(arrays["images"]), ms.Tensor(arrays["labels"].astype(np.int32))
        number_format.require_precision(precision, self.device)
        from acmix_ms.deploy import mindir
        from acmix_ms.ops import fuse
        from models import model_task

        task = model_task(model) if source == "ours" else "classification"
        detector = task == "detection"
        if form in OF_DETECTORS + ("export-raw",) and not detector:
            raise Refusal(f"--mode {form}: {model} is no detector; choose another")
        if form in RELOADED:
            self.kind = "detections" if detector and form != "mindir-raw" else "maps"
            self.infer(mindir.load(path))
            return

        net = self.new_net(source, model, options)
        if not form.startswith("train") and not load:
            # Untrained sums grow from block to block, and a softmax of huge logits magnifies rounding.
            fuse.randomise(net)
        self.exchange_weights(net, load, save)
        if form.startswith("train"):
            self.train(net, model, precision, task, maps_only=form == "train-maps")
            return
        net.set_train(False)
        if form == "deploy":
            net = fuse.fuse(net)
        if form.startswith("export"):
            from acmix_ms.deploy import exporter

            batch, _, *sides = self.images.shape
            cell = net if form == "export-unfused" else fuse.fuse_for_export(net)  # as export.py does
            if detector and form != "export-raw":
                from models.detection.end_to_end import end_to_end

                cell, net = end_to_end(cell, tuple(sides)), end_to_end(net, tuple(sides))
            exporter.export(cell, "mindir", path, image_size=tuple(sides), batch=batch, reference=net)
            return
        from acmix_ms.engine.evaluation import build_predictor

        self.infer(build_predictor(number_format.cast(net, precision)))

    def infer(self, forward) -> None:
        """``self.step`` gives all that ``forward`` does."""
        from acmix_ms.deploy.runner import arrays_in

        self.forward = forward
        self.step = lambda: arrays_in(forward(self.images))

    def open_file(self, *, form, path, inputs, threads, **unused) -> dict:
        """The step of an ONNX or ``.ms`` file; both run on CPU."""
        with np.load(inputs) as arrays:
            images = arrays["images"]
        with refusing():
            if form == "ms":
                from acmix_ms.deploy import lite

                library, self.lite = lite.find(), lambda count: library.seconds(path, images, count, threads=threads)
                return {"device": "CPU", "versions": {**versions(), "MindSpore Lite": library.version}}
            from acmix_ms.deploy.onnx import Onnx

            net = Onnx(path, threads=threads)
        self.step = lambda: net.run(images)
        forget_peak()
        return {"device": "CPU", "versions": {**versions(), "ONNX Runtime": metadata.version("onnxruntime")}}

    def run(self, count: int) -> dict:
        """MindSpore Lite takes the time in its own process, after a step that is not counted."""
        return {"seconds": self.lite(count)} if self.lite else super().run(count)

    def new_net(self, source: str, model: str, options: dict):
        """A Cell of the zoo or of mindcv."""
        if source == "mindcv":
            import mindcv

            return mindcv.create_model(model, **options)
        from models import create_model

        return create_model(model, **options)

    def exchange_weights(self, net, load: str | None, save: str | None) -> None:
        """The same weights for every process that measures this model."""
        from acmix_ms.engine import checkpoint
        from models.pretrained import load_torch_state

        if load and load.endswith(".npz"):
            with np.load(load) as arrays:
                load_torch_state(net, arrays)
        elif load:
            checkpoint.load_weights(net, load)
        if save:
            checkpoint.save(save, net.parameters_dict())

    def train(self, net, model: str, precision: str, task: str, maps_only: bool) -> None:
        """One step of train.py: `Trainer`'s own, and the learning rate that is set before each; of a detector the
        targets of its images as well, which a loader's threads make; of a segmentor labels.
        """
        from acmix_ms.engine import losses
        from acmix_ms.engine.optim import set_learning_rate
        from acmix_ms.engine.trainer import Trainer

        keys = {"optim.name": "adamw", "optim.lr": LEARNING_RATE, "optim.weight_decay": WEIGHT_DECAY}
        keys.update({"train.precision": precision, "run_dir": "runs", "task": task})  # nothing is written there
        loss, targets = None, lambda: [self.labels]
        if task == "segmentation":
            from acmix_ms.maps import example_labels

            batch, _, *sides = self.images.shape
            labels = runtime.to_device(example_labels(batch, *sides, net.num_classes))
            loss, targets = losses.by_name(net.terms), lambda: [labels]
        if task == "detection":
            from models.detection.base import example_targets

            batch, _, *canvas = self.images.shape
            loss = mean_square if maps_only else losses.by_name(net.terms)

            def targets():
                return [] if maps_only else map(runtime.to_device, example_targets(net, batch, tuple(canvas)))

        cfg = config.for_model(model, [f"{key}={value}" for key, value in keys.items()])
        trainer = Trainer(net, cfg, None, None, loss=loss)
        trainer.model.set_train(True)

        def step() -> float:
            set_learning_rate(trainer.optimizer, LEARNING_RATE)
            loss, _, finite = trainer.train_step(self.images, *targets())
            return loss.asnumpy(), finite.asnumpy()

        self.step, self.forward, self.kind = step, None, "squares" if maps_only else "losses"

    def output(self, path: str) -> dict:
        """Logits, maps, or the scores of detections; or the losses of two steps: these before any other step."""
        if not self.forward:
            given = [float(self.step()[0]) for _ in range(2)]
        else:
            arrays = self.step()
            given = arrays[1] if self.kind == "detections" else flattened(arrays)
        np.save(path, np.asarray(given, np.float32))
        return {"kind": self.kind}

    def memory(self) -> dict:
        """On an accelerator what the device held; else what the process did, unless another one has run the net."""
        if self.lite:
            return {"peak": None}
        peak = runtime.device_peak_bytes(self.device)
        return super().memory() if peak is None else {"peak": peak}

    def count(self, *, device: str, models: list) -> dict:
        """Multiply-adds (convention A) of one image for each (name, options, image size); sees to the device first."""
        if device != "auto" and not runtime.available(device):
            raise Refusal(f"--device {device}: MindSpore finds none here; give another, or auto")
        runtime.start("CPU", mode="pynative")
        from acmix_ms.analysis.complexity import complexity
        from models import create_model

        found = []
        with refusing():
            for name, options, size in models:
                sides = size if isinstance(size, list) else (size, size)
                found.append(complexity(create_model(name, **options), (1, 3, *sides)).macs())
        return {"macs": found}


if __name__ == "__main__":
    serve(Ours())
