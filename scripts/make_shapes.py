"""Make a set of pictures with rectangles, circles and triangles, to try detection and segmentation out.

It has COCO's format for data.name=coco or shapes, and the classes of all pixels beside it; data.name=shapes makes the
same set by itself where no data.path is given.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from acmix_ms.arguments import positive_int
from acmix_ms.data.shapes import ShapesSet, make
from acmix_ms.errors import UserError, run_cli
from acmix_ms.files import writable_folder

SIZES = (64, 1024)  # pixels
MOST_IMAGES = 10_000  # names have four digits
LARGEST_SEED = 2**32 - 1


def parse(argv: list[str] | None) -> Namespace:
    """The arguments."""
    default = ShapesSet()
    parser = ArgumentParser(prog="make_shapes.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the set goes")
    for name, what in (("images", "for training"), ("val_images", "for validation"), ("size", "pixels of both sides")):
        number = getattr(default, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive_int, default=number, metavar="N",
                            help=f"{what}; {number}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=default.seed, metavar="N", help=f"of all pictures; {default.seed}")
    parser.add_argument("--force", action="store_true", help="another set of shapes in the folder is replaced")
    args = parser.parse_args(argv)
    for name, least, most in (
        ("images", 1, MOST_IMAGES), ("val_images", 1, MOST_IMAGES), ("size", *SIZES), ("seed", 0, LARGEST_SEED)
    ):  # fmt: skip
        if not least <= getattr(args, name) <= most:
            given = f"--{name.replace('_', '-')} {getattr(args, name)}"
            raise UserError(f"{given}: give a number from {least} to {most}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Make the set, unless it is there."""
    args = parse(argv)
    folder, wanted = Path(args.output), ShapesSet(args.images, args.val_images, args.size, args.seed)
    writable_folder(folder.absolute().parent, "--output ")
    began = time.perf_counter()
    try:
        made = make(folder, wanted, replace=args.force)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written ({error.strerror}); give another") from error
    if not made:
        print(f"{folder} holds this set already; nothing is done")
        return
    seconds = time.perf_counter() - began
    count = args.images + args.val_images
    print(f"{folder}: {args.images} images for training and {args.val_images} for validation in {seconds:.1f} s "
          f"({count / seconds:.0f} a second)")  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
