"""Train a small net with deterministic kernels, whole and in two parts; print a digest of each. Run by test_engine.

A process of its own, because the number of kernel threads, which decides determinism, is fixed once per process.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from acmix_ms import config, runtime
from acmix_ms.data import create_loader
from acmix_ms.engine import checkpoint
from acmix_ms.engine.trainer import Trainer
from models.layers import DropPath
from tests.helpers.tiny import TinyNet


class Killed(Exception):
    """Stands for the end of the process between two epochs."""


class Dropping(TinyNet):
    """With stochastic depth, whose random numbers must be those of the uninterrupted run."""

    def __init__(self):
        super().__init__()
        self.drop_path = DropPath(0.3)

    def construct(self, x):
        x = self.body(x) * self.rate1
        x = x + self.drop_path(x) + self.drop_path(x, 1)
        return self.fc(x.reshape(x.shape[0], -1))


def train(run_dir: Path, optimizer: str, precision: str, *, resume: bool = False, kill_after: int | None = None) -> str:
    """Digest of weights and training state in last.ckpt."""
    run_dir.mkdir(exist_ok=True)
    cfg = config.from_dict(
        {
            "run_dir": str(run_dir),
            "seed": 3,
            "data": {"batch_size": 256},
            "optim": {"name": optimizer, "lr": 0.01, "epochs": 4, "warmup_epochs": 1.5, "clip_norm": 1.0},
            "train": {"resume": resume, "precision": precision, "ema_decay": 0.9 if optimizer == "adamw" else 0.0},
        }
    )
    # Another seed for the resumed net: what it starts from must not matter.
    runtime.start("CPU", seed=99 if resume else cfg.seed, deterministic=True)
    trainer = Trainer(Dropping(), cfg, *[create_loader(cfg.data, split, seed=cfg.seed) for split in ("train", "val")])
    if kill_after is not None:
        train_epoch = trainer._train_epoch

        def stopping(epoch, *rest):
            if epoch == kill_after:
                raise Killed
            return train_epoch(epoch, *rest)

        trainer._train_epoch = stopping
    try:
        trainer.fit()
    except Killed:
        print("killed")
    saved = checkpoint.read(run_dir / "last.ckpt")
    digest = hashlib.sha256(repr((saved.meta["epoch"], saved.meta["step"], saved.meta["best"])).encode())
    for part in (saved.weights, saved.state):
        for name in sorted(part):
            digest.update(name.encode() + part[name].tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    folder, optimizer, precision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    print("whole", train(folder / "whole", optimizer, precision))
    train(folder / "parts", optimizer, precision, kill_after=2)
    print("parts", train(folder / "parts", optimizer, precision, resume=True))
