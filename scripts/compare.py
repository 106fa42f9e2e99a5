"""Train several configurations with several seeds and write mean and spread: a network beside its plain twin.

``python scripts/compare.py CONFIG [CONFIG ...] --seeds 3 [key=value ...]``: started again, it goes on where it stopped.
The table is in run_dir (runs/compare) as comparison.md, each run in <configuration>/seed<N>.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms import config  # noqa: E402
from acmix_ms.arguments import ArgumentParser, positive_int  # noqa: E402
from acmix_ms.errors import UserError, run_cli  # noqa: E402
from acmix_ms.files import writable_folder, write_text  # noqa: E402
from scripts import ablate  # noqa: E402

TABLE = "comparison.md"


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, seed after seed, and rewrite the table after each run."""
    parser = ArgumentParser(prog="compare.py", description=__doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="configuration files, then key=value for all")
    parser.add_argument("--seeds", type=positive_int, default=3, metavar="N", help="runs of each")
    args = parser.parse_intermixed_args(argv)
    overrides = [text for text in args.configs if "=" in text]
    paths = [Path(text) for text in args.configs if "=" not in text]
    if len(paths) != len({path.stem for path in paths}) or not paths:
        raise UserError(f"give configuration files of different names, not {[str(path) for path in paths]}")
    bases = {path.stem: config.load(path, ["run_dir=runs/compare", *overrides]) for path in paths}
    folder = writable_folder(next(iter(bases.values())).run_dir, "run_dir")
    plan = [(name, of_seed(base, name, base.seed + i)) for i in range(args.seeds) for name, base in bases.items()]
    for _, cfg in plan:
        ablate.check_same(cfg)

    results: dict[str, list[dict]] = {}
    for number, (name, cfg) in enumerate(plan, start=1):
        print(f"\n[{number}/{len(plan)}] {name}, seed {cfg.seed}: {cfg.run_dir}", flush=True)
        results.setdefault(name, []).append(ablate.finished(cfg) or ablate.train_apart(cfg))
        write_text(folder / TABLE, table(results))
    print("\n" + (folder / TABLE).read_text(encoding="utf-8"))


def of_seed(base: config.Config, name: str, seed: int) -> config.Config:
    """The configuration of one run."""
    return dataclasses.replace(base, seed=seed, run_dir=str(Path(base.run_dir) / name / f"seed{seed}"))


def table(results: dict[str, list[dict]]) -> str:
    """A row for each configuration: top-1 after the last epoch, sample deviation, and the single runs."""
    lines = ["| configuration | parameters | top-1, mean ± std | seeds |", "|---|---|---|---|"]
    for name, runs in results.items():
        scores = [run["top1"] for run in runs]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        single = ", ".join(f"{score:.2f}" for score in scores)
        lines.append(f"| `{name}` | {runs[0]['params']:,} | {statistics.mean(scores):.2f}{spread} | {single} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_cli(main)
