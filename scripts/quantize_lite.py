"""An ONNX file in int8 for MindSpore Lite, measured beside fp32 and fp16: ``quantize_lite.py FILE.onnx --config ...``.

Ranges are measured on training images (not augmented), accuracy on images of the validation:
``python scripts/quantize_lite.py runs/quickstart/acmix_resnet_digits.onnx --config
configs/classification/acmix_resnet_digits.yaml``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acmix_ms import config
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.deploy import check_output, lite, lite_quantize
from acmix_ms.deploy.description import beside
from acmix_ms.errors import UserError, run_cli
from acmix_ms.files import read_json, sha256, write_text


def write_description(source: Path, output: Path) -> None:
    """The JSON beside ``source`` as that of ``output``, of which nothing was verified; if there is one."""
    given, written = beside(source), beside(output)
    if given.is_file():
        changed = {"format": "ms", "precision": "int8", "verified": None, "sha256": sha256(output)}
        description = {**read_json(given, "description"), **changed}
        write_text(written, json.dumps(description, indent=1) + "\n")
        print(f"{written}: what infer_lite.py needs to know")


def main(argv: list[str] | None = None) -> int:
    """Convert, measure, print a table."""
    parser = ArgumentParser(prog="quantize_lite.py", description=__doc__.partition("\n")[0])
    parser.add_argument("source", metavar="FILE.onnx", help="written by export.py --format onnx")
    parser.add_config()
    parser.add_argument("--output", metavar="FILE.ms", help="default: FILE.int8.ms")
    parser.add_argument(
        "--calibration", type=positive_int, default=100, metavar="N", help="training images, default 100"
    )
    parser.add_argument(
        "--images", type=positive_int, default=1000, metavar="N", help="of the validation, default 1000"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_intermixed_args(argv)
    source = Path(args.source)
    if source.suffix != ".onnx" or not source.is_file():
        raise UserError(f"{source}: give an .onnx file that is there, such as export.py --format onnx writes")
    output = check_output(args.output or source.with_suffix(".int8.ms"), force=args.force)
    cfg = config.load(args.config, args.overrides)
    found = lite.find()
    from acmix_ms.data import create_loader

    plain = dataclasses.replace(cfg.data, augment=config.AugmentConfig(enabled=False))
    calibration, _ = lite_quantize.collect(create_loader(plain, "train").epoch(0), args.calibration)
    images, labels = lite_quantize.collect(create_loader(plain, "val").epoch(0), args.images)
    rows = lite_quantize.measure(found, source, output, calibration=calibration, images=images, labels=labels)
    print(
        f"{source.name}, MindSpore Lite {found.version}, {len(images)} images of the validation, "
        f"{len(calibration)} for calibration, one CPU core\n\n{lite_quantize.table(rows)}\n"
    )
    print(f"int8: {output}")
    write_description(source, output)
    return 0


if __name__ == "__main__":
    run_cli(main)
