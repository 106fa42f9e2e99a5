"""A small training, to look at what a trainer does."""

from __future__ import annotations

from acmix_ms import config, runtime
from acmix_ms.data import create_loader
from acmix_ms.engine.trainer import Trainer
from tests.helpers.tiny import TinyNet


def make_trainer(folder, net=None, mode="graph", **changes):
    """A `Trainer` of a TinyNet on the digits; ``changes`` are keys, as ``optim__epochs=1``."""
    values = {
        "run_dir": str(folder),
        "data": {"batch_size": 128},
        "optim": {"lr": 0.05, "epochs": 2, "clip_norm": 5.0},
        "loss": {"label_smoothing": 0.1},
        "train": {"log_every": 5},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values.setdefault(section, {})[name] = value
    cfg = config.from_dict(values)
    runtime.start("CPU", mode)
    folder.mkdir(exist_ok=True)
    return Trainer(net or TinyNet(), cfg, *[create_loader(cfg.data, split) for split in ("train", "val")])
