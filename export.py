"""Export a model: ``python export.py --config configs/... --checkpoint runs/.../best.ckpt --format mindir``."""

from __future__ import annotations

import sys

from acmix_ms import config, deploy, runtime
from acmix_ms.arguments import ArgumentParser, batch_size, positive_int
from acmix_ms.engine import run_dir
from acmix_ms.errors import UserError, run_cli


def main(argv: list[str] | None = None) -> int:
    """Export, reload, compare; 3 if the file does not compute what the model computes."""
    parser = ArgumentParser(prog="export.py", description="Export a model and prove that the file computes the same.")
    parser.add_config(required=False)
    parser.add_argument("--model", metavar="NAME", help="instead of --config")
    parser.add_argument("--checkpoint", metavar="FILE", help="without it the weights are random")
    parser.add_argument("--format", required=True, metavar="|".join(deploy.FORMATS))
    parser.add_argument("--output", metavar="FILE", help="default: MODEL.FORMAT")
    parser.add_argument("--image-size", type=positive_int, metavar="PIXELS", help="default: of --config, or 224")
    parser.add_argument("--batch", type=batch_size, default=1, metavar="N|dynamic", help="default: 1")
    parser.add_argument(
        "--num-classes", type=positive_int, metavar="N", help="default: of the checkpoint or --config, or 1000"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_flag("fuse", help="fold all that evaluation does not need (default)")
    args = parser.parse_intermixed_args(argv)

    deploy.check_format(args.format)
    if bool(args.config) == bool(args.model):
        raise UserError("give either --config FILE or --model NAME")
    cfg = config.load(args.config, args.overrides) if args.config else config.for_model(args.model, args.overrides)
    image_size = args.image_size or cfg.data.image_size
    output = deploy.check_output(args.output or f"{cfg.model.name}.{args.format}", force=args.force)
    if args.checkpoint:
        run_dir.require_checkpoint(args.checkpoint)
    runtime.start(cfg.runtime.device, "graph", cfg.seed)  # a MINDIR runs in graph mode only
    from acmix_ms.engine import checkpoint
    from acmix_ms.ops.fuse import fuse_for_export
    from models import create_model

    saved = checkpoint.read(args.checkpoint) if args.checkpoint else None
    num_classes = args.num_classes or (saved and saved.meta.get("num_classes")) or cfg.model.num_classes or 1000
    net = create_model(cfg.model.name, num_classes=num_classes, **cfg.model.kwargs)
    if saved:
        checkpoint.assign_weights(net, saved, args.checkpoint)
    else:
        print("note: no --checkpoint, so the weights are random: good for measuring speed, not for answers")
    options = {"image_size": image_size, "batch": args.batch, "force": args.force, "reference": net}
    try:  # the file is compared with the net that was trained
        print(deploy.export(fuse_for_export(net) if args.fuse else net, args.format, output, **options))
    except deploy.VerificationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    run_cli(main)
