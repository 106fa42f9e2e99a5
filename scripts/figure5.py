"""Draw the paper's Figure 5 from checkpoints: |alpha|, |beta| and log|alpha / beta| over the layers of several runs.

``python scripts/figure5.py RUN [RUN ...] --output figure5.png``: each RUN is the folder of a run (its best.ckpt is
read) or a checkpoint. Runs of one model share a row of plots.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms import runtime  # noqa: E402
from acmix_ms.arguments import ArgumentParser  # noqa: E402
from acmix_ms.engine import run_dir  # noqa: E402
from acmix_ms.errors import UserError, run_cli  # noqa: E402
from acmix_ms.files import require_checkpoint, writable_folder  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Read the rates of every run, draw them, print them."""
    parser = ArgumentParser(prog="figure5.py", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or a checkpoint")
    parser.add_argument("--output", required=True, metavar="PNG", help="the picture to write")
    args = parser.parse_args(argv)
    files = [
        require_checkpoint(path / run_dir.BEST if path.is_dir() else path) for path in map(Path, args.runs)
    ]
    output = Path(args.output)
    writable_folder(output.parent, "--output")
    runtime.start("CPU", "pynative", 0)

    from acmix_ms.analysis import figures  # MindSpore takes seconds to import: after what may be wrong before it

    families: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for file in files:
        model, seed, rates = read(file)
        runs = families.setdefault(model, {})
        name = f"seed {seed}" if f"seed {seed}" not in runs else str(file)
        runs[name] = [(alpha, beta) for _, alpha, beta in rates]
        print(f"{model}, {name} ({file})")
        for layer, alpha, beta in rates:
            print(f"  {layer:<24} |alpha| {abs(alpha):.3f}  |beta| {abs(beta):.3f}")
    figures.plot_rates(families, output)
    print(f"written: {output}")


def read(file: Path) -> tuple[str, int, list[tuple[str, float, float]]]:
    """Model, seed and (layer, alpha, beta) of a checkpoint that training wrote; it says itself what it is of."""
    from acmix_ms.analysis import figures
    from acmix_ms.engine import checkpoint
    from models import build

    saved = checkpoint.read(file)
    if "config" not in saved.meta:
        raise UserError(f"{file} does not say how it was trained: give a checkpoint that train.py wrote")
    cfg = build.config_of(saved, file)
    rates = figures.collect_rates(build.net_of(cfg, saved, file).cell)
    if not rates:
        raise UserError(f"{file}: {cfg.model.name} has no learned rates, give runs of an ACmix model")
    return cfg.model.name, cfg.seed, rates


if __name__ == "__main__":
    run_cli(main)
