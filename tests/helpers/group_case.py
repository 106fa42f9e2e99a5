"""Train and evaluate in a group of any size, or alone; each rank writes what it saw. Run by test_distributed.

``group_case.py FOLDER GLOBAL_BATCH``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from acmix_ms import config, runtime

# Small, with LayerNorms only: what a sample gives does not depend on who else is in its batch.
SMALL = {"dim": 48, "depth": 1, "num_heads": 2, "image_size": 32, "drop_path_rate": 0.0}


def main(folder: Path, global_batch: int) -> None:
    size = runtime.world_size()
    cfg = config.from_dict(
        {
            "run_dir": str(folder),
            "seed": 3,
            "model": {"name": "acmix_deit_tiny", "kwargs": SMALL},
            "data": {"batch_size": global_batch // size, "image_size": 32},
            "optim": {"name": "adamw", "lr": 0.003, "epochs": 1, "clip_norm": 5.0},
            "loss": {"label_smoothing": 0.1},
            "train": {"log_every": 10},
            "runtime": {"threads": 1},
        }
    )
    runtime.start("CPU", "graph", cfg.seed, threads=1)

    import mindspore as ms

    from acmix_ms.data import create_loader
    from acmix_ms.engine import evaluation, parallel
    from acmix_ms.engine.trainer import Trainer
    from models import create_model
    from tests.helpers.tiny import TinyNet

    rank = runtime.rank()
    part = {"rank": rank, "size": size, "seed": cfg.seed}
    net = create_model(cfg.model.name, 10, **cfg.model.kwargs)
    drawn = digest(net)
    trainer = Trainer(net, cfg, *[create_loader(cfg.data, split, **part) for split in ("train", "val")])
    taken_over = digest(net)
    step, losses = trainer.train_step, []

    def recorded(images, labels):
        loss, terms, finite = step(images, labels)
        losses.append(float(loss.asnumpy()))
        return loss, terms, finite

    trainer.train_step = recorded
    trainer.fit()

    scores = []
    for batch_size in (32, 200):  # neither divides the 355 images; of the second, a third rank gets none at all
        cfg.data.batch_size = batch_size
        scores.append(evaluation.evaluate(net, create_loader(cfg.data, "val", **part)))

    statistics = TinyNet()
    mean, variance = statistics.body[1].moving_mean, statistics.body[1].moving_variance
    runtime.assign(mean, np.full(16, rank, np.float32))
    runtime.assign(variance, np.full(16, 1.0 + rank, np.float32))
    parallel.average(parallel.statistics(statistics))

    saved = digest(net)
    images, (labels,), _ = next(trainer.train_loader.epoch(0))
    poison = np.float32(np.inf if rank == size - 1 else 1)  # the last rank alone sees what is not finite
    loss, _, finite = step(ms.Tensor(images * poison), ms.Tensor(labels))
    result = {
        "verdicts": verdicts(rank, size),
        "drawn": drawn,
        "taken_over": taken_over,
        "trained": saved,
        "losses": losses,
        "scores": scores,
        "statistics": [mean.asnumpy().tolist(), variance.asnumpy().tolist()],
        "bytes": [data.decode() for data in parallel.gather_bytes(b"x" * (5 * rank))],
        "arrays": [found["a"].tolist() for found in parallel.gather_arrays({"a": np.arange(rank) / 3})],
        "gathered": parallel.gather([2.0**40 + rank, -0.1]).tolist(),
        "poisoned": [float(loss.asnumpy()), bool(finite.asnumpy())],
    }
    (folder / f"result_{rank}.json").write_text(json.dumps(result))
    print(f"rank {rank} is through")


def verdicts(rank: int, size: int) -> list[bool]:
    """Of a step in which the last rank's register alone has noted an overflow: whether the step is skipped, and whether
    the weights stayed. Chips that saturate tell so, while the gradients that all share are finite.
    """
    import mindspore as ms

    from acmix_ms.config import OptimConfig
    from acmix_ms.engine import losses, precision, step
    from acmix_ms.engine.optim import build_optimizer
    from tests.helpers.tiny import TinyNet

    def all_finite(gradients):
        return gradients[0].sum() < (-1e30 if rank == size - 1 else 1e30)

    real, precision.all_finite = precision.all_finite, all_finite
    net = TinyNet()
    optimizer = build_optimizer(net, OptimConfig(lr=0.1))
    scaler, loss = precision.build_scaler("fp32"), losses.classification(0.0)
    net.set_train(True)
    before = digest_of(net.trainable_params())
    run = step.build_train_step(net, loss, optimizer, scaler, None, 0.0)
    _, _, finite = run(ms.Tensor(np.ones((4, 3, 32, 32), np.float32)), ms.Tensor(np.arange(4, dtype=np.int32)))
    precision.all_finite = real
    return [not bool(finite.asnumpy()), digest_of(net.trainable_params()) == before]


def digest(net) -> list[float]:
    """Equal for equal weights, down to the last bit."""
    return digest_of(net.get_parameters())


def digest_of(parameters) -> list[float]:
    """The same of some Parameters."""
    return [float(p.asnumpy().astype(np.float64).sum()) for p in parameters]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
