"""Measure speed and memory: models of the zoo, the authors' PyTorch code beside them, the paper's Table 7; or predict.

``--model acmix_resnet50 resnet50 --mode infer deploy`` measures models; ``--against CLONE`` runs the table of targets
beside the official code in a clone that you have (``--rows`` chooses, without ``--against`` only what needs no clone),
``--against CLONE --model NAME`` one model beside it; ``--table7`` gives the FPS column of Table 7, ``--table5`` that of
Table 5, RetinaNets from MINDIR files up to detections and up to maps (on the paper's device with ``--device Ascend``),
``--table2`` the segmentors of Table 2 beside their plain twins, from MINDIR files, at 512x512 and 512x2048,
``--file`` of any MINDIR, ONNX or ``.ms`` file.
``--predict ascend910`` measures nothing: it prints what a roofline of that device allows, for the models given or those
of the paper, and the ratios of Table 5. ``--mode data --config FILE [key=value ...]`` measures how fast training images
come when there is no model.
"""

from __future__ import annotations

import datetime
import sys
from argparse import Namespace
from pathlib import Path

from acmix_ms import config, runtime
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.errors import UserError, closest
from acmix_ms.files import writable_folder
from benchmarks import clone, files, loaders, runs, targets
from benchmarks.protocol import BATCH, FORMS, RELOADED, SIZE, environment
from benchmarks.report import FILES, Report
from benchmarks.session import Disagreement, Settings

SMALLEST = 32
DATA = "data"  # the mode that measures no model


def parse(argv: list[str] | None) -> Namespace:
    """The arguments, checked as far as that needs no model."""
    parser = ArgumentParser(prog="benchmark.py", description=__doc__)
    parser.add_argument("--model", "--models", nargs="+", metavar="NAME", help="models to measure")
    parser.add_argument("--file", nargs="+", metavar="FILE", help="exported files to measure: .mindir, .onnx or .ms")
    parser.add_argument("--mode", nargs="+", metavar="MODE", help=f"of {', '.join(FORMS)}; default infer; or data")
    parser.add_config(required=False)
    parser.add_argument("--table7", action="store_true", help="acmix_swin_tiny with the four shifts of Table 7")
    parser.add_argument("--table5", action="store_true", help="the pairs of Table 5, exported, at 3x576x576")
    parser.add_argument("--table2", action="store_true", help="the pairs of Table 2, exported, at 512x512 and 512x2048")
    parser.add_argument("--predict", metavar="DEVICE", help="a roofline of that device: ascend910; runs nothing")
    parser.add_argument("--against", metavar="CLONE", help="a clone of github.com/LeapLabTHU/ACmix")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="some rows of the table of targets, or their sessions")
    parser.add_argument("--official-python", default=sys.executable, metavar="PYTHON", help="one that has PyTorch")
    parser.add_argument("--batch", type=positive_int, metavar="N", help=f"default {BATCH}, or as the row says")
    sizes = f"default {SIZE}, 32 of models for digits, or as the row says"
    parser.add_argument("--image-size", type=positive_int, metavar="N", help=sizes)
    parser.add_argument("--device", default="auto", help="auto, Ascend, GPU or CPU")
    parser.add_argument("--threads", type=positive_int, default=runtime.cpu_cores(), metavar="N", help="all cores")
    parser.add_argument("--precision", choices=("fp32", "mixed", "fp16"), default="fp32", help="fp32")
    parser.add_argument("--warmup", type=positive_int, default=3, metavar="N", help="steps before; 3")
    parser.add_argument("--repetitions", type=positive_int, default=10, metavar="N", help="turns of each; 10")
    parser.add_argument("--output", metavar="DIR", help="for the JSON, the tables, the plot; runs/benchmark/<time>")
    parser.add_argument("--force", action="store_true", help="replace an earlier benchmark in --output")
    args = parser.parse_intermixed_args(argv)
    for mode in args.mode or ():
        if mode not in (*FORMS, DATA):
            raise UserError(f"--mode {mode}: {closest(mode, (*FORMS, DATA))}")
    if args.config or args.overrides or DATA in (args.mode or ()):
        return check_data(args)
    if args.predict:
        return check_prediction(args)
    kinds = [bool(args.model), bool(args.file), args.table2, args.table5, args.table7, bool(args.rows)]
    if sum(kinds) > 1 or not (any(kinds) or args.against):
        what = (
            "--model NAME, --table7, --table5, --table2, --file FILE, --rows ROW, or --against CLONE for the table of "
            "targets"
        )
        raise UserError(f"give one of {what}")
    one_mode = args.table5 or args.table2 or (args.table7 and len(args.mode or ()) == 1)
    if args.mode and not args.model and not one_mode:
        what = "goes with --model, --table5 and --table2, or one with --table7; rows have theirs"
        raise UserError(f"--mode {' '.join(args.mode)}: {what}")
    args.mode = args.mode or (list(RELOADED[:2]) if args.table5 else ["mindir" if args.table2 else "infer"])
    if args.file and (args.image_size or args.against or args.precision != "fp32"):
        raise UserError("--file: a file has its size and precision; leave out --image-size, --precision and --against")
    if args.precision != "fp32" and set(args.mode) & set(RELOADED):
        raise UserError(f"--precision {args.precision}: files are exported as fp32; give it with another --mode")
    if args.image_size and args.image_size < SMALLEST:
        raise UserError(f"--image-size {args.image_size}: give at least {SMALLEST}")
    if args.threads > runtime.cpu_cores():
        raise UserError(
            f"--threads {args.threads}: this process may use {runtime.cpu_cores()} cores, give at most that"
        )
    if args.device not in ("auto", *runtime.DEVICES):
        raise UserError(f"--device {args.device}: {closest(args.device, ('auto', *runtime.DEVICES))}")
    args.selected = files.specs(args.file, args.batch, args.device) if args.file else targets.select(args.rows)
    if args.against:
        check_official(args)
    return args


def check_data(args: Namespace) -> Namespace:
    """``--mode data`` goes with --config, --warmup, --repetitions and --output; reads the configuration."""
    if args.mode != [DATA]:
        raise UserError(f"{args.config or args.overrides[0]}: a configuration goes with --mode data alone")
    if not args.config:
        raise UserError("--mode data: give --config FILE, such as configs/classification/acmix_resnet50_imagenet.yaml")
    tables = args.table2 or args.table5 or args.table7
    if args.model or args.file or tables or args.rows or args.against or args.predict:
        kinds = "--model, --file, --table2, --table5, --table7, --rows, --against and --predict"
        raise UserError(f"--mode data measures no model: leave out {kinds}")
    if args.batch or args.image_size:
        raise UserError("--mode data: give data.batch_size=N and data.image_size=N instead of --batch and --image-size")
    args.loaded = config.load(args.config, args.overrides)
    return args


def check_prediction(args: Namespace) -> Namespace:
    """``--predict`` goes with --model, --batch, --image-size and --output, and needs a known device."""
    from acmix_ms.analysis.roofline import find_device
    from models import list_models

    if args.table2 or args.table5 or args.table7 or args.file or args.rows or args.against or args.mode:
        raise UserError(
            "--predict measures nothing: leave out --file, --table2, --table5, --table7, --rows, --against and --mode"
        )
    find_device(args.predict, runs.PREDICTED_PRECISION)
    known = list_models(task="classification")
    for name in args.model or ():
        if name not in known:
            raise UserError(f"--model {name}: {closest(name, known)}")
    args.image_size = args.image_size or runs.one_size(args.model or runs.PREDICTED)
    return args


def check_official(args: Namespace) -> None:
    """``--against`` goes with what the official code can do, and needs a Python that runs it."""
    args.against = clone.require(args.against)
    if args.table7 or args.table5 or args.table2:
        table = f"--table{5 if args.table5 else 2}: is of ours"
        if args.table7:
            table = "--table7: the official code has one of its four rows only"
        raise UserError(f"{table}; leave --against out")
    for name in args.model or ():
        if name not in clone.MODELS:
            raise UserError(f"--model {name}: the authors released no such code, choose from {', '.join(clone.MODELS)}")
    if args.device not in ("auto", "CPU") or args.precision != "fp32":
        raise UserError("--against: the official code is measured on CPU in fp32; leave out --device and --precision")
    args.device = "CPU"
    clone.require_torch(args.official_python)


def output_folder(args: Namespace) -> Path:
    """Where the files go; made here."""
    folder = Path(args.output or f"runs/benchmark/{datetime.datetime.now():%Y%m%d-%H%M%S}")
    written = loaders.FILE if args.mode == [DATA] else FILES[0]
    if not args.force and (folder / written).exists():
        raise UserError(f"--output {folder} holds an earlier {written}: give another folder, or --force")
    return writable_folder(folder, "--output")


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = parse(argv)
    protocol = {"warmup": args.warmup, "repetitions": args.repetitions}
    if args.mode == [DATA]:
        from acmix_ms.data import create_loader

        data = args.loaded.data
        loader = create_loader(data, "train", seed=args.loaded.seed)  # first: wrong data leave no folder behind
        loaders.run(loader, data, output_folder(args), **protocol)
        return 0
    folder = output_folder(args)
    if args.predict:
        runs.predict(args, folder)
        return 0
    settings = Settings(args.device, args.threads, args.precision, args.warmup, args.repetitions, args.against,
                        args.official_python)  # fmt: skip
    report = Report(folder, environment(threads=args.threads, precision=args.precision), protocol)
    kinds = ((args.model, runs.run_models), (args.file, runs.run_files), (args.table5, runs.run_table5),
             (args.table7, runs.run_table7), (args.table2, runs.run_table2))  # fmt: skip
    run = next((one for asked, one in kinds if asked), runs.run_rows)
    try:
        run(args, settings, report)
    except Disagreement as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    report.write()
    print(f"\n{report.text()}\n\n" + "\n".join(str(folder / name) for name in FILES))
    return 0 if any(one.timing for some in report.sessions.values() for one in some) or not report.sessions else 1
