"""Evaluate a checkpoint: ``python eval.py --config configs/... --checkpoint runs/.../best.ckpt [key=value ...]``."""

from __future__ import annotations

from acmix_ms import config, runtime
from acmix_ms.arguments import ArgumentParser
from acmix_ms.engine import run_dir
from acmix_ms.errors import run_cli


def main(argv: list[str] | None = None) -> None:
    """Print top-1, top-5 and the number of images of the validation split."""
    parser = ArgumentParser(prog="eval.py", description="Evaluate a checkpoint on the validation split.")
    parser.add_config()
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help=".ckpt or .safetensors")
    parser.add_argument("--weights", choices=("trained", "ema"), default="trained", help="ema: their moving averages")
    args = parser.parse_intermixed_args(argv)
    cfg = config.load(args.config, args.overrides)
    scores = evaluate(cfg, args.checkpoint, averaged=args.weights == "ema")
    print(
        f"top-1 {scores['top1']:.2f} %  top-5 {scores['top5']:.2f} %  "
        f"loss {scores['loss']:.4f}  {scores['count']} images"
    )


def evaluate(cfg: config.Config, checkpoint_path: str, averaged: bool = False) -> dict:
    """Scores of a checkpoint file: ``top1``, ``top5`` in percent, ``loss``, ``count``. Computes in float32."""
    run_dir.require_checkpoint(checkpoint_path)
    runtime.start(cfg.runtime.device, cfg.runtime.mode, cfg.seed, cfg.train.deterministic, cfg.runtime.threads)

    from acmix_ms.data import create_loader  # MindSpore takes seconds to import: after what may be wrong before it
    from acmix_ms.engine import checkpoint, evaluation
    from models import create_model

    loader = create_loader(cfg.data, "val", rank=runtime.rank(), size=runtime.world_size(), seed=cfg.seed)
    num_classes = loader.require_classes(cfg.model.num_classes)
    net = create_model(cfg.model.name, num_classes=num_classes, **cfg.model.kwargs)
    checkpoint.load_weights(net, checkpoint_path, averaged=averaged)
    return evaluation.evaluate(net, loader)


if __name__ == "__main__":
    run_cli(main)
