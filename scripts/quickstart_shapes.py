"""What the quickstarts on coloured shapes share: train, evaluate, export and compare, draw, sum up."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the entry scripts are modules of the repository's root

import eval as eval_script  # noqa: E402
import export as export_script  # noqa: E402
import train as train_script  # noqa: E402
from acmix_ms.config import Config  # noqa: E402
from acmix_ms.engine import run_dir  # noqa: E402
from acmix_ms.engine.metrics import Evaluator  # noqa: E402
from acmix_ms.files import write_text  # noqa: E402
from scripts.quickstart import heading, prepared  # noqa: E402

SHOWN = 4  # pictures


class Quickstart(NamedTuple):
    """What differs.

    Attributes:
        script: its name, and ``about`` it: its docstring.
        folder: of the configurations, ``config`` and ``twin``: names of two.
        run: folder of the results, below ``runs``.
        compared: how files are compared with the net.
        scores: what is told of the scores: keys and names, the first of which is to reach ``target``.
        digits: that scores have.
        draw: writes a picture of the first validation images; takes the evaluator and the exported MINDIR as well.
        picture: its name.
    """

    script: str
    about: str
    folder: str
    config: str
    twin: str
    run: str
    compared: str
    scores: dict[str, str]
    target: float
    digits: int
    draw: Callable[[Config, Evaluator, Path, Path], None]
    picture: str


def run(argv: list[str] | None, what: Quickstart) -> int:
    """1 if the score is not reached, 3 if an exported file computes something else."""
    configs = ROOT / "configs" / what.folder
    cfg = prepared(argv, what.script, what.about, configs / f"{what.config}.yaml", Path("runs") / what.run)
    folder = Path(cfg.run_dir)

    heading(1, f"train {cfg.model.name} on pictures of coloured shapes")
    start = time.perf_counter()
    trained = train_script.train(cfg)
    train_seconds = time.perf_counter() - start

    heading(2, "evaluate the saved checkpoint")
    best = folder / run_dir.BEST
    scores, evaluator = eval_script.evaluate(cfg, str(best))
    print(evaluator.told(scores))
    print(evaluator.details(scores))

    heading(3, f"export it, run the files, compare {what.compared}")
    files = {format: folder / f"{cfg.model.name}.{format}" for format in ("mindir", "onnx")}
    for format, target in files.items():
        failed = export_script.main(["--checkpoint", str(best), "--format", format, "--output", str(target)])
        if failed:
            return failed

    heading(4, "draw what it finds")
    what.draw(cfg, evaluator, files["mindir"], folder / what.picture)
    print(folder / what.picture)

    summary = {
        **{key: round(scores[key], what.digits) for key in what.scores},
        "params": trained["params"],
        "train_seconds": round(train_seconds, 1),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    heading(5, "summary")
    for key, name in what.scores.items():
        print(f"{name:<16} {summary[key]}")
    print(f"pictures         {scores['count']}")
    print(f"parameters       {summary['params']:,}")
    print(f"training         {summary['train_seconds']} s, {trained['img_per_s']:.0f} images per second")
    print(f"weights          {best}")
    print(f"exported files   {', '.join(map(str, files.values()))}")
    print(f"curves           {folder / run_dir.CURVES}")
    print(f"report           {folder / run_dir.REPORT}")
    print(f"these numbers    {folder / 'summary.json'}")
    print(f"the plain twin   python train.py --config {configs.relative_to(ROOT) / what.twin}.yaml")
    key, name = next(iter(what.scores.items()))
    if scores[key] < what.target:
        print(f"error: {name} {scores[key]:.3f} is below {what.target:g}", file=sys.stderr)
        return 1
    return 0
