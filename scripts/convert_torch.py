"""Convert official PyTorch weights: ``python scripts/convert_torch.py --model NAME --input X.pth --output Y.ckpt``."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms import deploy, runtime
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.errors import UserError, run_cli

WRAPPERS = ("model", "state_dict")  # where training scripts keep the state dict inside the file
CLASSIFIERS = ("fc.weight", "head.weight")


def read_state(path: Path) -> dict[str, np.ndarray]:
    """State dict of a ``.pth`` / ``.pt`` (needs torch), ``.npz`` or ``.safetensors`` file as arrays.

    Raises:
        UserError: missing or unreadable file, unknown ending, torch not installed, or no state dict in it.
    """
    if not path.is_file():
        raise UserError(f"--input {path} does not exist")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"--input {path} is not a readable .npz file: {error}") from error
    if path.suffix == ".safetensors":
        import safetensors.numpy

        try:
            return safetensors.numpy.load_file(path)
        except safetensors.SafetensorError as error:
            raise UserError(f"--input {path} is not a readable .safetensors file: {error}") from error
    if path.suffix in (".pth", ".pt"):
        return _read_torch(path)
    raise UserError(f"--input {path}: unknown ending {path.suffix!r}, give .pth, .pt, .npz or .safetensors")


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"--input {path}: reading {path.suffix} needs PyTorch, which is not installed: pip install torch, "
            "or save the state dict as .safetensors or .npz where you have it"
        ) from error
    import pickle

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"--input {path} holds no plain weights that torch can read: {error}") from error
    for name in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"--input {path} holds no state dict, neither itself nor under {' or '.join(WRAPPERS)}")
    arrays = {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in state.items()}
    return {name[7:] if name.startswith("module.") else name: v for name, v in arrays.items()}  # DataParallel


def main(argv: list[str] | None = None) -> None:
    """Read, load into the model (which checks names and shapes), save."""
    parser = ArgumentParser(prog="convert_torch.py", description="Convert official PyTorch weights to a checkpoint.")
    parser.add_argument("--model", required=True, metavar="NAME", help="such as acmix_swin_tiny")
    parser.add_argument("--input", required=True, type=Path, metavar="FILE", help=".pth, .pt, .npz or .safetensors")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="ends with .ckpt")
    parser.add_argument("--num-classes", type=positive_int, metavar="N", help="default: of the weights")
    parser.add_argument("--drop-head", action="store_true", help="leave out a classifier of another size")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_args(argv)

    if args.output.suffix != ".ckpt":
        raise UserError(f"--output {args.output}: give a name that ends with .ckpt")
    deploy.check_output(args.output, force=args.force)
    state = read_state(args.input)
    runtime.start("CPU")
    from acmix_ms.engine import checkpoint
    from models import create_model
    from models.pretrained import load_torch_state

    sizes = [len(state[name]) for name in CLASSIFIERS if name in state]
    num_classes = args.num_classes or (sizes[0] if sizes else 1000)
    net = create_model(args.model, num_classes=num_classes)
    load_torch_state(net, state, drop_head=args.drop_head)
    checkpoint.save(args.output, net.parameters_dict(), meta={"model": args.model, "num_classes": num_classes})
    print(f"{args.output}: {len(net.parameters_dict())} parameters of {args.model}, {num_classes} classes")


if __name__ == "__main__":
    run_cli(main)
