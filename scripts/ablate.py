"""Train the rows of the paper's Tables 6 and 7 and write mean and spread beside the paper's column.

``python scripts/ablate.py --table all --seeds 3 [--config FILE] [key=value ...]``: the default is a small Swin-ACmix on
handwritten digits; at full scale give a configuration such as acmix_swin_tiny_imagenet.yaml. Started again, it goes on
where it stopped. Results are in run_dir: ablations.md, .csv, .png, and each run in <row>/seed<N>.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the entry scripts are modules of the repository's root

from acmix_ms import config  # noqa: E402
from acmix_ms.analysis import ablation  # noqa: E402
from acmix_ms.arguments import ArgumentParser, positive_int  # noqa: E402
from acmix_ms.engine import run_dir  # noqa: E402
from acmix_ms.errors import UserError, run_cli  # noqa: E402
from acmix_ms.files import read_json, writable_folder, write_text  # noqa: E402

CONFIG = ROOT / "configs" / "classification" / "acmix_swin_digits.yaml"
RESULT = "result.json"


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, one run after the other, and rewrite the tables after each seed."""
    parser = ArgumentParser(prog="ablate.py", description=__doc__)
    parser.add_argument("--table", choices=("6", "7", "all"), default="all", help="which rows")
    parser.add_argument("--seeds", type=positive_int, default=3, metavar="N", help="runs of each row")
    parser.add_argument("--config", default=str(CONFIG), metavar="FILE", help="of an ACmix model")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a key, such as optim.epochs=2")
    args = parser.parse_intermixed_args(argv)
    base = config.load(args.config, [f"run_dir=runs/ablate_{Path(args.config).stem}", *args.overrides])
    tables = ("6", "7") if args.table == "all" else (args.table,)
    rows = ablation.rows_of(tables)
    # Seeds first, rows second: a table that is cut short still compares like with like.
    plan = [(row, run_config(base, row, base.seed + i)) for i in range(args.seeds) for row in rows]
    writable_folder(base.run_dir, "run_dir")
    for _, cfg in plan:
        check_same(cfg)
    check_models({cfg.model.name for _, cfg in plan})

    results: dict[str, list[dict]] = {}
    for number, (row, cfg) in enumerate(plan, start=1):
        print(f"\n[{number}/{len(plan)}] {row.label}, seed {cfg.seed}: {cfg.run_dir}", flush=True)
        result = finished(cfg) or train_apart(cfg)
        print(f"top-1 after the last epoch {result['top1']:.2f} %", flush=True)
        results.setdefault(row.key, []).append(result)
        if number % len(rows) == 0:
            write(base, tables, results)
    print((Path(base.run_dir) / "ablations.md").read_text(encoding="utf-8"))


def run_config(base: config.Config, row: ablation.Row, seed: int) -> config.Config:
    """The configuration of one run."""
    name, kwargs = ablation.model_of(row, base.model.name)
    model = dataclasses.replace(base.model, name=name, kwargs={**base.model.kwargs, **kwargs})
    folder = Path(base.run_dir) / row.key / f"seed{seed}"
    return dataclasses.replace(base, model=model, seed=seed, run_dir=str(folder))


def check_same(cfg: config.Config) -> None:
    """Raise UserError if the folder holds a run of another configuration; it would be mixed into the table."""
    path = Path(cfg.run_dir) / run_dir.CONFIG
    if not path.exists():
        return
    changes = config.differences(config.to_yaml(config.load(path)), cfg)
    if changes:
        raise UserError(
            f"{cfg.run_dir} was trained with another configuration ({'; '.join(changes)}): give another run_dir"
        )


def check_models(names: set[str]) -> None:
    """Raise UserError for a model that does not exist, before hours of training lead to it."""
    from models import list_models  # loads MindSpore: after what is wrong without it

    for name in sorted(names - set(list_models(task="classification"))):
        raise UserError(f"there is no model {name}; for this family only --table 7 can be run")


def finished(cfg: config.Config) -> dict | None:
    """The result of a run that is done, else None."""
    path = Path(cfg.run_dir) / RESULT
    if not path.exists():
        return None
    print("done already", flush=True)
    try:
        result = read_json(path)
        return {"top1": float(result["top1"]), "params": int(result["params"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a result of this script: remove it, and the run is finished anew") from error


def train_apart(cfg: config.Config) -> dict:
    """Train in a process of its own, so that no run inherits generators or compiled graphs from the one before."""
    resume = bool(run_dir.held(cfg.run_dir))
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, resume=resume))
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            trained = pool.submit(train, cfg).result()
        except BrokenProcessPool as error:
            raise UserError(f"{cfg.run_dir}: the training process died; start again to continue") from error
    with (Path(cfg.run_dir) / run_dir.LOG).open(newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    result = {
        "top1": float(last["val_top1"]),  # the best epoch would be chosen on the images it is measured on
        "best_top1": trained["best"].value,
        "params": trained["params"],
        "seconds": round(time.perf_counter() - start, 1),
    }
    # Whole or not at all: a half-written result would count as a finished run.
    write_text(Path(cfg.run_dir) / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def train(cfg: config.Config) -> dict:
    """`train.train`, importable by the new process."""
    import train as train_script

    return train_script.train(cfg)


def write(base: config.Config, tables: tuple[str, ...], results: dict[str, list[dict]]) -> None:
    """Markdown, CSV and a picture of what is there so far."""
    from acmix_ms.analysis import figures

    folder = Path(base.run_dir)
    records = ablation.summarise(tables, results)
    write_text(folder / "ablations.md", ablation.markdown(records, base.data.name))
    ablation.write_csv(records, folder / "ablations.csv")
    figures.plot_ablations(records, folder / "ablations.png", titles=ablation.TITLES)


if __name__ == "__main__":
    run_cli(main)
