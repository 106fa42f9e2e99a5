"""Train a small detector, or a segmentor, with deterministic kernels on shapes.

``detection_case.py FOLDER resume|group [segmentation]``

``resume``: whole and in two parts, a digest of each. ``group``: what this rank saw, in result_RANK.json. Processes of
their own, because the number of kernel threads, which decides determinism, is fixed once per process.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from acmix_ms import config, runtime

MODELS = {
    "detection": {"name": "retinanet_shapes", "kwargs": {"channels": 16, "stacked": 1}},
    "segmentation": {"name": "semantic_fpn_shapes", "kwargs": {"channels": 16, "head_channels": 16, "drop": 0.3}},
}
GLOBAL_BATCH = 4


class Killed(Exception):
    """Stands for the end of the process between two steps."""


def configuration(run_dir: Path, data: Path, task: str = "detection", **train) -> config.Config:
    """The recipe of the shapes, with less of everything."""
    run_dir.mkdir(exist_ok=True)
    canvas = {"height": 96, "width": 96, "short_sides": [64, 96], "choose": "range", "max_side": 96}
    if task == "segmentation":
        canvas = {"height": 64, "width": 64, "short_sides": [96], "max_side": 96}
    return config.from_dict(
        {
            "run_dir": str(run_dir),
            "task": task,
            "seed": 3,
            "model": MODELS[task],
            "data": {"name": "shapes", "path": str(data), "batch_size": GLOBAL_BATCH // runtime.world_size(),
                     "canvas": canvas},
            "optim": {"name": "adamw", "lr": 2e-3, "epochs": 2, "clip_norm": 5.0},
            "train": {"save_every_steps": 2, "log_every": 1, **train},
        }
    )  # fmt: skip


def train(cfg: config.Config, kill_at: int | None = None) -> tuple[str, list[float]]:
    """Digest of weights and training state in last.ckpt, and the losses of the steps."""
    # Another seed for a net that goes on: what it starts from must not matter.
    mode = "graph" if cfg.task == "detection" else "pynative"  # one of them is compiled: that takes most of the time
    runtime.start("CPU", mode, 99 if cfg.train.resume else cfg.seed, deterministic=cfg.train.deterministic)
    from acmix_ms.engine import checkpoint
    from acmix_ms.engine.trainer import Trainer
    from models import tasks

    task = tasks.build_task(cfg, rank=runtime.rank(), size=runtime.world_size())
    options = {"make_evaluator": task.make_evaluator, "make_predictor": task.make_predictor}
    trainer = Trainer(task.net, cfg, task.train, task.val, loss=task.loss, **options)
    step, losses = trainer.train_step, []

    def recorded(*batch):
        if len(losses) == kill_at:
            raise Killed
        loss, *rest = step(*batch)
        losses.append(float(loss.asnumpy()))
        return (loss, *rest)

    trainer.train_step = recorded
    try:
        trainer.fit()
    except Killed:
        print("killed")
    saved = checkpoint.read(Path(cfg.run_dir) / "last.ckpt")
    digest = hashlib.sha256(repr((saved.meta["epoch"], saved.meta["step"], saved.meta["best"])).encode())
    for part in (saved.weights, saved.state):
        for name in sorted(part):
            digest.update(name.encode() + part[name].tobytes())
    return digest.hexdigest(), losses


def resume(folder: Path, task: str) -> None:
    """Killed after seven of eight steps; the newest state is of the sixth, in the middle of an epoch."""
    digest, losses = train(configuration(folder / "whole", folder / "data", task, deterministic=True))
    print("whole", digest, len(losses))
    train(configuration(folder / "parts", folder / "data", task, deterministic=True), kill_at=7)
    digest, losses = train(configuration(folder / "parts", folder / "data", task, deterministic=True, resume=True))
    print("parts", digest, len(losses))


def group(folder: Path, task: str) -> None:
    """The losses, and what all ranks think that a process alone, which came before, has trained."""
    cfg = configuration(folder, folder.parent / "data", task)
    digest, losses = train(cfg)
    from models import tasks

    checkpoint = str(folder.parent / "one" / "last.ckpt")
    scores, _ = tasks.evaluate_checkpoint(cfg, checkpoint, rank=runtime.rank(), size=runtime.world_size())
    del scores["img_per_s"]
    scores.pop("scoring_seconds", None)
    result = {"losses": losses, "digest": digest, "scores": scores}
    (folder / f"result_{runtime.rank()}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    given_task = sys.argv[3] if len(sys.argv) > 3 else "detection"
    {"resume": resume, "group": group}[sys.argv[2]](Path(sys.argv[1]), given_task)
