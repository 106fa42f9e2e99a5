"""Parameters and multiply-adds: the paper's cost tables from our own Cells, or one model's breakdown by stage.

``python scripts/complexity.py --tables`` prints all tables, ``--write`` puts them into docs/ and README, and
``--model acmix_swin_tiny --image-size 224 shift=tensor`` counts one model, with its keyword arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms import runtime
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.errors import UserError, run_cli
from acmix_ms.files import write_text
from scripts.documents import replace_between

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = 32  # every model halves its images five times
MARKERS = ("<!-- models: written by scripts/complexity.py --write -->", "<!-- end of models -->")


def read_options(pairs: list[str]) -> dict:
    """``["shift=tensor", "window_size=8"]`` -> keyword arguments, values read as YAML."""
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"{pair!r}: give options of the model as key=value")
        try:
            options[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{pair!r}: the value is no YAML: {error}") from error
    return options


def count(name: str, image_size: int | tuple[int, int] = 224, strided: bool = False, **options):
    """`Complexity` of a model for one image, a square or (height, width).

    With ``strided`` see `acmix_ms.analysis.complexity.complexity`.
    """
    from mindspore.nn.utils import no_init_parameters

    from acmix_ms.analysis.complexity import complexity
    from models import create_model

    try:
        with no_init_parameters():
            net = create_model(name, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # MindSpore's own, of a value of the wrong kind
        raise UserError(f"model {name!r} cannot be built with {options}: {error}") from error
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    shape = (1, options.get("in_channels", 3), *sides)
    return complexity(net, shape, parts=regions(net), strided_projections=strided)


PROPOSALS, MASKS = 1000, 100  # of an image, as mmdetection's get_flops.py takes them


def regions(net) -> list[tuple]:
    """The heads of a net with two stages, which no image passes, and the shapes of their inputs."""
    from mindspore import nn

    from models.detection.two_stage import BOX_SIZE, MASK_SIZE, TwoStage

    if not isinstance(net, TwoStage):
        return []
    found, channels = [], net.neck.fpn_convs[0].conv.out_channels
    for heads, count, side in (
        (net.roi_head.bbox_head, PROPOSALS, BOX_SIZE),
        (net.roi_head.mask_head, MASKS, MASK_SIZE),
    ):
        stages = heads if isinstance(heads, nn.CellList) else [heads]
        found += [(head, (count, channels, side, side)) for head in stages]
    return found


def count_all() -> dict:
    """Counts of everything that the tables and README show. Takes some minutes."""
    from mindspore import nn

    from acmix_ms.analysis import tables
    from acmix_ms.analysis.complexity import complexity
    from acmix_ms.ops import ACmix

    channels, shape = tables.CHANNELS, (1, tables.CHANNELS, tables.SIDE, tables.SIDE)
    kernels = {"attn_kernel_size": tables.ATTENTION_KERNEL, "conv_kernel_size": tables.CONV_KERNEL}
    cells = {
        "conv": nn.Conv2d(channels, channels, tables.CONV_KERNEL),
        "attention": ACmix(channels, channels, num_heads=tables.HEADS, mix="attention", **kernels),
        "acmix": ACmix(channels, channels, num_heads=tables.HEADS, **kernels),
    }
    counts = {key: complexity(cells[key], shape) for key in tables.CELLS}
    for key, row in tables.needed().items():
        counts[key] = count(row.model, row.image_size, row.strided, **dict(row.options))
    return {**counts, **{name: count(name) for name in other_models()}}


def other_models() -> list[str]:
    """Models that no table of the paper has, without the small ones for digits."""
    from acmix_ms.analysis import tables
    from models import list_models

    names = list_models(task="classification")
    names = [name for name in names if name not in tables.needed() and not name.endswith("_digits")]
    return sorted(names, key=lambda name: (name.removeprefix("acmix_"), name.startswith("acmix_")))  # twins together


def document(counts: dict) -> str:
    """The text of docs/tables.md."""
    from acmix_ms.analysis import tables

    return "\n".join([tables.INTRODUCTION, *(table.markdown() for table in tables.all_tables(counts))])


def with_models(readme: str, counts: dict) -> str:
    """README with its table of models made anew between the markers."""
    from acmix_ms.analysis import tables

    text = tables.readme(counts, other_models())
    return replace_between(readme, *MARKERS, text, "README.md: the table of models")


def write(counts: dict) -> None:
    """docs/tables.md, docs/tables/*.csv, docs/figure4.png and the table of models in README.md."""
    from acmix_ms.analysis import tables
    from acmix_ms.analysis.tradeoff import plot_tradeoff

    readme = with_models((ROOT / "README.md").read_text(encoding="utf-8"), counts)
    folder = ROOT / "docs" / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{table.name}.csv": table.csv() for table in tables.all_tables(counts)}
    files.update({ROOT / "docs" / "tables.md": document(counts), ROOT / "README.md": readme})
    for path, text in files.items():
        write_text(path, text)
        print(path.relative_to(ROOT))
    plot_tradeoff(counts, ROOT / "docs" / "figure4.png")
    print("docs/figure4.png")


def main(argv: list[str] | None = None) -> None:
    """Print tables, write them, or print one model."""
    parser = ArgumentParser(prog="complexity.py", description="Count parameters and multiply-adds.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tables", action="store_true", help="print the paper's cost tables, regenerated")
    what.add_argument("--write", action="store_true", help="write them to docs/ and README.md, with Figure 4")
    what.add_argument("--model", metavar="NAME", help="print one model by stage, such as acmix_resnet50")
    parser.add_argument("--image-size", type=positive_int, default=224, metavar="N", help="with --model; default 224")
    parser.add_argument("options", nargs="*", metavar="key=value", help="of the model, such as shift=tensor")
    args = parser.parse_args(argv)

    options = read_options(args.options)
    if options and not args.model:
        raise UserError(f"{args.options[0]!r}: options belong to a --model")
    if args.image_size < SMALLEST:
        raise UserError(f"--image-size {args.image_size}: give at least {SMALLEST}")
    runtime.start("CPU", mode="pynative")
    if args.model:
        from acmix_ms.analysis.tables import breakdown

        found = count(args.model, args.image_size, **options)
        print(f"{args.model}, one image of {args.image_size}x{args.image_size}\n\n{breakdown(found)}", end="")
    elif args.write:
        write(count_all())
    else:
        print(document(count_all()), end="")


if __name__ == "__main__":
    run_cli(main)
