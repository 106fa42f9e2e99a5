"""Export a model: ``python export.py --config configs/... --checkpoint runs/.../best.ckpt --format mindir``."""

from __future__ import annotations

import sys

from acmix_ms import deploy, runtime
from acmix_ms.arguments import ArgumentParser, positive_int, sides_or_dynamic, size_or_dynamic
from acmix_ms.errors import run_cli
from acmix_ms.models import build
from acmix_ms.runtime import DEVICES


def main(argv: list[str] | None = None) -> int:
    """Export, run the file, compare; 3 if a file does not compute what the model computes."""
    parser = ArgumentParser(description="Export a model and prove that the file computes the same.")
    build.add_arguments(parser)
    parser.add_argument("--format", required=True, metavar="|".join((*deploy.FORMATS, "all")))
    parser.add_argument("--output", metavar="FILE", help="default: MODEL.FORMAT; of all: a name without ending")
    parser.add_argument("--image-size", type=sides_or_dynamic, default=(), metavar="N|HxW|dynamic", help="pixels")
    parser.add_argument("--batch", type=size_or_dynamic, default=1, metavar="N|dynamic", help="default: 1")
    parser.add_argument("--precision", choices=tuple(deploy.TOLERANCES), default="fp32", help="default: fp32")
    parser.add_argument("--target", choices=DEVICES, help="its costs choose the forms; default: this one")
    parser.add_argument("--num-classes", type=positive_int, metavar="N", help="default: of the checkpoint, or 1000")
    parser.add_argument("--raw", action="store_true", help="of a detector: its maps, without what makes boxes of them")
    parser.add_argument("--labels", action="store_true", help="of a segmentor: classes of pixels, not its logits")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_flag("fuse", help="fold all that evaluation does not need (default)")
    args = parser.parse_intermixed_args(argv)

    build.check(args)
    cfg, saved = build.read(args)
    formats = deploy.possible_formats(args.format, boxes=cfg.task == "detection" and not args.raw)
    outputs = deploy.outputs(args.output, cfg.model.name, formats, force=args.force)
    runtime.start_for(cfg, "graph")  # a MINDIR runs in graph mode only
    from acmix_ms.models import exports  # MindSpore takes seconds to import: after what may be wrong before it
    from acmix_ms.ops.fuse import randomise

    net = build.net_of(cfg, saved, args.checkpoint, args.num_classes)
    if not saved:
        print("note: no --checkpoint, so the weights are random: good for measuring speed, not for answers")
        randomise(net.cell)  # with statistics of a trained net: fresh ones let sums grow from block to block
    cell, *found = exports.export_of(cfg, net, args)
    options = dict(zip(("reference", "image_size", "images", "description"), found))
    options.update(batch=args.batch, precision=args.precision, force=args.force)
    failed = False
    for format, output in zip(formats, outputs):
        try:  # the file is compared with the net that was trained
            print(deploy.export(cell, format, output, **options), flush=True)
        except deploy.VerificationError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = True
    return 3 if failed else 0


def command() -> None:
    """``acmix-export``, and ``python export.py``."""
    run_cli(main)
