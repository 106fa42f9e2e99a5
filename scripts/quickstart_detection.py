"""See a detector with an ACmix backbone work, from training to a verified file: ``make quickstart-detection``.

A RetinaNet learns to find coloured shapes, on two CPU cores in a few minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms.config import Config  # noqa: E402
from acmix_ms.errors import run_cli  # noqa: E402
from scripts.quickstart_shapes import SHOWN, Quickstart, run  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """See `quickstart_shapes.run`."""
    return run(argv, QUICKSTART)


def draw(cfg: Config, evaluator, file: Path, path: Path) -> None:
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


QUICKSTART = Quickstart(
    script="quickstart_detection.py",
    about=__doc__,
    folder="detection",
    config="retinanet_acmix_shapes",
    twin="retinanet_shapes",
    run="quickstart-detection",
    compared="box by box",
    scores={"bbox_mAP_50": "box AP50", "bbox_mAP": "box mAP", "bbox_mAP_75": "box AP75"},
    target=0.8,
    digits=3,
    draw=draw,
    picture="detections.png",
)

if __name__ == "__main__":
    run_cli(main)
