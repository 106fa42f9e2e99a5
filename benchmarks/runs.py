"""What the command measures or predicts, kind by kind: specifications in, a `Report` or files out."""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from acmix_ms import config
from acmix_ms.analysis.reported import TABLE2, TABLE5_SIZE
from acmix_ms.errors import UserError
from benchmarks import targets
from benchmarks.protocol import BATCH, GEMM, SIZE, Spec
from benchmarks.report import Report
from benchmarks.session import Session, Settings, count_macs
from benchmarks.worker import WorkerError

PREDICTED = ("resnet50", "acmix_resnet50", "swin_tiny", "acmix_swin_tiny", "pvt_tiny", "acmix_pvt_tiny", "san10",
             "acmix_san10")  # fmt: skip
PREDICTED_PRECISION = "fp16"  # of published peak rates, the only one
TABLE2_SIZES = ((512, 512), (512, 2048))  # the crops that train, and what the paper counts
TABLE7 = {"tensor": ("Tensor shifts", 313), "fixed": ("Fixed kernel", 419), "random": ("Random init", 419),
          "learned": ("Group conv", 419)}  # fmt: skip


def own_size(model: str) -> int:
    """Side of the images that a model is made for: a model for digits says little at 224; Table 5's of detectors,
    the crops' of segmentors.
    """
    from models import model_task

    task = model_task(model)
    if task != "classification":
        return {"detection": TABLE5_SIZE, "segmentation": TABLE2_SIZES[0][0]}[task]
    return config.for_model(model).data.image_size


def one_size(models: Sequence[str]) -> int:
    """The `own_size` of all these models.

    Raises:
        UserError: they differ.
    """
    sizes = {own_size(name): name for name in models}
    if len(sizes) > 1:
        told = " and ".join(f"{name} takes {size}x{size}" for size, name in sizes.items())
        raise UserError(f"--predict: {told}; give --image-size, or predict them one after the other")
    return min(sizes)


def count(specs, settings: Settings) -> dict[Spec, int]:
    """Multiply-adds; the first to meet a model or an image size that cannot be."""
    print("counting multiply-adds", flush=True)
    try:
        return count_macs(specs, settings)
    except WorkerError as error:
        raise UserError(str(error)) from error


def run_models(args: Namespace, settings: Settings, report: Report) -> None:
    """Each model with all its forms, and the matrix product, in turns."""
    plans = {}
    for model in dict.fromkeys(args.model):
        size = {"batch": args.batch or BATCH, "image_size": args.image_size or own_size(model)}
        ours = [Spec(model, form, **size) for form in dict.fromkeys(args.mode)]
        training = {"train" if form.startswith("train") else "infer": None for form in args.mode}
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
    """The pairs of Table 5 one by one: files up to detections and up to maps in turns, beside the paper's figures."""
    from acmix_ms.analysis import table5

    size = {"batch": args.batch or 1, "image_size": args.image_size or TABLE5_SIZE}
    plans = {
        pair: {(name, form): Spec(name, form, **size) for form in args.mode for name in (pair.acmix, pair.plain)}
        for pair in table5.TABLE5
    }
    macs = count([spec for specs in plans.values() for spec in specs.values()], settings)
    header = ("ACmix", "img/s", "plain", "img/s", "ratio", "up to", "paper: FPS", "paper: ratio", "pair known")
    rows: list[tuple] = []
    report.tables["Table 5 (paper: one Ascend 910, batch and what is counted not stated)"] = (header, rows)
    for pair, specs in plans.items():
        print(f"{pair.acmix} : {pair.plain}", flush=True)
        measured = Session(settings).measure([*specs.values(), GEMM], macs)
        for form in args.mode:
            fps = [measured[specs[name, form]].record()["images_per_second"] for name in (pair.acmix, pair.plain)]
            ours = [f"{one:.2f}" if one else "failed" for one in fps]
            ratio = f"{fps[0] / fps[1]:.2f}" if all(fps) else "-"
            end = "detections" if form in ("mindir", "mindir-unfused") else "maps"
            paper = f"{pair.acmix_fps} : {pair.plain_fps}", f"{pair.ratio:.2f}", pair.known
            rows.append((pair.acmix, ours[0], pair.plain, ours[1], ratio, end, *paper))
        report.add(pair.acmix, measured)


def run_table2(args: Namespace, settings: Settings, report: Report) -> None:
    """The pairs of Table 2 one by one, in each size and form in turns; of speed the paper has nothing."""
    sizes = [(args.image_size, args.image_size)] if args.image_size else TABLE2_SIZES
    plans: dict[tuple, dict] = {}
    for plain, acmix in zip(TABLE2[::2], TABLE2[1::2]):
        for size in sizes:
            given = {"batch": args.batch or 1, "image_size": size}
            plans[acmix, plain, size] = {
                (row, form): Spec(row.model, form, **given) for form in args.mode for row in (acmix, plain)
            }
    macs = count([spec for specs in plans.values() for spec in specs.values()], settings)
    header = ("size", "ACmix", "img/s", "plain", "img/s", "ratio", "form", "multiply-adds: ratio",
              "paper: G multiply-adds")  # fmt: skip
    rows: list[tuple] = []
    report.tables["Table 2 (paper: multiply-adds at 512x2048, no speed)"] = (header, rows)
    for (acmix, plain, size), specs in plans.items():
        told = "x".join(map(str, size))
        print(f"{acmix.model} : {plain.model}, {told}", flush=True)
        measured = Session(settings).measure([*specs.values(), GEMM], macs)
        for form in args.mode:
            pair = [specs[row, form] for row in (acmix, plain)]
            fps = [measured[spec].record()["images_per_second"] for spec in pair]
            ours = [f"{one:.2f}" if one else "failed" for one in fps]
            ratio, work = f"{fps[0] / fps[1]:.2f}" if all(fps) else "-", macs[pair[0]] / macs[pair[1]]
            paper = f"{acmix.flops} : {plain.flops}"
            rows.append((told, acmix.model, ours[0], plain.model, ours[1], ratio, form, f"{work:.2f}", paper))
        report.add(f"{acmix.model} {told}", measured)


def run_files(args: Namespace, settings: Settings, report: Report) -> None:
    """Exported files in turns."""
    report.add("files", Session(settings).measure([*args.selected, GEMM]))


def run_rows(args: Namespace, settings: Settings, report: Report) -> None:
    """The table of targets, session by session."""
    rows = [targets.resized(row, args.batch, args.image_size) for row in args.selected]
    lacking = {}
    if not args.against:
        lacking.update(dict.fromkeys(("official", "compiled"), "needs the official code: --against CLONE"))
    if args.official_python == sys.executable:
        lacking["mmdetection"] = "needs one that has mmdet, mmengine and mmcv-lite: --official-python PYTHON"
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


def predict(args: Namespace, folder: Path) -> None:
    """Print the prediction and write it as predicted.txt and predicted.json."""
    from acmix_ms.analysis.roofline import report
    from acmix_ms.analysis.table5 import table5
    from models import create_model

    size = {"device": args.predict, "precision": PREDICTED_PRECISION}
    models = ((name, create_model(name)) for name in args.model or PREDICTED)
    batches = [args.batch] if args.batch else [1, 32]
    text, data = report(models, batches, args.image_size, heaviest=8 if args.model else 0, **size)
    if not args.model:
        print("predicting Table 5", flush=True)
        more, rows = table5(create_model, **size)
        text, data = f"{text}\n{more}", {"models": data, "table5": rows}
    print(text)
    (folder / "predicted.txt").write_text(text, encoding="utf-8")
    (folder / "predicted.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
