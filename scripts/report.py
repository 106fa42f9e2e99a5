"""Write the page of a run, finished or not: ``python scripts/report.py runs/mine`` makes ``runs/mine/report.html``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms.arguments import ArgumentParser  # noqa: E402
from acmix_ms.errors import UserError, run_cli  # noqa: E402
from acmix_ms.files import writable_folder  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Read the logs in the folder, draw, write."""
    parser = ArgumentParser(prog="report.py", description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="folder of a run")
    folder = Path(parser.parse_args(argv).run)
    if not folder.is_dir():
        raise UserError(f"RUN_DIR {folder}: no such folder; give that of a run, such as runs/mine")
    writable_folder(folder, "RUN_DIR")

    from acmix_ms.engine import report  # matplotlib takes a second to import: after what may be wrong before it

    print(f"written: {report.write(folder)}")


if __name__ == "__main__":
    run_cli(main)
