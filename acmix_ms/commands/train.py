"""Train a model: ``python train.py --config configs/classification/acmix_resnet_digits.yaml [key=value ...]``."""

from __future__ import annotations

from acmix_ms import config, runtime
from acmix_ms.arguments import ArgumentParser
from acmix_ms.engine import events, run_dir
from acmix_ms.errors import run_cli
from acmix_ms.files import require_checkpoint


def main(argv: list[str] | None = None) -> None:
    """Load the configuration, check what is cheap to check, build, train."""
    parser = ArgumentParser(description="Train a model as a configuration file says.")
    parser.add_config()
    args = parser.parse_intermixed_args(argv)
    train(config.load(args.config, args.overrides))


def train(cfg: config.Config) -> dict:
    """Train as ``cfg`` says; returns what `acmix_ms.engine.trainer.Trainer.fit` returns, and ``params``."""
    config.require_task(cfg, "classification")
    if _initial(cfg):
        require_checkpoint(cfg.model.init_checkpoint)
    events.require(cfg.train.events and runtime.leads())
    with run_dir.opened(cfg.run_dir, resume=cfg.train.resume, wanted=runtime.leads()):
        return _train(cfg)


def _initial(cfg: config.Config) -> str | None:
    """The weights to start from. A run that goes on has its own, and the others of a group get those of rank 0."""
    begins = runtime.leads() and not run_dir.goes_on(cfg.run_dir, resume=cfg.train.resume)
    return cfg.model.init_checkpoint if begins else None


def _train(cfg: config.Config) -> dict:
    device = runtime.start_for(cfg)

    from acmix_ms.data import create_loader  # MindSpore takes seconds to import: after what may be wrong before it
    from acmix_ms.engine import finetune, parallel
    from acmix_ms.engine.trainer import Trainer
    from acmix_ms.models import build

    part = {"rank": runtime.rank(), "size": runtime.world_size(), "seed": cfg.seed}
    loaders = [create_loader(cfg.data, split, **part) for split in ("train", "val")]
    num_classes = loaders[0].require_classes(cfg.model.num_classes)
    net = build.create(cfg, num_classes)
    if _initial(cfg):
        finetune.load_initial_weights(net, cfg.model.init_checkpoint)
    if cfg.train.sync_bn:
        parallel.synchronise_norms(net)
    params = sum(parameter.size for parameter in net.trainable_params())
    print(f"{cfg.model.name}: {params:,} parameters, {num_classes} classes, on {device}; writing to {cfg.run_dir}")
    result = Trainer(net, cfg, *loaders).fit()
    print(f"best {result['best_told']}: {cfg.run_dir}/{run_dir.BEST}")
    return {**result, "params": params}


def command() -> None:
    """``acmix-train``, and ``python train.py``."""
    run_cli(main)
