"""Answer for images: ``python predict.py --checkpoint FILE photo.jpg folder/``, FILE trained weights or an export."""

from __future__ import annotations

import sys
from pathlib import Path

from acmix_ms.arguments import ArgumentParser, positive_int, share
from acmix_ms.deploy import SUFFIXES, prediction
from acmix_ms.errors import UserError, run_cli
from acmix_ms.files import writable_file, writable_folder, write_text
from acmix_ms.models import build


def main(argv: list[str] | None = None) -> int:
    """Print classes, objects or the classes of pixels, for each image; 1 if some images could not be read."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="files, and folders with all below them")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help=f"weights, or {', '.join(SUFFIXES)}")
    parser.add_argument("--config", metavar="FILE", help="of the net, where the checkpoint does not know it")
    parser.add_argument("--model", metavar="NAME", help="instead of --config")
    parser.add_argument("--classes", metavar="FILE", help="names of the classes, one in each line")
    parser.add_argument("--top", type=positive_int, default=5, metavar="N", help="classes of each image; 5")
    parser.add_argument("--threshold", type=share, default=0.3, metavar="SCORE", help="of detections; 0.3")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", metavar="FILE.json", help="also write the JSON there")
    parser.add_argument("--draw", metavar="FOLDER", help="of a detector or segmentor: draw what it finds, as PNG")
    parser.add_argument("--attention", metavar="FOLDER", help="draw where the middle of each image looks, as PNG")
    args = parser.parse_args(argv)
    args.overrides = []
    build.check(args)
    files, names = prediction.find_images(args.images), args.classes and prediction.read_class_names(args.classes)
    if args.output:
        writable_file(args.output, "--output")
    for option in ("draw", "attention"):
        if getattr(args, option):
            writable_folder(getattr(args, option), f"--{option}")
    if args.attention and Path(args.checkpoint).suffix in SUFFIXES:
        raise UserError(f"--attention: {args.checkpoint} shows its answers only, give the checkpoint it is made of")
    from acmix_ms.models import answers  # MindSpore takes seconds to import: after what may be wrong before it

    # Attention is caught by hooks, which graphs do not have.
    net = answers.open_answers(args, names, mode="pynative" if args.attention else "graph")
    if args.draw and net.draw is None:
        raise UserError(f"--draw: {args.checkpoint} is a classifier, which finds no objects or regions; leave it out")
    found = []
    for predicted in net.predictions(files):
        found.append(predicted.as_dict())
        if not args.json:
            print(net.table(predicted), file=sys.stderr if predicted.error else sys.stdout, flush=True)
        name = f"{len(found):04}-{predicted.path.stem}.png"
        if args.draw and not predicted.error:
            net.draw(predicted, Path(args.draw) / name)
        if args.attention and not predicted.error:
            from acmix_ms.analysis import attention, figures

            pixels = net.pixels(predicted.path)
            figures.plot_attention(pixels, *attention.overview(net.net, pixels), Path(args.attention) / name)
    text = prediction.json_text(found)
    if args.json:
        print(text)
    if args.output:
        write_text(args.output, text + "\n")
    return 1 if any("error" in entry for entry in found) else 0


def command() -> None:
    """``acmix-predict``, and ``python predict.py``."""
    run_cli(main)
