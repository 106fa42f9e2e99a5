"""Measure speed and memory: models of the zoo, the authors' PyTorch code beside them, the paper's Table 7; or predict.

``--model acmix_resnet50 resnet50 --mode infer deploy`` measures models; ``--against CLONE`` runs the table of targets
beside the official code in a clone that you have (``--rows`` chooses, without ``--against`` only what needs no clone),
``--against CLONE --model NAME`` one model beside it; ``--table7`` gives the FPS column of Table 7, ``--table5`` that of
Table 5 from MINDIR files (on the paper's device with ``--device Ascend``), ``--file X.mindir`` of any such file.
``--predict ascend910`` measures nothing: it prints what a roofline of that device allows, for the models given or those
of the paper, and the ratios of Table 5. ``--mode data --config FILE [key=value ...]`` measures how fast training images
come when there is no model.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms import runtime  # noqa: E402
from acmix_ms.arguments import ArgumentParser, positive_int  # noqa: E402
from acmix_ms.errors import UserError, closest, run_cli  # noqa: E402
from benchmarks import targets  # noqa: E402
from benchmarks.protocol import FORMS, GEMM, RELOADED, Spec, environment, spread  # noqa: E402
from benchmarks.report import FILES, Report  # noqa: E402
from benchmarks.session import Disagreement, Session, Settings, count_macs  # noqa: E402
from benchmarks.worker import WorkerError  # noqa: E402

BATCH, SIZE, SMALLEST = 4, 224, 32
DATA = "data"  # the mode that measures no model
DATA_FILE = "data.json"
OFFICIAL_FILES = ("ResNet/ResNet_ImageNet.py", "Swin-Transformer/models/swin_transformer_acmix.py")
OFFICIAL_MODELS = ("acmix_resnet26", "acmix_resnet38", "acmix_resnet50", "acmix_swin_tiny", "acmix_swin_small")
PREDICTED = ("resnet50", "acmix_resnet50", "swin_tiny", "acmix_swin_tiny", "pvt_tiny", "acmix_pvt_tiny", "san10",
             "acmix_san10")  # fmt: skip
PREDICTED_PRECISION = "fp16"  # of published peak rates, the only one
TORCH = "2.13.0"  # the version that was tried
TABLE7 = {"tensor": ("Tensor shifts", 313), "fixed": ("Fixed kernel", 419), "random": ("Random init", 419),
          "learned": ("Group conv", 419)}  # fmt: skip


def parse(argv: list[str] | None) -> Namespace:
    """The arguments, checked as far as that needs no model."""
    parser = ArgumentParser(prog="benchmark.py", description=__doc__)
    parser.add_argument("--model", "--models", nargs="+", metavar="NAME", help="models to measure")
    parser.add_argument("--file", nargs="+", metavar="FILE", help="MINDIR files to measure")
    parser.add_argument("--mode", nargs="+", metavar="MODE", help=f"of {', '.join(FORMS)}; default infer; or data")
    parser.add_config(required=False)
    parser.add_argument("--table7", action="store_true", help="acmix_swin_tiny with the four shifts of Table 7")
    parser.add_argument("--table5", action="store_true", help="the pairs of Table 5, exported, at 3x576x576")
    parser.add_argument("--predict", metavar="DEVICE", help="a roofline of that device: ascend910; runs nothing")
    parser.add_argument("--against", metavar="CLONE", help="a clone of github.com/LeapLabTHU/ACmix")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="some rows of the table of targets, or their sessions")
    parser.add_argument("--official-python", default=sys.executable, metavar="PYTHON", help="one that has PyTorch")
    parser.add_argument("--batch", type=positive_int, metavar="N", help=f"default {BATCH}, or as the row says")
    parser.add_argument("--image-size", type=positive_int, metavar="N", help=f"default {SIZE}, or as the row says")
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
    kinds = [bool(args.model), bool(args.file), args.table5, args.table7, bool(args.rows)]
    if sum(kinds) > 1 or not (any(kinds) or args.against):
        what = "--model NAME, --table7, --table5, --file FILE, --rows ROW, or --against CLONE for the table of targets"
        raise UserError(f"give one of {what}")
    one_mode = (args.table7 or args.table5) and len(args.mode or ()) == 1
    if args.mode and not args.model and not one_mode:
        raise UserError(f"--mode {' '.join(args.mode)}: goes with --model, or one with --table7; rows have theirs")
    args.mode = args.mode or [RELOADED[0] if args.table5 else "infer"]
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
    args.selected = file_specs(args) if args.file else targets.select(args.rows)
    if args.against:
        require_official(args)
    return args


def check_data(args: Namespace) -> Namespace:
    """``--mode data`` goes with --config, --warmup, --repetitions and --output; reads the configuration."""
    from acmix_ms import config

    if args.mode != [DATA]:
        raise UserError(f"{args.config or args.overrides[0]}: a configuration goes with --mode data alone")
    if not args.config:
        raise UserError("--mode data: give --config FILE, such as configs/classification/acmix_resnet50_imagenet.yaml")
    if args.model or args.file or args.table5 or args.table7 or args.rows or args.against or args.predict:
        kinds = "--model, --file, --table5, --table7, --rows, --against and --predict"
        raise UserError(f"--mode data measures no model: leave out {kinds}")
    if args.batch or args.image_size:
        raise UserError("--mode data: give data.batch_size=N and data.image_size=N instead of --batch and --image-size")
    args.loaded = config.load(args.config, args.overrides)
    return args


def run_data(args: Namespace) -> int:
    """Print how many training images come per second, and write it as data.json."""
    from acmix_ms.data import create_loader
    from benchmarks.loaders import measure

    data = args.loaded.data
    loader = create_loader(data, "train", seed=args.loaded.seed)
    folder = output_folder(args)
    what = f"data.name={data.name} data.batch_size={data.batch_size} data.image_size={data.image_size}"
    print(f"{what} data.workers={data.workers}: {loader.num_samples:,} images", flush=True)
    turns = measure(loader, warmup=args.warmup, repetitions=args.repetitions)
    images, seconds = (sum(column) for column in zip(*turns))
    rates = [count / duration for count, duration in turns]
    around = environment(threads=args.threads, precision=args.precision)
    found = {
        "environment": {name: around[name] for name in ("date", "cpu", "cores", "system", "versions")},
        "protocol": {"warmup": args.warmup, "repetitions": args.repetitions},
        "data": asdict(data),
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "turns": rates,
        **spread(rates),
    }
    (folder / DATA_FILE).write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(f"{images / seconds:.0f} img/s ({min(rates):.0f} to {max(rates):.0f} in {len(rates)} turns)")
    print(folder / DATA_FILE)
    return 0


def check_prediction(args: Namespace) -> Namespace:
    """``--predict`` goes with --model, --batch, --image-size and --output, and needs a known device."""
    from acmix_ms.analysis.roofline import find_device
    from models import list_models

    if args.table5 or args.table7 or args.file or args.rows or args.against or args.mode:
        raise UserError(
            "--predict measures nothing: leave out --file, --table5, --table7, --rows, --against and --mode"
        )
    find_device(args.predict, PREDICTED_PRECISION)
    for name in args.model or ():
        if name not in list_models():
            raise UserError(f"--model {name}: {closest(name, list_models())}")
    return args


def predict(args: Namespace, folder: Path) -> int:
    """Print the prediction and write it as predicted.txt and predicted.json."""
    from acmix_ms.analysis.roofline import report
    from acmix_ms.analysis.table5 import table5
    from models import create_model

    size = {"device": args.predict, "precision": PREDICTED_PRECISION}
    models = ((name, create_model(name)) for name in args.model or PREDICTED)
    batches = [args.batch] if args.batch else [1, 32]
    text, data = report(models, batches, args.image_size or SIZE, heaviest=8 if args.model else 0, **size)
    if not args.model:
        print("predicting Table 5", flush=True)
        more, rows = table5(lambda name: create_model(name, features_only=True), **size)
        text, data = f"{text}\n{more}", {"models": data, "table5": rows}
    print(text)
    (folder / "predicted.txt").write_text(text, encoding="utf-8")
    (folder / "predicted.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    return 0


def require_official(args: Namespace) -> None:
    """See that the official code can be run beside ours."""
    for file in OFFICIAL_FILES:
        if not (Path(args.against) / file).is_file():
            raise UserError(
                f"--against {args.against}: there is no {file}; give the folder of a clone of "
                "https://github.com/LeapLabTHU/ACmix"
            )
    args.against = str(Path(args.against).resolve())
    if args.table7 or args.table5:
        table = "--table7: the official code has one of its four rows only" if args.table7 else "--table5: is of ours"
        raise UserError(f"{table}; leave --against out")
    for name in args.model or ():
        if name not in OFFICIAL_MODELS:
            raise UserError(
                f"--model {name}: the authors released no such code, choose from {', '.join(OFFICIAL_MODELS)}"
            )
    if args.device not in ("auto", "CPU") or args.precision != "fp32":
        raise UserError("--against: the official code is measured on CPU in fp32; leave out --device and --precision")
    args.device = "CPU"
    try:
        command = [args.official_python, "-c", "import numpy, torch"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=runtime.foreign_environment())
        reason = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else None
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise UserError(
            f"--official-python {args.official_python} cannot import PyTorch and NumPy ({reason}): make an "
            f"environment of its own, pip install torch=={TORCH} numpy in it, and give its Python"
        )


def output_folder(args: Namespace) -> Path:
    """Where the files go; made here."""
    from acmix_ms.files import writable_folder

    folder = Path(args.output or f"runs/benchmark/{datetime.datetime.now():%Y%m%d-%H%M%S}")
    written = DATA_FILE if args.mode == [DATA] else FILES[0]
    if not args.force and (folder / written).exists():
        raise UserError(f"--output {folder} holds an earlier {written}: give another folder, or --force")
    return writable_folder(folder, "--output")


def count(specs, settings: Settings) -> dict[Spec, int]:
    """Multiply-adds; the first to meet a model or an image size that cannot be."""
    print("counting multiply-adds", flush=True)
    try:
        return count_macs(specs, settings)
    except WorkerError as error:
        raise UserError(str(error)) from error


def run_models(args: Namespace, settings: Settings, report: Report) -> None:
    """Each model with all its forms, and the matrix product, in turns."""
    size = {"batch": args.batch or BATCH, "image_size": args.image_size or SIZE}
    plans = {}
    for model in dict.fromkeys(args.model):
        ours = [Spec(model, form, **size) for form in dict.fromkeys(args.mode)]
        training = {"train" if form == "train" else "infer": None for form in args.mode}
        official = [Spec(model, form, "official", **size) for form in training] if args.against else []
        if official and "swin" in model:  # stochastic depth is off on both sides, see workers/official.py
            off = (("drop_path_rate", 0.0),)
            ours = [replace(spec, options=off) if spec.form == "train" else spec for spec in ours]
        plans[model] = [*official, *ours, GEMM]
    macs = count([spec for specs in plans.values() for spec in specs], settings)
    for number, (model, specs) in enumerate(plans.items(), start=1):
        print(f"[{number}/{len(plans)}] {model}", flush=True)
        report.add(model, Session(settings).measure(specs, macs))


def run_table7(args: Namespace, settings: Settings, report: Report) -> None:
    """The four shifts in turns, beside the paper's images per second."""
    size = {"batch": args.batch or BATCH, "image_size": args.image_size or SIZE}
    model, form = "acmix_swin_tiny", args.mode[0]
    specs = {shift: Spec(model, form, options=(("shift", shift),), **size) for shift in TABLE7}
    macs = count(list(specs.values()), settings)
    measured = Session(settings).measure([*specs.values(), GEMM], macs)
    fps = {shift: measured[spec].record()["images_per_second"] for shift, spec in specs.items()}
    rows = []
    for shift, (label, paper) in TABLE7.items():
        ours = f"{fps[shift]:.1f}" if fps[shift] else "failed"
        relative = f"{fps[shift] / fps['tensor']:.2f}x" if fps[shift] and fps["tensor"] else "-"
        rows.append((label, shift, ours, relative, str(paper), f"{paper / TABLE7['tensor'][1]:.2f}x"))
    header = ("shift module", "shift=", "img/s", "over tensor shifts", "paper: img/s", "paper: over tensor shifts")
    report.tables["Table 7 (paper: one RTX 2080 Ti, largest batch)"] = (header, rows)
    report.add("table7", measured)


def run_table5(args: Namespace, settings: Settings, report: Report) -> None:
    """The pairs of Table 5 in turns, each model from a file, beside the paper's images per second."""
    from acmix_ms.analysis import table5

    size = {"batch": args.batch or 1, "image_size": args.image_size or table5.IMAGE_SIZE}
    names = dict.fromkeys(name for pair in table5.TABLE5 for name in (pair.acmix, pair.plain))
    specs = {name: Spec(name, args.mode[0], **size) for name in names}
    macs = count(list(specs.values()), settings)
    measured = Session(settings).measure([*specs.values(), GEMM], macs)
    rows = table5.measured(lambda name: measured[specs[name]].record()["images_per_second"])
    report.tables[table5.MEASURED_TITLE] = (table5.MEASURED_HEADER, rows)
    report.add("table5", measured)


def run_files(args: Namespace, settings: Settings, report: Report) -> None:
    """MINDIR files in turns."""
    report.add("files", Session(settings).measure([*args.selected, GEMM]))


def file_specs(args: Namespace) -> list[Spec]:
    """The files, at the sizes that they take."""
    from acmix_ms.deploy import mindir

    if args.device != "auto" and not runtime.available(args.device):
        raise UserError(f"--device {args.device}: MindSpore finds none here; give another, or auto")
    specs = []
    for path in dict.fromkeys(args.file):
        batch, _, size, width = mindir.image_shape(path)
        if size != width:
            raise UserError(f"{path} takes images that are not square: give a file of export.py")
        if batch and args.batch and batch != args.batch:
            raise UserError(
                f"--batch {args.batch}: {path} takes batches of {batch}; export it with --batch {args.batch}"
            )
        specs.append(Spec(path, RELOADED[0], "file", batch or args.batch or BATCH, size or SIZE))
    return specs


def run_rows(args: Namespace, settings: Settings, report: Report) -> None:
    """The table of targets, session by session."""
    rows = [targets.resized(row, args.batch, args.image_size) for row in args.selected]
    lacking = {}
    if not args.against:
        lacking.update(dict.fromkeys(("official", "compiled"), "needs the official code: --against CLONE"))
    if importlib.util.find_spec("mindcv") is None:
        lacking["mindcv"] = "mindcv is not installed: pip install mindcv, or set PYTHONPATH to it"
    reasons = {row: lacking[spec.source] for row in rows for spec in row.against if spec.source in lacking}
    report.results += [targets.Result(row, failure=reason) for row, reason in reasons.items()]
    runnable = [row for row in rows if row not in reasons]
    plans = targets.sessions(runnable)
    macs = count([spec for specs in plans.values() for spec in specs], settings) if plans else {}
    for number, (name, specs) in enumerate(plans.items(), start=1):
        print(f"[{number}/{len(plans)}] {name}", flush=True)
        chosen = [row for row in runnable if row.session == name]
        memory_only = all(row.measure == "memory" for row in chosen)
        session = Session(replace(settings, warmup=2, repetitions=1) if memory_only else settings)
        extra = () if memory_only or GEMM in specs else (GEMM,)
        measured = session.measure([*specs, *extra], macs)
        report.add(name, measured, [targets.evaluate(row, measured) for row in chosen])
    report.results.sort(key=lambda result: rows.index(result.row))


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = parse(argv)
    if args.mode == [DATA]:
        return run_data(args)
    folder = output_folder(args)
    if args.predict:
        return predict(args, folder)
    settings = Settings(args.device, args.threads, args.precision, args.warmup, args.repetitions, args.against,
                        args.official_python)  # fmt: skip
    protocol = {"warmup": args.warmup, "repetitions": args.repetitions}
    report = Report(folder, environment(threads=args.threads, precision=args.precision), protocol)
    kinds = ((args.model, run_models), (args.file, run_files), (args.table5, run_table5), (args.table7, run_table7))
    run = next((one for asked, one in kinds if asked), run_rows)
    try:
        run(args, settings, report)
    except Disagreement as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    report.write()
    print(f"\n{report.text()}\n\n" + "\n".join(str(folder / name) for name in FILES))
    return 0 if any(one.timing for some in report.sessions.values() for one in some) or not report.sessions else 1


if __name__ == "__main__":
    run_cli(main)
