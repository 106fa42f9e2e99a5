"""Draw where one pixel of a validation image looks, layer by layer.

``python scripts/attention.py --config FILE --checkpoint runs/.../best.ckpt --pixel Y X --output X.png``
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms import config, runtime  # noqa: E402
from acmix_ms.arguments import ArgumentParser  # noqa: E402
from acmix_ms.errors import UserError, run_cli  # noqa: E402
from acmix_ms.files import require_checkpoint, writable_folder  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Load the weights, look at one image, draw."""
    parser = ArgumentParser(prog="attention.py", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help=".ckpt or .safetensors")
    parser.add_argument("--layer", action="append", metavar="NAME", help="one of the operators; may be repeated; all")
    parser.add_argument("--pixel", nargs=2, type=int, required=True, metavar=("Y", "X"), help="the query")
    parser.add_argument("--index", type=int, default=0, metavar="N", help="which image of the validation split")
    parser.add_argument("--output", required=True, metavar="PNG", help="the picture to write")
    args = parser.parse_intermixed_args(argv)
    cfg = config.load(args.config, args.overrides)
    require_checkpoint(args.checkpoint)
    writable_folder(Path(args.output).parent, "--output")
    runtime.start_for(cfg, "pynative")

    from acmix_ms.analysis import attention, figures
    from acmix_ms.data import create_loader  # MindSpore takes seconds to import: after what may be wrong before it
    from acmix_ms.engine import checkpoint
    from models import build

    loader = create_loader(cfg.data, "val", seed=cfg.seed)
    image = image_at(loader, args.index)
    classes = loader.require_classes(cfg.model.num_classes)
    net = build.create(cfg, classes).set_train(False)
    checkpoint.load_weights(net, args.checkpoint)
    names = args.layer or list(attention.attention_layers(net))
    if not names:
        raise UserError(f"model {cfg.model.name} has no attention to draw")
    maps = {name: attention.attention_of(net, image, name, tuple(args.pixel)) for name in names}
    figures.plot_attention(image, tuple(args.pixel), maps, args.output)
    print(f"written: {args.output}")


def image_at(loader, index: int):
    """The (3, H, W) image at ``index`` of the validation split."""
    if not 0 <= index < loader.num_samples:
        raise UserError(f"--index {index}: the split has images 0 to {loader.num_samples - 1}")
    for images, *_ in loader.epoch(0):
        if index < len(images):
            return images[index]
        index -= len(images)
    raise UserError("the validation split ended early: is the data complete?")


if __name__ == "__main__":
    run_cli(main)
