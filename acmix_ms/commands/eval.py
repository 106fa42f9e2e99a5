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
    from acmix_ms.engine.metrics import Evaluator


def main(argv: list[str] | None = None) -> None:
    """Print the task's metrics, the number of images of the validation split, and how many were done in a second."""
    parser = ArgumentParser(description="Evaluate a checkpoint on the validation split.")
    build.add_arguments(parser, checkpoint_required=True)
    parser.add_argument("--weights", choices=("trained", "ema"), default="trained", help="ema: their moving averages")
    parser.add_argument("--per-class", action="store_true", help="also print the scores of each class")
    parser.add_argument("--output", metavar="FILE.json", help="write all scores there, those of each class too")
    parser.add_argument("--detections", metavar="FILE.json", help="of a detector: write what it found as COCO has it")
    args = parser.parse_intermixed_args(argv)
    build.check(args)
    for option in ("output", "detections"):
        if getattr(args, option):
            writable_file(getattr(args, option), f"--{option}")
    cfg, saved = build.read(args, exported=True)
    if args.detections and cfg.task != "detection":
        raise UserError(f"--detections: is for detectors, {args.checkpoint} is for {cfg.task}; leave it out")
    scores, evaluator = evaluate(cfg, args.checkpoint, averaged=args.weights == "ema", saved=saved)
    from acmix_ms.engine import evaluation

    print(evaluation.summary(type(evaluator), scores))
    if args.per_class:
        print(evaluator.details(scores))
    if args.output and runtime.leads():
        write_text(args.output, json.dumps({"checkpoint": args.checkpoint, **scores}, indent=1) + "\n")
    if args.detections and runtime.leads():
        evaluator.write_results(args.detections)


def evaluate(
    cfg: config.Config, path: str, averaged: bool = False, saved: Checkpoint | None = None
) -> tuple[dict, Evaluator]:
    """What the net in a file scores, and the evaluator that has seen all it gave. Weights compute in float32.

    ``saved`` is what is in the file, if it was read already.
    """
    config.require_task(cfg, *config.TASKS)
    exported = require_checkpoint(path).suffix in deploy.SUFFIXES
    if exported and averaged:
        raise UserError(f"--weights ema: {path} has one set of weights; leave it out")
    runtime.start_for(cfg, "graph" if exported else None)  # a MINDIR runs in graph mode only

    from acmix_ms.models import tasks  # MindSpore takes seconds to import: after what may be wrong before it

    part = {"rank": runtime.rank(), "size": runtime.world_size()}
    if exported:
        return tasks.evaluate_export(cfg, deploy.open_file(path), **part)
    return tasks.evaluate_checkpoint(cfg, path, averaged=averaged, saved=saved, **part)


def command() -> None:
    """``acmix-eval``, and ``python eval.py``."""
    run_cli(main)
