"""Run models on MindSpore's own Ascend backend without an Ascend, and tell what was launched.

``python scripts/dry_run_ascend.py --models acmix_resnet50`` compiles and runs the model as trained, fused and for one
step of training on an Ascend 910B that is a stand-in, and exports it as AIR: memory is the host's, and kernels are
noted instead of computed (``--numbers`` computes them and the graph in the file, and compares with the CPU). Exit
status 3 when one fell back to another processor than the AI Core, did not run, or computed something else. What that
proves, and what not, is in docs/ascend.md.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms.arguments import ArgumentParser, positive_int  # noqa: E402
from acmix_ms.deploy.ascend import dry_run  # noqa: E402
from acmix_ms.deploy.ascend.dry_run import MODES, PRECISIONS, SOCS, Job, Result  # noqa: E402
from acmix_ms.errors import UserError, closest, run_cli  # noqa: E402
from acmix_ms.files import writable_file, write_text  # noqa: E402
from scripts.documents import replace_between  # noqa: E402

WORKER = [sys.executable, str(Path(__file__).with_name("dry_run_worker.py"))]
SIZE, DIGITS_SIZE, SMALLEST = 224, 32, 32
TRAIN_SIZE = 64  # graphs of train steps take minutes to compile, and have the same kernels at every size
TRAIN_BATCH = 2
ADAMW = ("swin", "pvt", "deit", "t2t", "convit", "cvt")  # families whose recipes train with it; the others with SGD
# Largest difference to the CPU allowed, relative, of outputs, and of gradients and weights after a step. The step of
# a net with 16-bit gradients lies too far from any other for a comparison: the two round at other places.
NUMBERS = {"infer": {"fp32": 1e-5, "fp16": 1e-3}, "train": {"fp32": 5e-4}}
DOCUMENT = ROOT / "docs" / "ascend.md"
START, END = "<!-- dry run: written by scripts/dry_run_ascend.py --write -->", "<!-- end of dry run -->"
MEBI = 2**20
WHICH = ("soc", "model", "mode", "precision", "image_size", "optimizer")  # of a summary: what was run


def parse(argv: list[str] | None) -> Namespace:
    """The arguments, checked."""
    parser = ArgumentParser(prog="dry_run_ascend.py", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all classifiers")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES), help="default: all four")
    parser.add_argument("--soc", nargs="+", default=[SOCS[0]], metavar="NAME", help=f"default: {SOCS[0]}")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=[PRECISIONS[0]], help="default: fp32")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), help="of train; default: as the family's recipe")
    sizes = f"default {SIZE}, of train {TRAIN_SIZE}; digits {DIGITS_SIZE}"
    parser.add_argument("--image-size", type=positive_int, metavar="N", help=sizes)
    parser.add_argument("--batch", type=positive_int, metavar="N", help=f"default 1, of train {TRAIN_BATCH}")
    parser.add_argument("--numbers", action="store_true", help="compute the kernels, compare with the CPU")
    parser.add_argument("--details", action="store_true", help="every kind of kernel, with one of its calls")
    parser.add_argument("--json", metavar="FILE", help="results, a line each; what FILE has is not run again")
    parser.add_argument("--write", action="store_true", help="put the table into docs/ascend.md")
    args = parser.parse_args(argv)
    if args.image_size and args.image_size < SMALLEST:
        raise UserError(f"--image-size {args.image_size}: give at least {SMALLEST}")
    for soc in args.soc:
        if not soc.startswith("Ascend"):
            raise UserError(f"--soc {soc}: give a name such as {' or '.join(SOCS)}")
    if args.numbers and "train" in args.mode and "fp16" in args.precision:
        raise UserError("--numbers: steps in fp16 are not compared; give --mode infer fused, or --precision fp32")
    if args.json:
        args.json = writable_file(args.json, "--json")
    from models import list_models

    args.models = list(dict.fromkeys(args.models or list_models(task="classification")))
    for name in args.models:
        if name not in list_models():
            raise UserError(f"--models {name}: {closest(name, list_models())}")
    return args


def jobs_of(args: Namespace) -> list[Job]:
    """One for each model, mode and precision."""
    found = []
    for name in args.models:
        for mode in args.mode:
            train = mode == "train"
            usual = DIGITS_SIZE if name.endswith("_digits") else TRAIN_SIZE if train else SIZE
            size, batch = args.image_size or usual, args.batch or (TRAIN_BATCH if train else 1)
            optimizer = args.optimizer or ("adamw" if any(part in name for part in ADAMW) else "sgd")
            found += [
                Job(name, mode, precision, size, batch, optimizer if train else "") for precision in args.precision
            ]
    return found


def summary(soc: str, result: Result) -> dict:
    """What is kept of a result: counts, and what went wrong."""
    found = result.recording
    return {
        "soc": soc,
        **{key: value for key, value in asdict(result.job).items() if key != "numbers"},
        "kernels": len(result.graph.nodes if result.graph else found.launches),
        "aclnn": sum(found.names("aclnn").values()),
        "aclop": sum(found.names("aclop").values()),
        "casts": sum(launch.is_cast for launch in found.launches),
        "transposes": sum(launch.is_transpose for launch in found.launches),
        "wide": sum(bool(launch.wide) for launch in found.launches),
        "in_half": len(found.in_half),
        "fall_backs": found.fall_backs,
        "bytes": result.graph.constant_bytes if result.graph else found.bytes,
        "peak": result.peak,
        "waits": result.waits,
        "error": result.error,
    }


def told(kept: dict) -> str:
    """One line of a summary."""
    name = f"{kept['model']} {kept['mode']} {kept['precision']} {kept['soc']}"
    if kept["error"]:
        return f"{name}: did not run: {kept['error']}"
    if kept["mode"] == "air":
        return f"{name}: {kept['kernels']} operators, {kept['bytes'] / 1e6:.1f} MB of constants"
    line = (
        f"{name}: {kept['kernels']} kernels ({kept['aclnn']} aclnn, {kept['aclop']} aclop), {kept['casts']} casts, "
        f"{kept['transposes']} transposes, {kept['bytes'] / 1e6:.1f} MB moved, peak {kept['peak'] / MEBI:.0f} MiB"
    )
    if kept["in_half"]:
        line += f", {kept['in_half']} of float32 in float16"
    if kept["mode"] == "train":
        line += f", {kept['waits']} waits for the device in a step"
    if kept["wide"]:
        line += f", {kept['wide']} with 64-bit tensors"
    return line + (f", not on the AI Core: {', '.join(kept['fall_backs'])}" if kept["fall_backs"] else "")


def details(result: Result) -> str:
    """Every kind of kernel: how often, and one of its launches."""
    first = {}
    for launch in result.recording.launches:
        first.setdefault((launch.kind, launch.name), launch)
    counts = {kind: result.recording.names(kind) for kind in ("aclnn", "aclop")}
    ordered = sorted(first.items(), key=lambda item: -counts[item[0][0]][item[0][1]])
    return "\n".join(f"    {counts[kind][name]:5} {kind} {launch}" for (kind, name), launch in ordered)


def table(kept: list[dict]) -> str:
    """Markdown: a row for each model and mode, a column for each kind of Ascend and precision: kernels, bytes moved and
    planned peak; of an AIR file operators and bytes of constants.
    """
    columns = list(dict.fromkeys((one["soc"], one["precision"]) for one in kept))
    rows: dict[tuple, dict] = {}
    for one in kept:
        rows.setdefault((one["model"], one["mode"], one["image_size"]), {})[one["soc"], one["precision"]] = one
    lines = ["| model | graph | " + " | ".join(" ".join(column) for column in columns) + " | fall-backs |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for (model, mode, size), cells in sorted(rows.items(), key=lambda row: (row[0][0], MODES.index(row[0][1]))):
        shown = []
        for column in columns:
            one = cells.get(column)
            if one is None:
                shown.append("")
            elif one["error"]:
                shown.append("refused")
            elif mode == "air":
                shown.append(f"{one['kernels']}, {one['bytes'] / 1e6:.0f} MB")
            else:
                shown.append(f"{one['kernels']}, {one['bytes'] / 1e6:.0f} MB, {one['peak'] / MEBI:.0f} MiB")
        back = sorted({name for one in cells.values() for name in one["fall_backs"]})
        lines.append(f"| {model} | {mode} {size} | {' | '.join(shown)} | {', '.join(back) or 0} |")
    return "\n".join(lines)


def run_numbers(args: Namespace, soc: str, jobs: list[Job]) -> list[str]:
    """Compute every kernel, and compare with the same on the CPU; returns what is wrong."""
    import numpy as np

    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        asked = [
            replace(job, numbers=str(Path(folder) / f"{number}.npz"), batch=args.batch or 2 + 6 * (job.mode == "train"))
            for number, job in enumerate(jobs)
        ]
        same = [replace(job, numbers=job.numbers.replace(".npz", ".cpu.npz")) for job in asked]
        expected = list(dry_run.run(same, None, WORKER))
        for result, on_cpu in zip(dry_run.run(asked, soc, WORKER), expected):
            name = told(summary(soc, result))
            failed = result.error or ", ".join(result.unknown) or (on_cpu.error and f"on the CPU: {on_cpu.error}")
            if failed:
                print(name, flush=True)
                wrong.append(f"{result.job.model} {result.job.mode}: {failed}")
                continue
            with np.load(result.job.numbers) as found, np.load(on_cpu.job.numbers) as wanted:
                difference, where = dry_run.difference(dict(found), dict(wanted))
            allowed = NUMBERS["train" if result.job.mode == "train" else "infer"][result.job.precision]
            print(f"{name}; {difference:.2g} from the CPU ({where})", flush=True)
            if not difference <= allowed:
                wrong.append(
                    f"{result.job.model} {result.job.mode}: {where} differs from the CPU's by {difference:.2g}, "
                    f"more than {allowed:g} of its largest"
                )
    return wrong


def run_all(args: Namespace) -> list[dict]:
    """Summaries of all jobs; those that the file of ``--json`` has are taken from there."""
    kept: list[dict] = []
    if args.json and args.json.exists():
        kept = [json.loads(line) for line in args.json.read_text(encoding="utf-8").splitlines()]
    have = [{key: one[key] for key in WHICH} for one in kept]
    for soc in args.soc:
        jobs = jobs_of(args)
        left = [job for job in jobs if {"soc": soc, **{key: getattr(job, key) for key in WHICH[1:]}} not in have]
        begun = time.monotonic()
        for number, result in enumerate(dry_run.run(left, soc, WORKER), start=1):
            one = summary(soc, result)
            kept.append(one)
            remaining = (time.monotonic() - begun) / number * (len(left) - number)
            print(f"[{number}/{len(left)}, {remaining / 60:.0f} min left] {told(one)}", flush=True)
            if args.details:
                print(details(result), flush=True)
            if args.json:
                with open(args.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps(one) + "\n")
    return kept


def main(argv: list[str] | None = None) -> int:
    """Run, tell, write; 3 when something is not as it should be."""
    args = parse(argv)
    if args.numbers:
        wrong = [line for soc in args.soc for line in run_numbers(args, soc, jobs_of(args))]
    else:
        kept = run_all(args)
        wrong = [told(one) for one in kept if one["error"] or one["fall_backs"]]
        if args.write:
            import mindspore as ms

            command = " ".join(["python scripts/dry_run_ascend.py", *(argv or sys.argv[1:])])
            heading = f"`{command}`, MindSpore {ms.__version__}, {datetime.date.today()}:"
            text = f"{heading}\n\n{table(kept)}"
            text = replace_between(DOCUMENT.read_text(encoding="utf-8"), START, END, text, "docs/ascend.md: the table")
            write_text(DOCUMENT, text)
            print(DOCUMENT.relative_to(ROOT))
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 3 if wrong else 0


if __name__ == "__main__":
    run_cli(main)
