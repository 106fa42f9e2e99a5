"""The rows of the paper's Tables 6 and 7, and what several runs of them come to: mean and spread beside the paper."""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from acmix_ms.errors import UserError


@dataclass(frozen=True)
class Row:
    """One way to build the network; rows of both tables that are the same network have the same key."""

    key: str
    label: str
    paper_top1: float  # Swin-T on ImageNet
    kwargs: Mapping[str, str] = field(default_factory=dict)  # of the ACmix model
    plain_convolution: bool = False  # the model with a dense convolution instead, such as conv_swin_tiny


TABLES: dict[str, tuple[Row, ...]] = {
    "6": (
        Row("attention", "attention alone (Swin)", 81.3, {"mix": "attention"}),
        Row("conv", "3x3 convolution alone (Conv-Swin)", 80.5, plain_convolution=True),
        Row("sum", "1 · att + 1 · conv", 81.5, {"mix": "sum"}),
        Row("alpha_one", "α · att + 1 · conv", 81.6, {"mix": "alpha_one"}),
        Row("alpha", "α · att + (1 - α) · conv", 81.5, {"mix": "alpha"}),
        Row("learned", "α · att + β · conv", 81.9),
    ),
    "7": (
        Row("tensor", "tensor shifts (Fig. 3a)", 81.4, {"shift": "tensor"}),
        Row("fixed", "fixed kernels (Fig. 3c I)", 81.4, {"shift": "fixed"}),
        Row("random", "trained, random initialisation", 81.5, {"shift": "random"}),
        Row("learned", "trained, shift initialisation (full)", 81.9),
    ),
}
TITLES = {"6": "Table 6: how the two paths are added", "7": "Table 7: how the shift is done"}


def rows_of(tables: Sequence[str]) -> list[Row]:
    """The different networks of these tables, each once."""
    return list({row.key: row for table in tables for row in TABLES[table]}.values())


def model_of(row: Row, acmix_model: str) -> tuple[str, dict[str, str]]:
    """Name and further arguments of the model that a row means, from the name of the mixed one.

    Raises:
        UserError: the name is not that of a mixed model.
    """
    prefix, _, plain = acmix_model.partition("acmix_")
    if prefix or not plain:
        raise UserError(f"model.name={acmix_model}: the tables vary an ACmix model, give one named acmix_...")
    return (f"conv_{plain}", {}) if row.plain_convolution else (acmix_model, dict(row.kwargs))


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; of a single value the latter is unknown."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def summarise(tables: Sequence[str], results: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    """One record per table row that has results.

    Args:
        tables: of ``"6"``, ``"7"``.
        results: by row key, for every seed ``{"top1": percent, "params": int}``.
    """
    records = []
    for table in tables:
        for row in TABLES[table]:
            runs = results.get(row.key, ())
            if not runs:
                continue
            mean, std = mean_and_std([run["top1"] for run in runs])
            records.append(
                {
                    "table": table,
                    "row": row.key,
                    "label": row.label,
                    "params": runs[0]["params"],
                    "seeds": len(runs),
                    "top1_mean": round(mean, 2),
                    "top1_std": None if std is None else round(std, 2),
                    "paper_top1": row.paper_top1,
                }
            )
    return records


def markdown(records: Sequence[Mapping], dataset: str) -> str:
    """The records as one Markdown table for each table of the paper."""
    lines = []
    for table in dict.fromkeys(record["table"] for record in records):
        lines += [
            f"### {TITLES[table]}",
            "",
            f"| | parameters | top-1 on {dataset} (measured) | seeds | top-1 of Swin-T on ImageNet (paper) |",
            "|---|---|---|---|---|",
        ]
        for record in records:
            if record["table"] == table:
                measured = f"{record['top1_mean']:.2f}"
                if record["top1_std"] is not None:
                    measured += f" ± {record['top1_std']:.2f}"
                lines.append(
                    f"| {record['label']} | {record['params']:,} | {measured} | {record['seeds']} "
                    f"| {record['paper_top1']} |"
                )
        lines.append("")
    return "\n".join(lines)


def write_csv(records: Sequence[Mapping], path: str | os.PathLike) -> None:
    """The records, one line each."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
