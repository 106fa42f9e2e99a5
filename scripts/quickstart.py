"""See ACmix work, from training to a verified file: about three minutes on two CPU cores. ``make quickstart``."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the entry scripts are modules of the repository's root

import eval as eval_script  # noqa: E402
import train as train_script  # noqa: E402
from acmix_ms import config  # noqa: E402
from acmix_ms.arguments import ArgumentParser  # noqa: E402
from acmix_ms.engine import run_dir  # noqa: E402
from acmix_ms.errors import run_cli  # noqa: E402
from acmix_ms.files import write_text  # noqa: E402

CONFIG = ROOT / "configs" / "classification" / "acmix_resnet_digits.yaml"
RUN = Path("runs") / "quickstart"
RATES = "rates.png"
TARGET = 97.0  # percent top-1 of the held-out digits


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate, export and draw; 1 if the accuracy is not reached, 3 if the exported file differs."""
    cfg = prepared(argv, "quickstart.py", __doc__, CONFIG, RUN)
    folder = Path(cfg.run_dir)

    heading(1, f"train {cfg.model.name} on 1,442 handwritten digits")
    start = time.perf_counter()
    trained = train_script.train(cfg)
    train_seconds = time.perf_counter() - start

    heading(2, "evaluate the saved checkpoint on the 355 held-out digits")
    best = folder / run_dir.BEST
    scores, _ = eval_script.evaluate(cfg, str(best))
    print(f"top-1 {scores['top1']:.2f} %  top-5 {scores['top5']:.2f} %  {scores['count']} images")

    heading(3, "export to MINDIR, reload, compare")
    from acmix_ms import deploy
    from acmix_ms.analysis import figures
    from acmix_ms.data import create_loader
    from acmix_ms.engine import checkpoint
    from models import build

    net = build.net_of(cfg, checkpoint.read(best), str(best)).cell
    images = next(create_loader(cfg.data, "val").epoch(0)).images
    try:
        target = folder / f"{cfg.model.name}.mindir"
        exported = deploy.export(net, "mindir", target, image_size=cfg.data.image_size, batch=None)
        difference = deploy.verify(exported, net, [images])
    except deploy.VerificationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(f"on {len(images)} held-out digits: largest difference {difference}")

    heading(4, "what each layer learned to rely on: |alpha| attention, |beta| convolution")
    rates = figures.collect_rates(net)
    for layer, alpha, beta in rates:
        print(f"{layer:<28} |alpha| {abs(alpha):.3f}   |beta| {abs(beta):.3f}")
    if rates:  # a plain model has none
        figures.plot_rates({cfg.model.name: [(alpha, beta) for _, alpha, beta in rates]}, folder / RATES)

    summary = {
        "top1": round(scores["top1"], 2),
        "top5": round(scores["top5"], 2),
        "params": trained["params"],
        "train_seconds": round(train_seconds, 1),
        "export_max_difference": difference.absolute,
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    heading(5, "summary")
    print(f"top-1            {summary['top1']} % of {scores['count']} held-out digits (target {TARGET:g} %)")
    print(f"parameters       {summary['params']:,}")
    print(f"training         {summary['train_seconds']} s, {trained['img_per_s']:.0f} images per second")
    print(f"weights          {best}, and all that resuming needs in {folder / run_dir.LAST}")
    print(f"exported file    {exported}, largest difference {summary['export_max_difference']:g}")
    print(f"curves           {folder / run_dir.CURVES}")
    print(f"report           {folder / run_dir.REPORT}")
    if rates:
        print(f"alpha and beta   {folder / RATES}")
    print(f"these numbers    {folder / 'summary.json'}")
    print("the plain twin   python train.py --config configs/classification/resnet_digits.yaml")
    if summary["top1"] < TARGET:
        print(f"error: top-1 {summary['top1']} % is below {TARGET:g} %", file=sys.stderr)
        return 1
    return 0


def prepared(argv: list[str] | None, name: str, about: str, file: Path, run: Path) -> config.Config:
    """The configuration in ``file`` with what the command line changes, and room for its run."""
    parser = ArgumentParser(prog=name, description=about)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a key, such as optim.epochs=2")
    cfg = config.load(file, [f"run_dir={run}", *parser.parse_args(argv).overrides])
    if Path(cfg.run_dir) == run:  # another folder is the user's: training refuses to overwrite a run in it
        set_aside(run)
    return cfg


def set_aside(folder: Path) -> None:
    """Keep the run before this one as ``<folder>.previous``; the one before that goes."""
    if folder.exists():
        previous = folder.with_name(f"{folder.name}.previous")
        if previous.exists():
            shutil.rmtree(previous)
        folder.rename(previous)
        print(f"the earlier run is now in {previous}")


def heading(number: int, text: str) -> None:
    """Announce a step."""
    print(f"\n[{number}/5] {text}", flush=True)


if __name__ == "__main__":
    run_cli(main)
