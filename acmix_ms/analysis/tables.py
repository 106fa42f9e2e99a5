"""The paper's cost tables from our own counts: paper, ours, difference, and the convention of each row.

Pure: counts come in as a mapping from `Reported.key` (or `CELLS`, for Table 1's theory) to `Complexity`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from acmix_ms.analysis.complexity import CONVENTIONS, STAGES, Complexity
from acmix_ms.analysis.reported import COMPETITORS, FIGURE4, TABLE2, TABLE3, TABLE4, TABLE6, TABLE7, Reported

Counts = Mapping[str, Complexity]

# Table 1's theory is checked on one Cell each: C channels, N heads, k_a and k_c, on a map of SIDE x SIDE.
CHANNELS, HEADS, ATTENTION_KERNEL, CONV_KERNEL, SIDE = 64, 4, 7, 3, 14
CELLS = ("conv", "attention", "acmix")
# What Table 1 says of ResNet-50: (Stage I, Stage II) in G and in M, with shares. No parameters are legible for Conv.
TABLE1_RESNET50 = {
    "Conv": ("resnet50", ("1.9", "99%"), ("0.1", "1%"), None, None),
    "Self-attention": ("sasa_resnet50", ("1.0", "83%"), ("0.2", "17%"), ("3.8", "100%"), ("0", "0%")),
    "ACmix": ("acmix_resnet50", ("1.0", "73%"), ("0.4", "27%"), ("3.8", "92%"), ("0.3", "8%")),
}

INTRODUCTION = """\
# Cost tables

Written by `python scripts/complexity.py --write`, from the Cells themselves; do not edit. A test keeps it current.

G are billions of multiply-adds for one image, of 224x224 where nothing else is said, M are millions of parameters.
Papers count differently, so each row names its convention:

* **A**: products of convolutions, linear layers and attention (q.k and a.v). No biases, norms or activations.
* **A+bias**: A, and one for each bias added to an output element.
* **dagger**: A+bias, and the position term of sliding-window attention. **A+position**: the same without the biases.
* **A+norm**: A, and one for each element that a LayerNorm sees, as the authors of Swin count.
* **mmdetection**: A, and what mmdetection's counter adds: biases of convolutions, two for each element of a BatchNorm,
  one for each of a ReLU and before a pooling.

"M as printed" and "G as printed" tell whether ours, rounded to the digits that the paper prints, is the paper's number.
"""


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; ``name`` is that of its CSV file."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """With its title and note."""
        lines = [markdown_row(self.columns), "|" + "---|" * len(self.columns), *map(markdown_row, self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])]) + "\n"

    def csv(self) -> str:
        """Columns and rows."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()


def markdown_row(cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell or "-" for cell in cells) + " |"


def needed() -> dict[str, Reported]:
    """What the tables ask for: each key once."""
    table1 = [Reported(model, model, "A+position") for model, *_ in TABLE1_RESNET50.values()]
    strided = [replace(row, strided=True) for row in TABLE3 if strides(row)]
    dense = (*TABLE2, *TABLE3, *strided, *TABLE4)
    return {row.key: row for row in (*FIGURE4, *dense, *TABLE6, *TABLE7, *COMPETITORS, *table1)}


def all_tables(counts: Counts) -> list[Table]:
    """Every table, in the order of the paper."""
    tables1 = table1_theory(counts), table1_resnet50(counts)
    return [figure4(counts), *tables1, segmentors(counts), *detectors(counts), *ablations(counts), competitors(counts)]


# ---------------------------------------------------------------------------------------------------- rows of models
def compare(printed: str, ours: float) -> tuple[str, str]:
    """(difference, whether ours rounds to what is printed)."""
    if not printed:
        return "", ""
    digits = len(printed.partition(".")[2])
    return f"{ours - float(printed):+.{max(digits, 2)}f}", "yes" if f"{ours:.{digits}f}" == printed else "no"


def cost_row(row: Reported, counts: Counts) -> tuple[str, ...]:
    """Parameters and multiply-adds of one model: printed, ours, difference, as printed; the convention."""
    found = counts[row.key]
    macs = found.macs(row.convention) / 1e9
    params = (row.params, f"{found.params:,}", *compare(row.params, found.params / 1e6))
    return (*params, row.flops, f"{macs:.3f}", *compare(row.flops, macs), row.convention)


COST_COLUMNS = (
    *("M: paper", "parameters: ours", "difference (M)", "M as printed"),
    *("G: paper", "G: ours", "difference (G)", "G as printed", "convention"),
)


def figure4(counts: Counts) -> Table:
    """Figure 4's table."""
    rows = [(f"`{row.model}`", *cost_row(row, counts), row.top1) for row in FIGURE4]
    note = (
        "Parameters of ResNet-ACmix: the paper's lie above those of its own code by exactly the kernels of the group "
        "convolution, counted twice; ours are those of the code. The SAN-ACmix code was never released; ours is the "
        "variant that comes nearest to the printed costs. The multiply-adds printed for `resnet26` and SAN also hold "
        "norms, activations and pooling, which none of our conventions counts. PVT and Swin are printed in whole "
        "millions of parameters, mostly rounded up."
    )
    return Table("figure4", "Figure 4", ("model", *COST_COLUMNS, "paper: top-1"), tuple(rows), note)


def segmentors(counts: Counts) -> Table:
    """Table 2."""
    rows = [(f"`{row.model}`", row.schedule, row.size, *cost_row(row, counts), row.miou) for row in TABLE2]
    note = (
        "The auxiliary head of UPerNet has parameters, but is not used in inference. ACmix-Swin also computes its "
        "convolution path on what windows are padded with; without that, 108 C for each pixel and block, UPerNet would "
        "take 948.0G and 1043.1G with it. No convention gives the 950G that the paper prints for the smaller one, "
        "where ACmix would add as much to 12 blocks as it adds to 24 in the other."
    )
    columns = ("model", "schedule", "image size", *COST_COLUMNS, "paper: mIoU")
    return Table("table2", "Table 2: segmentors", columns, tuple(rows), note)


def strides(row: Reported) -> bool:
    """Whether a detector has `ACmix` or its attention path with a stride."""
    return row.model in ("retinanet_acmix_resnet50", "retinanet_sasa_resnet50")


def detector_row(row: Reported, counts: Counts) -> tuple[str, ...]:
    """Parameters and multiply-adds of one detector: ours, printed, difference; what was found on COCO."""
    found = counts[row.key]
    macs = found.macs(row.convention) / 1e9
    ours = (f"{found.params:,}", row.flops, f"{macs:.2f}", *compare(row.flops, macs), row.convention)
    strided = f"{counts[replace(row, strided=True).key].macs(row.convention) / 1e9:.2f}" if strides(row) else ""
    return (f"`{row.model}`", row.schedule, row.size, *ours, strided, *row.ap)


DETECTOR_COLUMNS = (
    *("model", "schedule", "image size", "parameters: ours", "G: paper", "G: ours", "difference (G)", "G as printed"),
    *("convention", "G: strided projections", "paper: mAP", "paper: AP50", "paper: AP75"),
)


def detectors(counts: Counts) -> list[Table]:
    """Tables 3 and 4."""
    note3 = (
        "The paper does not state the size of the images; 800x1333 meets its figures. Where ACmix has a stride, the "
        "released code and ours project all pixels, because the convolution path needs them, and attention alone could "
        'do with fewer. The paper\'s 226G and 230G are about those of projections of the pixels that stay ("strided '
        'projections").'
    )
    note4 = (
        "A token of PVT-ACmix at full size is mixed with keys and values before these are enlarged; mixed afterwards, "
        "as 108 C for each pixel and block, it would be 231.94G. Nets with two stages: their second one is counted on "
        "1000 proposals, in each stage of a cascade, and 100 masks, as mmdetection does. Their multiply-adds and mAP "
        "cannot be read from the text we have; Swin's authors print 267G and 745G for the plain ones."
    )
    return [
        Table(name, title, DETECTOR_COLUMNS, tuple(detector_row(row, counts) for row in rows), note)
        for name, title, rows, note in (
            ("table3", "Table 3: detectors on ResNets", TABLE3, note3),
            ("table4", "Table 4: detectors on transformers", TABLE4, note4),
        )
    ]


def ablations(counts: Counts) -> list[Table]:
    """Cost columns of Tables 6 and 7."""
    rows6 = [(f"`{row.key}`", row.label, *cost_row(row, counts), row.top1) for row in TABLE6]
    note6 = (
        "A dense 3x3 convolution in each block costs more than window attention: the 4.5G that the paper prints for "
        "Conv-Swin-T is Swin-T's own figure. The labels are those of the sum, α attention + β convolution."
    )
    rows7 = [(f"`{row.key}`", row.label, *cost_row(row, counts)[4:], row.top1) for row in TABLE7]
    note7 = (
        "Tensor shifts have additions in the place of products: 36 C for each pixel beside 108 C of the group "
        "convolution, with the fully connected layer in both. The difference of 0.10G is the paper's; its absolute "
        "figures are rounded up."
    )
    return [
        Table("table6", "Table 6: cost", ("model", "α, β", *COST_COLUMNS, "paper: top-1"), tuple(rows6), note6),
        Table("table7", "Table 7: cost", ("model", "shift", *COST_COLUMNS[4:], "paper: top-1"), tuple(rows7), note7),
    ]


def competitors(counts: Counts) -> Table:
    """Networks of Figure 4a that share ResNet, beside what their own papers report."""
    rows = [(f"`{row.model}`", str(row.image_size), *cost_row(row, counts), row.top1) for row in COMPETITORS]
    note = (
        'Here "paper" is each network\'s own: SASA (Ramachandran et al., 2019; its rows with a convolution stem), AA '
        "(Bello et al., 2019), LR-Net (Hu et al., 2019), BoTNet (Srinivas et al., 2021). SASA and AA print two "
        "operations for a multiply-add: halved. Ours are written from these papers, not from their code:\n\n"
        "* SASA: the attention path of ACmix alone, with its position encoding. SASA attends at full resolution and "
        "pools afterwards, ours computes only the queries that stay.\n"
        "* AA-ResNet: the parameters agree; our multiply-adds are higher by about what all-to-all attention itself "
        f"costs ({_stage_two(counts, 'aa_resnet50')}G), which the printed figure seems to leave out.\n"
        "* LR-Net: 104 channels in the first stage, where its authors have 100, which groups of 8 do not divide; the "
        "stem is a convolution.\n"
        "* BoTNet: its multiply-adds are printed for 1024x1024. The tables of relative positions, made for 224 here, "
        "are resized to it. Its authors multiply a query with all 2S - 1 distances of an axis, ours with the S that "
        "occur. Its table prints 25.5M for ResNet-50, 25,557,032 cut off, and 20.8M in the same way."
    )
    columns = ("model", "image size", *COST_COLUMNS, "paper: top-1")
    return Table("competitors", "Competitors of Figure 4a", columns, tuple(rows), note)


def _stage_two(counts: Counts, key: str) -> str:
    return f"{counts[key].macs('A', 'II') / 1e9:.2f}"


def readme(counts: Counts, others: Iterable[str]) -> str:
    """The tables of models in README: Figure 4's, the competitors and the ``others``, which no paper table has."""
    seen = {row.key: row for row in (*FIGURE4, *TABLE6, *COMPETITORS) if row.key == row.model}
    groups = {
        "Of the paper": [row for row in seen.values() if row not in COMPETITORS],
        "Competitors of Figure 4a, beside what their own papers report": [r for r in seen.values() if r in COMPETITORS],
        "Relatives": [Reported(name, name, "A") for name in others],
    }
    columns = ("model", "parameters", "G multiply-adds", "paper: parameters", "paper: G", "paper: top-1")
    lines = []
    for title, rows in groups.items():
        lines += [f"**{title}**", "", markdown_row(columns), "|" + "---|" * len(columns)]
        for row in rows:
            found = counts[row.key]
            ours = (f"{found.params:,}", f"{found.macs(row.convention) / 1e9:.3f} ({row.convention})")
            lines.append(markdown_row((f"`{row.model}`", *ours, row.params and f"{row.params}M", row.flops, row.top1)))
        lines.append("")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- Table 1
def stage_cost(found: Complexity, convention: str, *, convolution: bool = False) -> tuple[tuple[int, int], ...]:
    """((multiply-adds, parameters) of Stage I, those of Stage II), as Table 1 counts: no biases, no rates.

    A k x k convolution is 1x1 convolutions for its taps (Stage I) and their shift and summation (Stage II), eq. 5-8.
    """
    if convolution:
        items = [item for item in found.items if item.label == f"conv{CONV_KERNEL}x{CONV_KERNEL}"]
        work = sum(item.macs for item in items), sum(item.params - item.biases for item in items)
        return work, (sum(item.additions for item in items), 0)
    stages = []
    for stage in ("I", "II"):
        items = [item for item in found.items if item.stage == stage and item.kind != "rates"]
        stages.append((found.macs(convention, stage), sum(item.params - item.biases for item in items)))
    return tuple(stages)


def table1_theory(counts: Counts) -> Table:
    """Formulas of Table 1, their value for one Cell, and what the Cell really does for a pixel."""
    c, n, ka, kc = CHANNELS, HEADS, ATTENTION_KERNEL**2, CONV_KERNEL**2
    theory = {
        "Conv": ("conv", ("k_c² C²", kc * c * c, "k_c² C²", kc * c * c), ("k_c² C", kc * c, "0", 0)),
        "Self-attention": ("attention", ("3 C²", 3 * c * c, "3 C²", 3 * c * c), ("2 k_a² C", 2 * ka * c, "0", 0)),
        "ACmix": (
            "acmix",
            ("3 C²", 3 * c * c, "3 C²", 3 * c * c),
            (
                *("(k_c² + 2 k_a²) C + (3 k_c² + k_c⁴) C", (kc + 2 * ka + 3 * kc + kc * kc) * c),
                *("3 k_c² N + k_c⁴ C", 3 * kc * n + kc * kc * c),
            ),
        ),
    }
    rows = []
    for module, (key, *stages) in theory.items():
        found = stage_cost(counts[key], "A", convolution=key == "conv")
        for stage, (formula, macs, params_formula, params), ours in zip(("I", "II"), stages, found):
            pixel = ours[0] // SIDE**2
            cost = (formula, f"{macs:,}", f"{pixel:,}", f"{pixel - macs:+,}")
            rows.append((module, stage, *cost, params_formula, f"{params:,}", f"{ours[1]:,}", f"{ours[1] - params:+,}"))
    note = (
        f"For a pixel, with C = {c}, N = {n}, k_a = {ATTENTION_KERNEL}, k_c = {CONV_KERNEL}; convention A, a plain "
        "convolution split as in eq. 5-8. Stage II of ACmix: the paper adds k_c² C for a summation that the group "
        "convolution, k_c⁴ C, has within its multiply-adds."
    )
    columns = ("module", "stage")
    for what in ("multiply-adds", "parameters"):
        columns += (f"{what}: paper", f"{what}: value", f"{what}: ours", f"{what}: difference")
    return Table("table1_theory", "Table 1: theory", columns, tuple(rows), note)


def table1_resnet50(counts: Counts) -> Table:
    """Table 1 for all 3x3 convolutions of ResNet-50, or what takes their place."""
    rows = []
    for module, (model, *printed) in TABLE1_RESNET50.items():
        found = stage_cost(counts[model], "A+position", convolution=module == "Conv")
        macs_total, params_total = (sum(stage[i] for stage in found) for i in (0, 1))
        for stage, ours, macs_printed, params_printed in zip(("I", "II"), found, printed[:2], printed[2:]):
            macs = (_with_share(macs_printed), f"{ours[0] / 1e9:.4f} ({ours[0] / macs_total:.1%})")
            params = (_with_share(params_printed), f"{ours[1]:,} ({ours[1] / params_total:.1%})")
            rows.append(
                (module, stage, *macs, *compare(macs_printed[0], ours[0] / 1e9))
                + (*params, *compare(params_printed[0] if params_printed else "", ours[1] / 1e6))
            )
    acmix = counts[TABLE1_RESNET50["ACmix"][0]]
    with_biases = [acmix.macs("dagger", stage) for stage in ("I", "II")]
    share = with_biases[0] / sum(with_biases)
    note = (
        "Convention A+position, and for Conv the split of eq. 5-8; weights only, without biases and rates. Its Stage "
        "II of 0.01G is printed as 0.1, though with a share of 1%. Self-attention is `sasa_resnet50`, the attention "
        f"path alone. With the biases of the projections (dagger) the shares of ACmix are {share:.1%} and "
        f"{1 - share:.1%}, as printed. The paper's parameters of Conv cannot be read from the text we have."
    )
    columns = ("module", "stage", "G: paper", "G: ours", "difference (G)", "G as printed")
    columns += ("M: paper", "parameters: ours", "difference (M)", "M as printed")
    return Table("table1_resnet50", "Table 1: ResNet-50", columns, tuple(rows), note)


def _with_share(printed: tuple[str, str] | None) -> str:
    return f"{printed[0]} ({printed[1]})" if printed else ""


# ------------------------------------------------------------------------------------------------------ one model
def breakdown(found: Complexity) -> str:
    """One model by stage and kind of work, then its total in every convention, as aligned text."""
    kinds = sorted({(item.stage, item.label) for item in found.items if item.macs or item.params})
    lines = [f"{'stage':<6} {'work':<12} {'parameters':>12} {'multiply-adds (A)':>18}"]
    for stage in STAGES:
        for kind in [kind for where, kind in kinds if where == stage]:
            items = [item for item in found.items if (item.stage, item.label) == (stage, kind)]
            lines.append(_line(stage, kind, sum(item.params for item in items), sum(item.macs for item in items)))
        lines.append(_line(stage, "all", found.stage_params(stage), found.macs("A", stage)))
    uncounted = found.params - sum(found.stage_params(stage) for stage in STAGES)
    lines += [_line("", "other", uncounted, 0), _line("total", "", found.params, found.macs()), ""]
    lines += [f"{convention:<12} {found.macs(convention) / 1e9:.4f} G multiply-adds" for convention in CONVENTIONS]
    return "\n".join(lines) + "\n"


def _line(stage: str, work: str, params: int, macs: int) -> str:
    return f"{stage:<6} {work:<12} {params:>12,} {macs:>18,}"
