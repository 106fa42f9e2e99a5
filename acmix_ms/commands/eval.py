"""Evaluate a checkpoint: ``python eval.py --checkpoint runs/.../best.ckpt [--config configs/...] [key=value ...]``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from acmix_ms import config, deploy, runtime
from acmix_ms.arguments import ArgumentParser
from acmix_ms.errors import UserError, run_cli
from acmix_ms.files import require_checkpoint, writable_file, write_text
from acmix_ms.models import build

if TYPE_CHECKING:
    from acmix_ms.engine.checkpoint import Checkpoint


def main(argv: list[str] | None = None) -> None:
    """Print top-1, top-5, the number of images of the validation split, and how many were done in a second."""
    parser = ArgumentParser(description="Evaluate a checkpoint on the validation split.")
    build.add_arguments(parser, checkpoint_required=True)
    parser.add_argument("--weights", choices=("trained", "ema"), default="trained", help="ema: their moving averages")
    parser.add_argument("--per-class", action="store_true", help="also print the accuracy of each class")
    parser.add_argument("--output", metavar="FILE.json", help="write all scores there, those of each class too")
    args = parser.parse_intermixed_args(argv)
    build.check(args)
    if args.output:
        writable_file(args.output, "--output")
    cfg, saved = build.read(args, exported=True)
    scores = evaluate(cfg, args.checkpoint, averaged=args.weights == "ema", saved=saved)
    from acmix_ms.engine import evaluation, metrics

    print(evaluation.summary(metrics.Accuracy, scores))
    if args.per_class:
        print(metrics.Accuracy.details(scores))
    if args.output and runtime.leads():
        write_text(args.output, json.dumps({"checkpoint": args.checkpoint, **scores}, indent=1) + "\n")


def evaluate(cfg: config.Config, path: str, averaged: bool = False, saved: Checkpoint | None = None) -> dict:
    """What the net in a file scores, as `evaluation.evaluate` gives it. Weights compute in float32.

    ``saved`` is what is in the file, if it was read already.
    """
    config.require_task(cfg, "classification")
    exported = require_checkpoint(path).suffix in deploy.SUFFIXES
    if exported and averaged:
        raise UserError(f"--weights ema: {path} has one set of weights; leave it out")
    runtime.start_for(cfg, "graph" if exported else None)  # a MINDIR runs in graph mode only

    from acmix_ms.data import create_loader  # MindSpore takes seconds to import: after what may be wrong before it
    from acmix_ms.engine import checkpoint, evaluation

    loader = create_loader(cfg.data, "val", rank=runtime.rank(), size=runtime.world_size(), seed=cfg.seed)
    num_classes = loader.require_classes(cfg.model.num_classes)
    if exported:
        file = deploy.open_file(path)
        file.check_size(cfg.data.image_size)
        return evaluation.evaluate(None, loader, file.predictor(num_classes))
    saved = saved or checkpoint.read(path)
    if averaged:
        saved = checkpoint.averages_of(saved, path)
    return evaluation.evaluate(build.net_of(cfg, saved, path, num_classes).cell, loader)


def command() -> None:
    """``acmix-eval``, and ``python eval.py``."""
    run_cli(main)
