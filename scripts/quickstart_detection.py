"""See a detector with an ACmix backbone work, from training to a verified file: ``make quickstart-detection``.

A RetinaNet learns to find coloured shapes, on two CPU cores in a few minutes.
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

CONFIG = ROOT / "configs" / "detection" / "retinanet_acmix_shapes.yaml"
RUN = Path("runs") / "quickstart-detection"
PICTURE, SHOWN = "detections.png", 4
TARGET = 0.8  # box AP50 of the validation pictures


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate, export and draw; 1 if AP50 is not reached, 3 if an exported file finds something else."""
    cfg = prepared(argv, "quickstart_detection.py", __doc__, CONFIG, RUN)
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

    heading(3, "export the whole detector, run the files, compare box by box")
    files = {format: folder / f"{cfg.model.name}.{format}" for format in ("mindir", "onnx")}
    for format, target in files.items():
        failed = export_script.main(["--checkpoint", str(best), "--format", format, "--output", str(target)])
        if failed:
            return failed

    heading(4, "draw what it finds")
    draw(cfg, evaluator, folder / PICTURE)
    print(folder / PICTURE)

    summary = {
        **{name: round(scores[name], 3) for name in ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75")},
        "params": trained["params"],
        "train_seconds": round(train_seconds, 1),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    heading(5, "summary")
    print(f"box AP50         {summary['bbox_mAP_50']} of {scores['count']} pictures (target {TARGET:g})")
    print(f"box mAP          {summary['bbox_mAP']}")
    print(f"parameters       {summary['params']:,}")
    print(f"training         {summary['train_seconds']} s, {trained['img_per_s']:.0f} images per second")
    print(f"weights          {best}")
    print(f"exported files   {', '.join(map(str, files.values()))}")
    print(f"curves           {folder / run_dir.CURVES}")
    print(f"report           {folder / run_dir.REPORT}")
    print(f"these numbers    {folder / 'summary.json'}")
    print("the plain twin   python train.py --config configs/detection/retinanet_shapes.yaml")
    if scores["bbox_mAP_50"] < TARGET:
        print(f"error: box AP50 {scores['bbox_mAP_50']:.3f} is below {TARGET:g}", file=sys.stderr)
        return 1
    return 0


def draw(cfg: config.Config, evaluator, path: Path) -> None:
    """What is in the first validation pictures, and beside it what was found."""
    import numpy as np

    from acmix_ms.analysis.detections import Example, plot_examples
    from acmix_ms.data import create_loader
    from acmix_ms.data.images import read_image
    from acmix_ms.objects import Objects
    from acmix_ms.postprocess import Detections

    loader, examples = create_loader(cfg.data, "val"), []
    labels = {category: label for label, category in enumerate(loader.category_ids)}
    truth = loader.ground_truth()
    for sample in range(SHOWN):
        known = truth.imgToAnns[int(loader.image_ids[sample])]
        boxes = np.asarray([each["bbox"] for each in known], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # COCO has sides
        objects = Objects(
            boxes, np.asarray([labels[each["category_id"]] for each in known], np.int32), np.zeros((0, 4), np.float32)
        )
        found = evaluator.found[sample]
        detections = Detections(found.boxes, found.scores, found.labels)
        examples.append(Example(read_image(loader.name(sample)), objects, detections))
    plot_examples(examples, loader.class_names, path)


if __name__ == "__main__":
    run_cli(main)
