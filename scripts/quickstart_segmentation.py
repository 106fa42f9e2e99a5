"""See a segmentor with an ACmix backbone work, from training to a verified file: ``make quickstart-segmentation``.

A Semantic FPN learns the classes of the pixels of coloured shapes, on two CPU cores in a few minutes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the entry scripts are modules of the repository's root

import eval as eval_script  # noqa: E402
import export as export_script  # noqa: E402
import train as train_script  # noqa: E402
from acmix_ms import config  # noqa: E402
from acmix_ms.engine import run_dir  # noqa: E402
from acmix_ms.errors import run_cli  # noqa: E402
from acmix_ms.files import write_text  # noqa: E402
from scripts.quickstart import heading, prepared  # noqa: E402

CONFIG = ROOT / "configs" / "segmentation" / "semantic_fpn_acmix_shapes.yaml"
RUN = Path("runs") / "quickstart-segmentation"
PICTURE, SHOWN = "segments.png", 4
TARGET = 88.0  # mIoU of the validation pictures, in percent


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate, export and draw; 1 if mIoU is not reached, 3 if an exported file computes something else."""
    cfg = prepared(argv, "quickstart_segmentation.py", __doc__, CONFIG, RUN)
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

    heading(3, "export it, run the files, compare pixel by pixel")
    files = {format: folder / f"{cfg.model.name}.{format}" for format in ("mindir", "onnx")}
    for format, target in files.items():
        failed = export_script.main(["--checkpoint", str(best), "--format", format, "--output", str(target)])
        if failed:
            return failed

    heading(4, "draw what the file sees")
    draw(cfg, files["mindir"], folder / PICTURE)
    print(folder / PICTURE)

    summary = {
        **{name: round(scores[name], 2) for name in ("mIoU", "mAcc", "aAcc")},
        "params": trained["params"],
        "train_seconds": round(train_seconds, 1),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    heading(5, "summary")
    print(f"mIoU             {summary['mIoU']} % of {scores['count']} pictures (target {TARGET:g})")
    print(f"pixels           {summary['aAcc']} % are right")
    print(f"parameters       {summary['params']:,}")
    print(f"training         {summary['train_seconds']} s, {trained['img_per_s']:.0f} images per second")
    print(f"weights          {best}")
    print(f"exported files   {', '.join(map(str, files.values()))}")
    print(f"curves           {folder / run_dir.CURVES}")
    print(f"report           {folder / run_dir.REPORT}")
    print(f"these numbers    {folder / 'summary.json'}")
    print("the plain twin   python train.py --config configs/segmentation/semantic_fpn_shapes.yaml")
    if scores["mIoU"] < TARGET:
        print(f"error: mIoU {scores['mIoU']:.2f} is below {TARGET:g}", file=sys.stderr)
        return 1
    return 0


def draw(cfg: config.Config, file: Path, path: Path) -> None:
    """The classes in the first validation pictures, and beside them what an exported file gives."""
    from acmix_ms.analysis.segments import Example, plot_examples
    from acmix_ms.data import create_loader
    from acmix_ms.deploy import description, open_file
    from models import exports

    loader, about = create_loader(cfg.data, "val", segments=True), description.read(file)
    read, find, examples = exports.whole_reader_of(about), exports.segmenter_of(open_file(file), about), []
    for sample in range(min(SHOWN, loader.num_samples)):
        pixels, labels = loader.decoded(sample)
        (found,) = find(read.placed(pixels)[0][None], [labels.shape])
        examples.append(Example(pixels, labels, found))
    plot_examples(examples, loader.class_names, path)


if __name__ == "__main__":
    run_cli(main)
