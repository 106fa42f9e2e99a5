"""The process of a dry run: builds and runs what it is asked for on the Ascend that it finds; see dry_run_ascend.py.

``dry_run_worker.py Ascend|CPU``. The Ascend is a stand-in (acmix_ms/deploy/ascend/cann.py). Jobs come as JSON, one a
line of stdin; each is answered with one line of JSON on stdout. What is launched is in the stand-in's log, between two
marks.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from acmix_ms import runtime  # noqa: E402
from acmix_ms.deploy.ascend.dry_run import Job, images_of  # noqa: E402

RUN, AGAIN, IDLE, DONE = b"run", b"again", b"idle", b"done"  # marks in the log, which dry_run.py reads


def main() -> None:
    """Answer jobs until there are no more, each in a process of its own: what one leaves, graphs and memory of the
    device, would count as the next one's.
    """
    import mindspore  # noqa: F401, every job has it from here; the device is started by each

    for line in sys.stdin:
        child = os.fork()
        if not child:
            answers, sys.stdout = sys.stdout, sys.stderr  # of whatever else prints
            print(json.dumps(answer(Job(**json.loads(line)), *sys.argv[1:])), file=answers, flush=True)
            sys.stderr.flush()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            sys.exit(status if status > 0 else 128 - status)


def answer(job: Job, device: str) -> dict:
    """Run a job on the device; what is to be said of it beside what the log has."""
    from acmix_ms.deploy.ascend.compute import Computer

    computer, stand_in = Computer(), None
    if device == "Ascend":
        stand_in = ctypes.CDLL("libascendcl.so")
        stand_in.stand_in_on_launch(computer.callback)
    runtime.start(device)
    import mindspore as ms

    computer.everything = bool(job.numbers)
    found = {"peak": 0, "unknown": [], "error": "", "weights": 0}
    if job.mode == "air" and stand_in:
        return {**found, **write_air(job)}
    run, arguments, state = build(job)
    mark = stand_in.stand_in_mark if stand_in else lambda text: None
    mark(RUN)
    outputs = [output.asnumpy() for output in run(*map(runtime.to_device, arguments))]
    if job.mode == "train" and not job.numbers:
        mark(AGAIN)
        run(*map(runtime.to_device, arguments))
        ms.runtime.synchronize()
        mark(IDLE)
        ms.runtime.synchronize()
    mark(DONE)
    if stand_in:
        found["peak"] = runtime.device_peak_bytes(device)
    if job.numbers:
        np.savez(job.numbers, *outputs, **{name: value.asnumpy() for name, value in state().items()})
    return {**found, "unknown": sorted(computer.unknown)}


def build(job: Job):
    """What runs a job, with what it is given, and a function for the state that it leaves: ``(run, inputs, state)``."""
    images = images_of(job)
    if job.mode == "train":
        return build_step(job, images)
    from acmix_ms.engine.evaluation import build_predictor

    predict = build_predictor(build_net(job))

    def outputs(x):
        found = predict(x)
        return found if isinstance(found, tuple) else (found,)

    return outputs, [images], dict


def build_net(job: Job):
    """As it is evaluated or exported."""
    from acmix_ms.deploy.half import Half
    from acmix_ms.ops.fuse import fuse_for_export
    from models.detection import Detector
    from models.detection.end_to_end import end_to_end
    from models.segmentation import Labelled, Segmentor

    net = seeded(job)
    if job.mode != "infer":
        net = fuse_for_export(net, "Ascend")
    if isinstance(net, Detector):
        net = end_to_end(net, 2 * (job.image_size,))
    if isinstance(net, Segmentor) and job.mode != "infer":
        net = Labelled(net, 2 * (job.image_size,))  # which has all that a file of logits has
    if job.precision == "fp16":
        net = Half(net)
    return net.set_train(False)


def write_air(job: Job) -> dict:
    """Write net.air; what is to be said of it."""
    from acmix_ms.deploy import mindir
    from acmix_ms.deploy.comparison import VerificationError

    net = build_net(job)
    weights = sum(value.nbytes for value in net.get_parameters())
    try:
        mindir.write_air(net, Path("net.air"), images_of(job).shape)
    except VerificationError as error:
        return {"error": str(error)}
    return {"weights": weights}


def build_step(job: Job, images: np.ndarray):
    """As `build`, of the train step as train.py makes it, with clipping and a moving average."""
    from acmix_ms import config
    from acmix_ms.engine import losses
    from acmix_ms.engine.trainer import Trainer
    from acmix_ms.maps import example_labels
    from models import model_task
    from models.detection.base import example_targets

    batch = job.batch
    keys = {"optim.name": job.optimizer, "train.precision": job.precision, "data.batch_size": batch,
            "optim.clip_norm": 5, "train.ema_decay": 0.9999, "run_dir": "runs",
            "optim.lr": 1e-3, "optim.eps": 1e-3}  # fmt: skip
    # With AdamW's usual epsilon a first step would follow the signs of gradients that are zero but for rounding.
    net = seeded(job)
    # Of its loader the trainer asks for the batch size only, until it trains.
    loader, task = SimpleNamespace(batch_size=batch), model_task(job.model)
    cfg = config.for_model(job.model, [f"task={task}", *(f"{k}={v}" for k, v in keys.items())])
    loss, targets = losses.classification(), [(np.arange(batch) % 10).astype(np.int32)]
    if task == "detection":
        loss, targets = losses.by_name(net.terms), example_targets(net, batch, 2 * (job.image_size,))
    if task == "segmentation":
        labels = example_labels(batch, job.image_size, job.image_size, net.num_classes)
        loss, targets = losses.by_name(net.terms), [labels]
    trainer = Trainer(net, cfg, loader, None, loss=loss)
    trainer.model.set_train(True)

    def step(images, *targets):
        loss, _, finite = trainer.train_step(images, *targets)
        return loss, finite

    def state():
        return {**net.parameters_dict(), **trainer._state()}

    return step, [images, *targets], state


def seeded(job: Job):
    """The model with the same weights, statistics and rates wherever it is built, none of them trivial."""
    from acmix_ms.ops.fuse import randomise
    from models import create_model

    return randomise(create_model(job.model))


if __name__ == "__main__":
    main()
