"""Convert official PyTorch weights: ``python scripts/convert_torch.py --model swin_tiny --input FILE.pth``.

Of a detector the file is mmdetection's: ``--model retinanet_pvt_tiny --input epoch_12.pth``, of a segmentor
mmsegmentation's: ``--model semantic_fpn_pvt_tiny --input iter_40000.pth``.

Without ``--output`` they go where ``create_model("swin_tiny", pretrained=True)`` looks. ``--list`` tells what was
released for which model.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms import deploy, runtime
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.errors import UserError, run_cli
from acmix_ms.files import sync

ENDINGS = (".ckpt", ".safetensors")


def convert(model: str, source: Path, output: Path, *, num_classes: int | None, drop_head: bool, check: bool) -> str:
    """Read the state dict, load it into the model (which checks names and shapes), save; returns a line about it.

    Raises:
        UserError: a file or a state dict that cannot serve, or an output that cannot be written.
    """
    from models import create_model, model_task, torch_files
    from models.pretrained import count_classes, load_torch_state
    from models.registry import CLASSES

    digest = torch_files.check_sha256(source, refuse=check)
    state = torch_files.read_state(source)
    runtime.start("CPU")
    num_classes = num_classes or count_classes(state) or CLASSES[model_task(model)]
    net = create_model(model, num_classes=num_classes)
    load_torch_state(net, state, drop_head=drop_head)
    meta = {"model": model, "num_classes": num_classes, "source": source.name, "source_sha256": digest}
    _save(output, net, meta)
    return f"{output}: {len(net.parameters_dict())} parameters of {model}, {num_classes} classes, read back and equal"


def _save(output: Path, net, meta: dict) -> None:
    """Write and read back beside ``output``; a file that is there gives way to one that has proved good."""
    from acmix_ms.engine import checkpoint

    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            partial = Path(folder) / output.name
            checkpoint.save(partial, net.parameters_dict(), meta=meta)
            saved = checkpoint.read(partial).weights
            weights = {name: parameter.asnumpy() for name, parameter in net.parameters_dict().items()}
            if saved.keys() != weights.keys() or not all(same(saved[name], weights[name]) for name in weights):
                raise UserError(f"--output {output} does not read back as it was written: try another disk")
            os.replace(partial, output)
            sync(output.parent)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are bitwise equal, nan included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main(argv: list[str] | None = None) -> None:
    """Check what is cheap to check, then convert."""
    parser = ArgumentParser(prog="convert_torch.py", description="Convert official PyTorch weights to a checkpoint.")
    parser.add_argument("--list", action="store_true", help="print what was released, and where it is")
    parser.add_argument("--input", type=Path, metavar="FILE", help=".pth, .pt, .npz or .safetensors")
    parser.add_argument("--model", metavar="NAME", help="default: what the file of this name was released for")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".ckpt or .safetensors; default: where pretrained=True looks"
    )
    parser.add_argument("--num-classes", type=positive_int, metavar="N", help="default: of the weights")
    parser.add_argument("--drop-head", action="store_true", help="leave out what is for another number of classes")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_flag("check", help="compare the sha256 with that of the released file, where it is known (default)")
    args = parser.parse_args(argv)
    from models import manifest, torch_files

    if args.list:
        print(manifest.table())
        return
    if args.input is None:
        raise UserError("--input FILE is missing: give the weights to convert, or --list to see which there are")
    release = manifest.by_file(args.input)
    model = args.model or (release and release.model)
    if not model:
        raise UserError(f"--input {args.input} is no file that a release tells the model of: give --model NAME")
    output = args.output or manifest.cached(model)
    if output.suffix not in ENDINGS:
        raise UserError(f"--output {output}: give a name that ends with {' or '.join(ENDINGS)}")
    torch_files.require(args.input)
    deploy.check_output(output, force=args.force)
    options = {"num_classes": args.num_classes, "drop_head": args.drop_head, "check": args.check}
    print(convert(model, args.input, output, **options))


if __name__ == "__main__":
    run_cli(main)
