"""A run on one page: ``report.html``, one file with its pictures inside, without scripts, that loads nothing."""

from __future__ import annotations

import base64
import html
import io
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from acmix_ms import runtime
from acmix_ms.analysis import figures
from acmix_ms.engine import run_dir
from acmix_ms.engine.logger import read_table
from acmix_ms.errors import UserError
from acmix_ms.files import write_text
from acmix_ms.machine import cpu_model, versions

LAST_EPOCHS = 10
# The policy makes the browser hold what the docstring promises.
HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; color: #222; max-width: 66em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: 0.5em 0; }}
th, td {{ padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; text-align: left; }}
img {{ max-width: 100%; }}
pre {{ background: #f6f6f6; padding: 0.8em; overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
"""


def environment() -> dict[str, str]:
    """What this process computes on, by the name to show."""
    import mindspore as ms

    return {
        "device": f"{ms.get_context('device_target')}, {runtime.world_size()} process(es)",
        "CPU": f"{cpu_model()}, {runtime.cpu_cores()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        **versions(),
    }


def write(folder: Path) -> Path:
    """Write the page of the run in ``folder`` from what lies there; the run may still be going on.

    Raises:
        UserError: no epoch is done yet, a file is damaged, or the page cannot be written.
    """
    rows = read_table(folder / run_dir.LOG)
    if not rows:
        raise UserError(f"{folder} holds no {run_dir.LOG} with an epoch: give the folder of a run that has done one")
    best = _read_json(folder / run_dir.BEST_SCORES)
    title = html.escape(folder.resolve().name)
    parts = [
        HEAD.format(title=title),
        _paragraph(_summary(folder, rows, best)),
        "<h2>Curves</h2>",
        _picture(
            "losses, metrics and learning rate",
            lambda png: figures.plot_curves(folder / run_dir.LOG, png, **best.get("curves", {})),
        ),
        "<h2>Last epochs</h2>",
        _table(list(rows[-1]), [row.values() for row in rows[-LAST_EPOCHS:]]),
        *_tables(best),
        *_rates(read_table(folder / run_dir.RATES)),
        "<h2>Environment</h2>",
        _table((), _read_json(folder / run_dir.ENVIRONMENT).items()),
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(_read(folder / run_dir.CONFIG))}</pre>",
        "</body>\n</html>\n",
    ]
    path = folder / run_dir.REPORT
    write_text(path, "\n".join(parts))
    return path


def _summary(folder: Path, rows: Sequence[dict], best: dict) -> str:
    said = f"{rows[-1]['epoch']} epochs, {rows[-1]['step']} steps."
    file = folder / run_dir.BEST
    if "told" in best and file.exists():
        size = file.stat().st_size / 1e6
        said += (
            f" Best checkpoint: {file.name} ({size:.1f} MB), {best['told']} after epoch {best['epoch']}."
        )
    return said


def _tables(best: dict) -> list[str]:
    """The sections that the task's evaluator has for the best checkpoint."""
    parts = []
    for table in best.get("tables", ()):
        parts += [
            f"<h2>{html.escape(table['title'])}</h2>",
            _paragraph(f"Of {run_dir.BEST} on the validation split; {run_dir.BEST_SCORES} has all. {table['note']}"),
            _table(table["header"], table["rows"]),
        ]
    return parts


def _rates(rows: Sequence[dict]) -> list[str]:
    """The section on the learned rates; nothing for a network without them."""
    if not rows:
        return []
    history: dict[str, list[tuple[int, float, float]]] = {}
    for row in rows:
        history.setdefault(row["layer"], []).append((int(row["epoch"]), float(row["alpha"]), float(row["beta"])))
    last = [(layer, f"{abs(found[-1][1]):.3f}", f"{abs(found[-1][2]):.3f}") for layer, found in history.items()]
    return [
        "<h2>What the layers rely on</h2>",
        _picture("|alpha| and |beta| of each layer", lambda png: figures.plot_rate_history(history, png)),
        _table(("layer", "|alpha|, attention", "|beta|, convolution"), last),
    ]


def _picture(name: str, draw: Callable[[io.BytesIO], None]) -> str:
    buffer = io.BytesIO()
    draw(buffer)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{encoded}">'


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Sequence[object], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(str(cell))}</{kind}>" for cell in cells) + "</tr>"

    lines = [line(header, "th")] if header else []
    return "\n".join(["<table>", *lines, *(line(row, "td") for row in rows), "</table>"])


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _read_json(path: Path) -> dict:
    """What a JSON file holds, nothing where there is none: runs of earlier versions left fewer files."""
    try:
        return json.loads(_read(path) or "{}")
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and the report goes without") from error
