"""Export every classifier in every format that can be made here, and write down how far the files lie from the nets.

``python scripts/export_matrix.py --write`` takes some minutes for each model; ``--model NAME ...`` does a few anew and
keeps the others. The table goes to docs/deployment.md, its numbers to docs/deployment.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms.arguments import ArgumentParser  # noqa: E402
from acmix_ms.deploy import FORMATS, description  # noqa: E402
from acmix_ms.errors import UserError, closest, run_cli  # noqa: E402
from acmix_ms.files import read_json, write_text  # noqa: E402
from scripts.documents import replace_between  # noqa: E402

DOCUMENT, NUMBERS = ROOT / "docs" / "deployment.md", ROOT / "docs" / "deployment.json"
BEGIN, END = "<!-- matrix: written by scripts/export_matrix.py --write -->", "<!-- end of matrix -->"


def measure(model: str) -> dict:
    """What ``export.py --model MODEL --format all`` verified: format -> difference, or why there is none."""
    command = [sys.executable, str(ROOT / "export.py"), "--model", model, "--format", "all", "runtime.device=CPU"]
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / model
        done = subprocess.run(
            [*command, "--output", str(stem)], cwd=folder, capture_output=True, text=True, check=False
        )
        found = {}
        for format in FORMATS:
            file = stem.with_name(f"{model}.{format}")
            if file.is_file():
                about = description.read(file)
                found[format] = {**about.verified.worst._asdict(), "megabytes": round(file.stat().st_size / 1e6, 1)}
                found["image_size"] = about.preprocess.crop
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        found["error"] = said[-1].replace(f"{folder}{os.sep}", "")
    return found


def table(results: dict[str, dict]) -> str:
    """Markdown: a line for each model, a column for each format but AIR."""
    formats = [format for format in FORMATS if format != "air"]
    lines = ["| model | image size | " + " | ".join(f"`{format}`" for format in formats) + " |"]
    lines.append("|" + "---|" * (len(formats) + 2))
    for model, found in sorted(results.items()):
        cells = []
        for format in formats:
            one = found.get(format)
            same = one and f"{one['agreeing']}/{one['images']}"
            cells.append(f"{one['relative']:.1e}, {same}, {one['megabytes']:.0f} MB" if one else "none")
        lines.append(f"| `{model}` | {found.get('image_size', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(document: str, results: dict[str, dict]) -> str:
    """The document with the table between its markers made anew."""
    return replace_between(document, BEGIN, END, table(results), "docs/deployment.md: the matrix")


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; 3 if an export failed."""
    parser = ArgumentParser(prog="export_matrix.py", description=__doc__)
    parser.add_argument("--model", nargs="+", metavar="NAME", help="default: every classifier")
    parser.add_argument("--write", action="store_true", help="to docs/; without it the table is printed")
    args = parser.parse_args(argv)
    from models import list_models

    known = list_models(task="classification")
    for name in args.model or ():
        if name not in known:
            raise UserError(f"--model {name}: {closest(name, known)}")
    names = args.model or known
    results = read_json(NUMBERS) if NUMBERS.is_file() else {}
    new, start = {}, time.perf_counter()
    for number, name in enumerate(names, 1):
        new[name] = results[name] = measure(name)
        left = (time.perf_counter() - start) / number * (len(names) - number)
        print(f"{number}/{len(names)} {name}: {new[name].get('error', 'done')}, {left / 60:.0f} min left", flush=True)
        if args.write:
            write_text(NUMBERS, json.dumps(results, indent=1, sort_keys=True) + "\n")
            write_text(DOCUMENT, with_table(DOCUMENT.read_text(encoding="utf-8"), results))
    if not args.write:
        print(table(new))
    return 3 if any("error" in found for found in new.values()) else 0


if __name__ == "__main__":
    run_cli(main)
