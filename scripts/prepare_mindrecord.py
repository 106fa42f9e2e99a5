"""Write an image folder as MindRecord files: ``python scripts/prepare_mindrecord.py --input IMAGES --output FOLDER``.

IMAGES has train/<class>/* and val/<class>/*; the FOLDER is what ``data.name=mindrecord data.path=FOLDER`` reads. After
an interruption the same command goes on: finished files are kept, the one that was being written is written anew.
"""

from __future__ import annotations

import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.data import SPLITS
from acmix_ms.data.imagefolder import ImageFiles
from acmix_ms.data.images import UnreadableImageError
from acmix_ms.data.records import (
    DESCRIPTION,
    UNFINISHED,
    Description,
    Split,
    encoded_record,
    flaw,
    write_records,
)
from acmix_ms.errors import UserError, run_cli
from acmix_ms.files import locked, writable_folder

IMAGES_PER_FILE = 20_000  # what is lost at most when it is killed; of ImageNet 2 GB
MOST_FILES = 256  # of a split; reading keeps all of them open
READ_AHEAD = 256  # images, by several threads
SECONDS_BETWEEN_LINES = 10.0
MAX_LISTED = 50


class Meter:
    """Lines of progress. What an earlier call has done counts as done, but not for the speed."""

    def __init__(self, total: int, done: int):
        self._total, self._done, self._counted = total, done, 0
        self._began = self._told = time.monotonic()

    def add(self, count: int, what: str) -> None:
        """``count`` images more are read, of ``what``."""
        self._done, self._counted = self._done + count, self._counted + count
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._told = now
        rate = self._counted / max(now - self._began, 1e-9)
        left = round((self._total - self._done) / rate)
        print(
            f"{what}  {self._done:,}/{self._total:,} images  {rate:.0f} img/s  "
            f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}",
            flush=True,
        )


def parse(argv: list[str] | None) -> Namespace:
    """The arguments."""
    parser = ArgumentParser(prog="prepare_mindrecord.py", description=__doc__)
    parser.add_argument("--input", required=True, metavar="IMAGES", help="folder with train/ and val/")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--shards", type=positive_int, metavar="N",
                        help=f"files of each split; default one for each {IMAGES_PER_FILE} images")  # fmt: skip
    parser.add_argument("--on-error", choices=("skip", "fail"), default="skip", help="unreadable images; skip")
    parser.add_argument("--workers", type=positive_int, default=8, metavar="N", help="reading threads; 8")
    args = parser.parse_args(argv)
    if args.shards and args.shards > MOST_FILES:
        raise UserError(f"--shards {args.shards}: give at most {MOST_FILES}")
    return args


def ready(folder: Path, wanted: Description) -> bool:
    """Whether a finished folder is whole; if not, it counts as unfinished from here on.

    Raises:
        UserError: it holds something else.
    """
    found = Description.read(folder / DESCRIPTION)
    if found.source != wanted.source:
        raise UserError(f"--output {folder}: holds the records of other images; give another folder")
    flaws = [flaw(folder, file) for split in found.splits.values() for file in split.files]
    for told in filter(None, flaws):
        print(f"{told}: it is written anew", flush=True)
        (folder / DESCRIPTION).replace(folder / UNFINISHED)
        return False
    return True


def begin(args: Namespace, folder: Path, wanted: Description) -> Description:
    """The description to go on with: ``wanted``, or what an earlier call has left of it.

    Raises:
        UserError: the folder holds something else.
    """
    if not (folder / UNFINISHED).exists():
        foreign = sorted(path.name for split in SPLITS for path in folder.glob(f"{split}.mindrecord*"))
        if foreign:
            raise UserError(f"--output {folder}: holds {foreign[0]}, which is not of this preparation; give another")
        wanted.write(folder / UNFINISHED)
        return wanted
    found = Description.read(folder / UNFINISHED)
    if found.source != wanted.source:
        raise UserError(
            f"--output {folder}: holds an unfinished preparation of other images than those of --input {args.input}; "
            "give another folder"
        )
    for name, split in found.splits.items():
        if args.shards and split.planned != wanted.splits[name].planned:
            raise UserError(
                f"--shards {args.shards}: --output {folder} was begun with {split.planned} files of {name}; "
                "leave --shards out, or give another folder"
            )
        split.files = list(takewhile(lambda file: flaw(folder, file) is None, split.files))
    return found


def prepare(args: Namespace, folder: Path, images: dict[str, ImageFiles], description: Description) -> None:
    """Write what is not there yet; the description is renewed after every file. Raises `OSError` and `UserError`."""
    bounds = {
        name: np.linspace(0, len(images[name]), split.planned + 1).astype(int)
        for name, split in description.splits.items()
    }
    done = sum(int(bounds[name][len(split.files)]) for name, split in description.splits.items())
    if done:
        print(f"going on: {done:,} images are in finished files", flush=True)
    meter = Meter(sum(len(some) for some in images.values()), done)
    with ThreadPoolExecutor(args.workers) as pool:
        for name, split in description.splits.items():
            for number in range(len(split.files), split.planned):
                samples = range(*bounds[name][number : number + 2].tolist())
                what = f"{name}, file {number + 1} of {split.planned}"
                records = read(args, images[name], samples, split, pool, meter, what)
                file = f"{name}.mindrecord{number:0{len(str(split.planned - 1))}d}"
                split.files.append(write_records(folder, file, records))
                description.write(folder / UNFINISHED)


def read(
    args: Namespace, images: ImageFiles, samples: range, split: Split, pool: ThreadPoolExecutor, meter: Meter, what: str
) -> Iterator[tuple[bytes, int]]:
    """Yield (encoded image, label); what is no image is noted in ``split``."""

    def attempt(sample: int) -> bytes | UnreadableImageError:
        try:
            return encoded_record(images.path(sample))
        except UnreadableImageError as error:
            return error

    for first in range(samples.start, samples.stop, READ_AHEAD):
        some = range(first, min(first + READ_AHEAD, samples.stop))
        for sample, found in zip(some, pool.map(attempt, some)):
            if isinstance(found, bytes):
                yield found, int(images.labels[sample])
                continue
            if args.on_error == "fail":
                raise UserError(
                    f"image {images.path(sample)} cannot be read ({found}): replace or remove it, or give "
                    "--on-error skip"
                )
            split.skipped[images.name(sample)] = str(found)
        meter.add(len(some), what)


def tell(folder: Path, description: Description) -> None:
    """Print what the folder holds, and what it does not."""
    for name, split in description.splits.items():
        print(
            f"{folder}: {split.images:,} images of {name} in {len(split.files)} file(s), {len(split.skipped)} skipped"
        )
        for image, reason in list(split.skipped.items())[:MAX_LISTED]:
            print(f"  skipped {name}/{image}: {reason}")
        if len(split.skipped) > MAX_LISTED:
            print(f"  and {len(split.skipped) - MAX_LISTED} more: all are in {folder / DESCRIPTION}")


def finish(args: Namespace, folder: Path, images: dict[str, ImageFiles], wanted: Description) -> Description:
    """Go on until the folder is whole, and describe it. Raises `OSError` and `UserError`."""
    description = begin(args, folder, wanted)
    prepare(args, folder, images, description)
    for name, split in description.splits.items():
        if not split.images:
            image, reason = next(iter(split.skipped.items()))
            raise UserError(f"--input {args.input}: no image of {name} can be read, such as {image} ({reason})")
    description.write(folder / DESCRIPTION)
    (folder / UNFINISHED).unlink()
    return description


def main(argv: list[str] | None = None) -> None:
    """Look through the folder, write, describe."""
    args = parse(argv)
    images = {split: ImageFiles(args.input, split, "--input ") for split in SPLITS}
    planned = {
        name: Split(min(args.shards or -(-len(files) // IMAGES_PER_FILE), MOST_FILES, len(files)))
        for name, files in images.items()
    }
    source = " ".join(files.checksum() for files in images.values())
    wanted = Description(images["train"].class_names, source, **planned)

    folder = writable_folder(args.output, "--output")
    with locked(folder, name="--output "):
        if (folder / DESCRIPTION).exists() and ready(folder, wanted):
            print(f"{folder} holds these images already; nothing is done")
            return
        try:
            description = finish(args, folder, images, wanted)
        except OSError as error:
            free = shutil.disk_usage(folder).free / 1e9
            raise UserError(
                f"--output {folder} cannot be written ({error.strerror}; {free:.1f} GB are free): make room, then the "
                "same command goes on after the files that are finished"
            ) from error
    tell(folder, description)


if __name__ == "__main__":
    run_cli(main)
