"""What a benchmark found, as JSON, as tables for a terminal and for a document, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from acmix_ms.analysis.figures import BLUE, ORANGE, PURPLE, STYLE, VERMILION, save
from benchmarks.protocol import Measured
from benchmarks.targets import PARTS, Result

FILES = ("benchmark.json", "benchmark.md", "benchmark.png")
COLOURS = {"ours": BLUE, "official": VERMILION, "compiled": ORANGE, "mindcv": PURPLE, "mmdetection": VERMILION,
           "file": BLUE}  # fmt: skip
MEASURED_HEADER = (
    *("measured", "ms", "quartiles", "img/s", "peak MB", "G multiply-adds", "GFLOP/s", "of matrix product"),
    "difference",
)
RESULT_HEADER = ("row", "what", "target", "measured", "range", "met", "difference", "our best form")


class Report:
    """Collects what is measured and writes it again after each session, so that a run that is cut short leaves its
    results.

    Args:
        folder: gets ``benchmark.json``, ``benchmark.md`` and ``benchmark.png``.
        environment: from `protocol.environment`; the processes that measure tell the device, and further versions.
        protocol: warm-up, repetitions and the like.
    """

    def __init__(self, folder: Path, environment: dict, protocol: dict):
        self.folder, self.environment, self.protocol = folder, {"device": None, **environment}, protocol
        self.sessions: dict[str, list[Measured]] = {}
        self.results: list[Result] = []
        self.tables: dict[str, tuple[Sequence[str], list[Sequence[str]]]] = {}  # by title: header and rows

    def add(self, session: str, measured: Mapping[object, Measured], results: Sequence[Result] = ()) -> None:
        """Take the findings of a session, and write."""
        self.sessions[session] = list(measured.values())
        self.results += results
        for one in measured.values():
            self.environment["versions"].update(one.versions)
            if one.spec.source in ("ours", "file") and one.device:
                self.environment["device"] = one.device
        self.write()

    def write(self) -> None:
        """All three files."""
        path, markdown, picture = (self.folder / name for name in FILES)
        path.write_text(json.dumps(self.record(), indent=1) + "\n", encoding="utf-8")
        markdown.write_text(self.markdown(), encoding="utf-8")
        plot(self.sessions, self.results, picture)

    def record(self) -> dict:
        """Everything as JSON values."""
        found = [{"session": name, **one.record()} for name, some in self.sessions.items() for one in some]
        tables = {title: [dict(zip(header, row)) for row in rows] for title, (header, rows) in self.tables.items()}
        return {
            "environment": self.environment,
            "protocol": self.protocol,
            "measurements": found,
            "rows": [result.record() for result in self.results],
            "tables": tables,
        }

    def all_tables(self) -> dict[str, tuple[Sequence[str], list[Sequence[str]]]]:
        """Header and rows by title, the most important first."""
        tables = dict(self.tables)
        if self.results:
            tables["Targets"] = (RESULT_HEADER, [result_row(result) for result in self.results])
        measured = [one for some in self.sessions.values() for one in some]
        tables["Measured"] = (MEASURED_HEADER, [measured_row(one) for one in measured])
        return tables

    def failures(self) -> list[str]:
        """Why something has no figure."""
        reasons = [one.failure for some in self.sessions.values() for one in some]
        reasons += [
            f"{result.row.name}: {result.failure}"
            for result in self.results
            if result.failure and result.failure not in reasons
        ]
        return list(dict.fromkeys(filter(None, reasons)))

    def markdown(self) -> str:
        """A document of its own."""
        parts = ["# Benchmark", "", self.conditions(), ""]
        for title, (header, rows) in self.all_tables().items():
            parts += [f"## {title}", "", _line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
        if self.failures():
            parts += ["## Left out", "", *(f"* {reason}" for reason in self.failures()), ""]
        return "\n".join(parts)

    def text(self) -> str:
        """For a terminal."""
        parts = [self.conditions()]
        for title, (header, rows) in self.all_tables().items():
            parts += ["", title, *_columns([header, *rows])]
        return "\n".join(parts + [f"left out: {reason}" for reason in self.failures()])

    def conditions(self) -> str:
        """One paragraph: what the figures depend on."""
        env, protocol = self.environment, self.protocol
        versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
        return (
            f"{env['device']}, {env['cpu']}, {env['threads']} threads of {env['cores']} cores, {env['precision']}, "
            f"{versions}, {env['date']}. Medians of {protocol['repetitions']} turns after {protocol['warmup']} steps "
            "of warm-up, each in a process of its own, all in alternation. Peak memory: above the imports. "
            "Multiply-adds: convention A, a train step counted as three forward passes; two operations each."
        )


def _number(value: float | None, form: str = ".1f", scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)


def measured_row(one: Measured) -> list[str]:
    """One line of the table of everything that was measured."""
    record, seconds = one.record(), one.record()["seconds"]
    quartiles = f"{1e3 * seconds['lower']:.1f} to {1e3 * seconds['upper']:.1f}" if seconds else "-"
    images = None if one.spec.source == "gemm" else record["images_per_second"]
    return [
        one.spec.label,
        _number(record["latency_ms"]) if seconds else "failed",
        quartiles,
        _number(images),
        _number(one.peak, ".0f", 1e-6),
        _number(one.macs, ".2f", 1e-9),
        _number(one.gflops),
        _number(one.share, ".0%"),
        _number(one.difference, ".1e"),
    ]


def result_row(result: Result) -> list[str]:
    """One line of the table of targets."""
    row = result.row
    percent = row.measure in PARTS
    show = (lambda value: f"{value:.0%}") if percent else (lambda value: f"{value:.2f}x")
    between = "-" if not result.spread else f"{show(result.spread['min'])} to {show(result.spread['max'])}"
    return [
        row.name,
        row.title + (f" ({row.reference_text})" if row.reference_text else ""),
        row.target_text,
        "-" if result.value is None else show(result.value),
        between,
        {True: "yes", False: "no", None: "not measured"}[result.met],
        _number(result.difference, ".1e"),
        result.ours or "-",
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def plot(sessions: Mapping[str, Sequence[Measured]], results: Sequence[Result], png_path: Path) -> None:
    """Bars of images per second with their quartiles and, with results, of each row over its target (1: reached)."""
    done = [one for some in sessions.values() for one in some if one.timing and one.spec.source != "gemm"]
    reached = [result for result in results if result.value is not None]
    panels = 1 + bool(reached)
    with matplotlib.rc_context(STYLE):
        height = 1.0 + 0.3 * max(len(done), len(reached), 2)
        figure = Figure(figsize=(7.5 * panels, height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        rates = [one.spec.batch / one.timing.median for one in done]
        ranges = [one.timing.summary() for one in done]
        low = [rate - one.spec.batch / each["upper"] for rate, one, each in zip(rates, done, ranges)]
        high = [one.spec.batch / each["lower"] - rate for rate, one, each in zip(rates, done, ranges)]
        names = [one.spec.label for one in done]
        places = range(len(done))  # labels may repeat between sessions
        axes[0].barh(places, rates, xerr=[low, high], color=[COLOURS[one.spec.source] for one in done], height=0.62,
                     capsize=3)  # fmt: skip
        axes[0].set_yticks(places, names)
        axes[0].set(title="Measured", xlabel="images per second, median and quartiles")
        if reached:
            # Above 1 is good, whether more or less was asked for.
            scores = [r.value / r.row.target if r.row.at_least else r.row.target / r.value for r in reached]
            places = range(len(reached))
            axes[1].barh(places, scores, color=[BLUE if r.met else VERMILION for r in reached], height=0.62)
            axes[1].set_yticks(places, [f"{r.row.name} ({r.row.target_text})" for r in reached])
            axes[1].axvline(1, color="#555555", linewidth=0.8, linestyle="--")
            axes[1].set(title="Against the targets", xlabel="measured over target; from 1 on it is reached")
        for each in axes:
            each.invert_yaxis()
            each.grid(axis="y", visible=False)
            each.set_axisbelow(True)
        save(figure, png_path)
