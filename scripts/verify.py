"""Prove that the fused net computes what the train form computes: ``python scripts/verify.py acmix_resnet50``.

Names of models (random weights, statistics and rates) or checkpoints, any number of each, or ``--all`` models; options
of the models as ``key=value``, such as ``mix=alpha shift=tensor``. A line for each; status 3 if one differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import OmegaConf

from acmix_ms import config, runtime
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.engine import run_dir
from acmix_ms.errors import UserError, run_cli
from scripts.complexity import SMALLEST, read_options

TOLERANCE = 1e-5  # of the largest output, in float32


def build(name: str, options: dict):
    """A random net of a model, or the net of a checkpoint, in evaluation."""
    from acmix_ms.engine import checkpoint
    from acmix_ms.ops.fuse import randomise
    from models import create_model, list_models

    if name in list_models() or not Path(name).suffix:
        return randomise(create_model(name, **options)).set_train(False)
    saved = checkpoint.read(run_dir.require_checkpoint(name))
    model, kwargs = saved.meta.get("model"), {}
    if "config" in saved.meta:  # of a training; a converted checkpoint has the name alone
        cfg = config.from_dict(OmegaConf.create(saved.meta["config"])).model
        model, kwargs = cfg.name, dict(cfg.kwargs)
    if not model:
        raise UserError(f"{name} does not say of which model it is: give one that train.py or convert_torch.py wrote")
    net = create_model(model, **{"num_classes": saved.meta.get("num_classes") or 1000, **kwargs, **options})
    checkpoint.assign_weights(net, saved, name)
    return net.set_train(False)


def proof(name: str, options: dict, image_size: int, backend: str | None) -> tuple[str, bool]:
    """One line about a model, and whether the two nets agree."""
    import numpy as np
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
    equal = difference <= TOLERANCE  # false for nan
    counts = f"{before.params / 1e6:9.3f} -> {after.params / 1e6:8.3f}M parameters"
    counts += f", {before.macs() / 1e9:7.3f} -> {after.macs() / 1e9:7.3f}G multiply-adds"
    return f"{name:24} difference {difference:8.2e}{'' if equal else ' TOO LARGE'}, {counts}", equal


def main(argv: list[str] | None = None) -> int:
    """Prove each; 3 if a fused net computes something else."""
    parser = ArgumentParser(prog="verify.py", description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", metavar="MODEL|CHECKPOINT|key=value", help="what to fuse, and options")
    parser.add_argument("--all", action="store_true", help="every model")
    parser.add_argument("--image-size", type=positive_int, default=64, metavar="N", help="default 64")
    parser.add_argument("--backend", choices=("CPU", "Ascend"), help="whose costs choose the forms; default: this one")
    args = parser.parse_intermixed_args(argv)
    names = [text for text in args.what if "=" not in text]
    options = read_options([text for text in args.what if "=" in text])
    if bool(names) == args.all:
        raise UserError("give names of models or checkpoints, or --all")
    if args.image_size < SMALLEST:
        raise UserError(f"--image-size {args.image_size}: give at least {SMALLEST}")
    runtime.start("CPU", mode="pynative")
    from models import list_models

    failed = 0
    for name in names or list_models():
        line, equal = proof(name, options, args.image_size, args.backend)
        print(line, flush=True)
        failed += not equal
    return 3 if failed else 0


if __name__ == "__main__":
    run_cli(main)
