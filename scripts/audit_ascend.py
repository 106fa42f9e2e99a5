"""Hold the graphs of models, of train steps or of a file against what the installed MindSpore has for Ascend.

``python scripts/audit_ascend.py`` exports every model as export.py does and prints a line for each; ``--train`` looks
at train steps instead, ``--file X.mindir`` at any file. Exit status 3 when a primitive is unknown. What is asked, and
what cannot be seen without an Ascend, is in docs/ascend.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms import config, runtime  # noqa: E402
from acmix_ms.arguments import ArgumentParser, positive_int  # noqa: E402
from acmix_ms.errors import UserError, closest, run_cli  # noqa: E402
from acmix_ms.files import writable_file, write_text  # noqa: E402
from scripts.documents import replace_between  # noqa: E402

SIZE, DIGITS_SIZE, SMALLEST = 224, 32, 32
TRAIN_SIZE = 64  # graphs of train steps take minutes to compile, and have the same primitives at every size
BATCH = 2  # of a train step: the kinds of operators do not depend on it
# A train step for each family, with the optimizer of its recipe.
TRAIN = {"acmix_resnet_digits": "sgd", "acmix_san_digits": "sgd", "acmix_swin_digits": "adamw",
         "acmix_pvt_tiny": "adamw", "acmix_deit_tiny": "adamw"}  # fmt: skip
DOCUMENT = ROOT / "docs" / "ascend.md"
START, END = "<!-- audit{}: written by scripts/audit_ascend.py --write -->", "<!-- end of audit{} -->"


def parse(argv: list[str] | None) -> Namespace:
    """The arguments, checked as far as that needs no model."""
    parser = ArgumentParser(prog="audit_ascend.py", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all; with --train one of each family")
    parser.add_argument("--file", nargs="+", metavar="FILE", help="MINDIR files instead of models")
    parser.add_argument("--train", action="store_true", help="the train step instead of the exported model")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), help="of --train; default: as the family's recipe")
    parser.add_argument("--precision", choices=("fp32", "mixed", "fp16"), default="fp32", help="mixed: --train only")
    sizes = f"default {SIZE}, with --train {TRAIN_SIZE}; digits {DIGITS_SIZE}"
    parser.add_argument("--image-size", type=positive_int, metavar="N", help=sizes)
    parser.add_flag("fuse", help="fold as export.py does (default)")
    parser.add_argument("--details", action="store_true", help="every primitive and finding of each graph")
    parser.add_argument("--json", metavar="FILE", help="all of it, for programs")
    parser.add_argument("--write", action="store_true", help="put the table into docs/ascend.md")
    args = parser.parse_args(argv)
    if args.file and (args.models or args.train or args.image_size or args.precision != "fp32" or args.write):
        raise UserError(
            "--file: a file has its model, size and precision; leave out --models, --train, --image-size, --precision "
            "and --write"
        )
    if not args.train and (args.optimizer or args.precision == "mixed"):
        raise UserError("--optimizer and --precision mixed: go with --train")
    if args.image_size and args.image_size < SMALLEST:
        raise UserError(f"--image-size {args.image_size}: give at least {SMALLEST}")
    if args.json:
        args.json = writable_file(args.json, "--json")
    return args


def export_graphs(args: Namespace, names: list[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """The graph of each model as a file in ``folder``, with what the table calls it."""
    import mindspore as ms
    import numpy as np

    from acmix_ms.deploy.ascend import audit
    from acmix_ms.deploy.ascend.train_graph import TrainStep
    from acmix_ms.deploy.half import Half
    from acmix_ms.ops.fuse import fuse_for_export
    from models import create_model

    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        size, path = size_of(args, name), folder / f"{number}.mindir"
        batch = BATCH if args.train else 1
        inputs = [ms.Tensor(np.zeros((batch, 3, size, size), np.float32))]
        net = create_model(name)
        if args.train:
            optimizer = args.optimizer or TRAIN.get(name, "adamw")
            keys = {"optim.name": optimizer, "train.precision": args.precision, "data.batch_size": BATCH}
            keys.update({"optim.clip_norm": 5, "train.ema_decay": 0.9999})  # all that a step may have
            keys["run_dir"] = "runs"
            inputs.append(ms.Tensor(np.zeros(batch, np.int32)))
            cell = TrainStep(net, config.for_model(name, [f"{key}={value}" for key, value in keys.items()]))
            label = f"{name}, {optimizer}, {args.precision}, {size}"
        else:
            net = fuse_for_export(net) if args.fuse else net
            cell = (Half(net) if args.precision == "fp16" else net).set_train(False)
            label = f"{name}, {size}"
        audit.write_graph(cell, inputs, path)
        yield label, path


def size_of(args: Namespace, name: str) -> int:
    """Side of the images."""
    usual = TRAIN_SIZE if args.train else SIZE
    return args.image_size or (DIGITS_SIZE if name.endswith("_digits") else usual)


def written(document: str, table: str, kind: str) -> str:
    """docs/ascend.md with one of its tables made anew between the markers."""
    return replace_between(document, START.format(kind), END.format(kind), table, "docs/ascend.md: the table")


def heading(argv: list[str]) -> str:
    """How the table was made: command, versions, day."""
    import datetime

    import mindspore as ms

    command = " ".join(["python scripts/audit_ascend.py", *argv])
    return f"`{command}`, MindSpore {ms.__version__}, {datetime.date.today()}:\n"


def main(argv: list[str] | None = None) -> int:
    """Export, audit, print; 3 when a primitive is unknown."""
    args = parse(argv)
    runtime.start("CPU", mode="pynative")  # graphs are exported, none is run
    from acmix_ms.deploy.ascend import audit
    from models import list_models

    names = args.models or (list(TRAIN) if args.train else list_models())
    for name in names:
        if name not in list_models():
            raise UserError(f"--models {name}: {closest(name, list_models())}")
    with tempfile.TemporaryDirectory() as folder:
        files = [(Path(file).name, file) for file in args.file or ()]
        files = files or list(export_graphs(args, list(dict.fromkeys(names)), Path(folder)))
        audits = audit.audit_files(files)
    table = audit.table(audits)
    print("\n\n".join([audit.details(one) for one in audits] + [table]) if args.details else table)
    unknown = {one.name: one.kinds(audit.UNKNOWN) for one in audits if one.kinds(audit.UNKNOWN)}
    for note in dict.fromkeys(one.note for one in audits if one.note):
        print(f"note: {note}")
    if args.json:
        write_text(args.json, json.dumps([one.record() for one in audits], indent=1) + "\n")
    if args.write:
        kind = " of train steps" if args.train else " in float16" if args.precision == "fp16" else ""
        text = written(DOCUMENT.read_text(encoding="utf-8"), heading(argv or sys.argv[1:]) + "\n" + table, kind)
        write_text(DOCUMENT, text)
        print(DOCUMENT.relative_to(ROOT))
    for name, primitives in unknown.items():
        print(f"error: {name}: nothing in MindSpore says that an Ascend has {', '.join(primitives)}", file=sys.stderr)
    return 3 if unknown else 0


if __name__ == "__main__":
    run_cli(main)
