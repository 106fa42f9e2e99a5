"""Prove that nets compute the same.

``python scripts/verify.py acmix_resnet50`` proves that the fused net computes what the train form computes: names of
models (random weights, statistics and rates) or checkpoints, any number of each, or ``--all`` models; options of the
models as ``key=value``, such as ``mix=alpha shift=tensor``. A line for each.

``python scripts/verify.py net.onnx --against best.ckpt`` compares any two of: a checkpoint, an exported file, and a
reference, an ``.npz`` with ``images`` (N, 3, H, W) and the outputs by name, such as ``logits``, which
``--write-reference`` makes; on these images, or ``--images``, or the first of the checkpoint's data, or photographs.
Status 3 if two differ.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms import runtime
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.config import DataConfig
from acmix_ms.data.preprocess import Preprocess
from acmix_ms.deploy import (
    TOLERANCES,
    NotFiniteError,
    Runner,
    VerificationError,
    compare_outputs,
    prediction,
    samples,
)
from acmix_ms.errors import UserError, printable, run_cli
from acmix_ms.files import require_checkpoint, writable_file
from models import build as nets
from scripts.complexity import SMALLEST, read_options

FUSED = 1e-5  # of the largest output, in float32


def build(name: str, options: dict):
    """A random net of a model, or the net of a checkpoint, in evaluation."""
    from acmix_ms.engine import checkpoint
    from acmix_ms.ops.fuse import randomise
    from models import create_model, list_models

    if name in list_models() or not Path(name).suffix:
        return randomise(create_model(name, **options)).set_train(False)
    saved = checkpoint.read(require_checkpoint(name))
    cfg = nets.config_of(saved, name)
    cfg.model.kwargs.update(options)
    return nets.net_of(cfg, saved, name).cell


def proof(name: str, options: dict, image_size: int, backend: str | None) -> tuple[str, bool]:
    """One line about a model, and whether the two nets agree."""
    from mindspore import Tensor

    from acmix_ms.analysis.complexity import complexity
    from acmix_ms.ops.fuse import fuse, relative_difference

    net = build(name, options)
    fused = fuse(net, backend)
    shape = (2, options.get("in_channels", 3), image_size, image_size)
    images = Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    given, expected = fused(images), net(images)
    pairs = zip(given, expected) if isinstance(given, tuple) else [(given, expected)]
    difference = max(relative_difference(*pair) for pair in pairs)
    before, after = (complexity(cell, (1, *shape[1:])) for cell in (net, fused))
    equal = difference <= FUSED  # false for nan
    counts = f"{before.params / 1e6:9.3f} -> {after.params / 1e6:8.3f}M parameters"
    counts += f", {before.macs() / 1e9:7.3f} -> {after.macs() / 1e9:7.3f}G multiply-adds"
    return f"{name:24} difference {difference:8.2e}{'' if equal else ' TOO LARGE'}, {counts}", equal


@dataclass(frozen=True, eq=False)
class Side:
    """One of two that are compared: its answers, and how pictures are prepared for it; or what a reference holds."""

    path: str
    answers: Runner | None = None
    prepare: Preprocess | None = None
    data: DataConfig | None = None
    precision: str = "fp32"
    images: np.ndarray | None = None
    held: dict[str, np.ndarray] | None = None

    @property
    def needs_one_size(self) -> bool:
        """Whether it answers images of one size only."""
        return self.answers is not None and None not in self.answers.input_shape[2:]


def open_side(path: str) -> Side:
    """A checkpoint, an exported file or a reference."""
    require_checkpoint(path)
    if Path(path).suffix == ".npz":
        held = read_reference(path)
        return Side(path, images=held.pop("images"), held=held)
    net = nets.open_net(path, Namespace(config=None, model=None, checkpoint=path, overrides=[]))
    return Side(path, net.answers, net.preprocess, net.data, net.precision)


def read_reference(path: str) -> dict[str, np.ndarray]:
    """``images`` (N, 3, H, W) and the outputs for them by name, all of them finite numbers.

    Raises:
        UserError: the file holds something else.
    """
    try:
        with np.load(path) as arrays:
            held = dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:  # TypeError: an .npy
        raise UserError(f"{path} cannot be read: make it with --write-reference") from error
    remedy = "make it with --write-reference"
    if "images" not in held or len(held) < 2:
        raise UserError(f"{path} holds no images and logits: {remedy}")
    for name, values in held.items():
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise UserError(f"{path}: {name} are no finite numbers ({values.dtype}); {remedy}")
        if values.ndim == 0 or len(values) != len(np.atleast_1d(held["images"])) or not values.size:
            raise UserError(f"{path}: {name} has shape {values.shape}, not one row for each of some images; {remedy}")
    if held["images"].ndim != 4 or held["images"].shape[1] != 3:
        raise UserError(f"{path}: images has shape {held['images'].shape}, not (N, 3, H, W); {remedy}")
    return {**held, "images": held["images"].astype(np.float32)}


def pair(names: list[str], args: Namespace) -> int:
    """``NAME --against OTHER``: print how far they lie apart; 3 if further than allowed."""
    if len(names) != 1:
        raise UserError("--against FILE: give one other file to compare with it")
    if args.write_reference:
        writable_file(args.write_reference, "--write-reference")
    files = prediction.find_images(args.images or [])
    first, second = open_side(names[0]), open_side(args.against)
    for side in (first, second):
        if args.tolerance is None and side.precision not in TOLERANCES:
            raise UserError(f"{side.path} is {side.precision}, for which there is no usual tolerance: give --tolerance")
    held = [side for side in (second, first) if side.held is not None]
    if held and (files or len(held) == 2):
        raise UserError(f"{held[0].path} has images of its own: leave out --images and other references")
    if held:
        images = held[0].images
    else:
        prepare = (first if first.needs_one_size else second).prepare
        data = second.data or first.data
        pictures = [prepare.read(file) for file in files]
        images = np.stack(pictures) if files else samples.real_images(data, prepare)
    for side in (first, second):
        images = images if side.answers is None else side.answers.middle(images)
    allowed = args.tolerance
    if allowed is None:
        allowed = max(TOLERANCES[side.precision] for side in (first, second))
    try:
        given, expected = (side.answers.outputs(images) if side.held is None else side.held for side in (first, second))
        if args.write_reference:
            np.savez(args.write_reference, images=images, **expected)
        difference = compare_outputs(given, expected)
    except (NotFiniteError, VerificationError) as error:
        text = str(error) if isinstance(error, NotFiniteError) else f"{first.path} {error}"
        print(f"error: {printable(text)}", file=sys.stderr)
        return 3
    print(f"{first.path} against {second.path}, {len(images)} images: largest difference {difference}")
    if difference.within(allowed):
        return 0
    print(f"error: {first.path} differs from {second.path} by more than {allowed:g}", file=sys.stderr)
    return 3


def main(argv: list[str] | None = None) -> int:
    """Prove each; 3 if a fused net computes something else."""
    parser = ArgumentParser(prog="verify.py", description=__doc__)
    parser.add_argument(
        "what", nargs="*", metavar="WHAT|key=value", help="models and checkpoints to fuse, with options"
    )
    parser.add_argument("--all", action="store_true", help="every classifier")
    parser.add_argument("--image-size", type=positive_int, default=64, metavar="N", help="default 64")
    parser.add_argument(
        "--backend", choices=("CPU", "Ascend", "GPU"), help="its costs choose the forms; default: this one"
    )
    parser.add_argument("--against", metavar="FILE", help="compare with this checkpoint, exported file or .npz instead")
    parser.add_argument("--images", nargs="+", metavar="PATH", help="image files or folders to compare on")
    parser.add_argument("--tolerance", type=float, metavar="X", help=f"of the largest output; {TOLERANCES['fp32']:g}")
    parser.add_argument("--write-reference", metavar="FILE.npz", help="keep the images and what --against answers")
    args = parser.parse_intermixed_args(argv)
    names = [text for text in args.what if "=" not in text]
    options = read_options([text for text in args.what if "=" in text])
    if args.against:
        return pair(names, args)
    if args.images or args.write_reference or args.tolerance is not None:
        raise UserError("--images, --tolerance and --write-reference go with --against FILE")
    if bool(names) == args.all:
        raise UserError("give names of models or checkpoints, or --all")
    if args.image_size < SMALLEST:
        raise UserError(f"--image-size {args.image_size}: give at least {SMALLEST}")
    runtime.start("CPU", mode="pynative")
    from models import list_models

    failed = 0
    for name in names or list_models(task="classification"):
        line, equal = proof(name, options, args.image_size, args.backend)
        print(line, flush=True)
        failed += not equal
    return 3 if failed else 0


if __name__ == "__main__":
    run_cli(main)
