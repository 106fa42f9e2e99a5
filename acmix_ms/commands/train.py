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
    config.require_task(cfg, *config.TASKS)
    for path in _initial(cfg).values():
        require_checkpoint(path)
    events.require(cfg.train.events and runtime.leads())
    with run_dir.opened(cfg.run_dir, resume=cfg.train.resume, wanted=runtime.leads()):
        return _train(cfg)


def _initial(cfg: config.Config) -> dict[str, str]:
    """The weights to start from, by their keys. A run that goes on has its own, and the others of a group get those of
    rank 0.
    """
    begins = runtime.leads() and not run_dir.goes_on(cfg.run_dir, resume=cfg.train.resume)
    given = {"init_checkpoint": cfg.model.init_checkpoint, "backbone_checkpoint": cfg.model.backbone_checkpoint}
    return {key: path for key, path in given.items() if path and begins}


def _train(cfg: config.Config) -> dict:
    device = runtime.start_for(cfg)

    # MindSpore takes seconds to import: after what may be wrong before it.
    from acmix_ms.engine import finetune, parallel
    from acmix_ms.engine.trainer import Trainer
    from acmix_ms.models import tasks

    task = tasks.build_task(cfg, rank=runtime.rank(), size=runtime.world_size())
    load = {"init_checkpoint": finetune.load_initial_weights, "backbone_checkpoint": finetune.load_backbone_weights}
    for key, path in _initial(cfg).items():
        load[key](task.net, path)
    if cfg.train.sync_bn:
        parallel.synchronise_norms(task.net)
    params, classes = sum(parameter.size for parameter in task.net.trainable_params()), task.train.num_classes
    print(f"{cfg.model.name}: {params:,} parameters, {classes} classes, on {device}; writing to {cfg.run_dir}")
    options = {"make_evaluator": task.make_evaluator, "make_predictor": task.make_predictor}
    result = Trainer(task.net, cfg, task.train, task.val, loss=task.loss, **options).fit()
    print(f"best {result['best_told']}: {cfg.run_dir}/{run_dir.BEST}")
    return {**result, "params": params}


def command() -> None:
    """``acmix-train``, and ``python train.py``."""
    run_cli(main)
