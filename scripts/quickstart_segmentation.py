"""See a segmentor with an ACmix backbone work, from training to a verified file: ``make quickstart-segmentation``.

A Semantic FPN learns the classes of the pixels of coloured shapes, on two CPU cores in a few minutes.
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


QUICKSTART = Quickstart(
    script="quickstart_segmentation.py",
    about=__doc__,
    folder="segmentation",
    config="semantic_fpn_acmix_shapes",
    twin="semantic_fpn_shapes",
    run="quickstart-segmentation",
    compared="pixel by pixel",
    scores={"mIoU": "mIoU (%)", "mAcc": "mAcc (%)", "aAcc": "pixels right (%)"},
    target=88.0,
    digits=2,
    draw=draw,
    picture="segments.png",
)

if __name__ == "__main__":
    run_cli(main)
