"""The paper's tables: built from counts, current in docs/ and README, and the command that writes them."""

from __future__ import annotations

import csv

import mindspore as ms
import pytest
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.analysis import tables
from acmix_ms.analysis.complexity import Complexity, complexity
from acmix_ms.analysis.reported import COMPETITORS, FIGURE4
from acmix_ms.analysis.tradeoff import plot_tradeoff
from acmix_ms.analysis.work import Work
from acmix_ms.errors import UserError
from acmix_ms.ops import ACmix
from models import create_model, list_models
from tests.conftest import ROOT

TABLES = ROOT / "docs" / "tables.md"


@pytest.fixture
def invented() -> dict[str, Complexity]:
    """Counts of everything that the tables need, without any model being built."""
    items = (
        Work("project", "I", 3_000_000_000, bias=50_000_000, params=1100, biases=100),
        Work("attention", "II", 1_000_000_000, position=10_000_000),
        Work("conv3x3", "rest", 500_000_000, additions=7_000_000, params=50),
    )
    keys = [*tables.CELLS, *tables.needed(), "stranger"]
    return {key: Complexity(items, 12_345_678) for key in keys}


def test_differences_and_digits():
    assert tables.compare("13.7", 13.696552) == ("-0.00", "yes")
    assert tables.compare("10.6", 10.487816) == ("-0.11", "no")
    assert tables.compare("13", 13.4) == ("+0.40", "yes")
    assert tables.compare("102.98", 102.991) == ("+0.01", "no")
    assert tables.compare("", 1.0) == ("", "")


def test_rows_state_their_convention(invented):
    table = tables.figure4(invented)
    assert len(table.rows) == 20
    rows = {row[0]: dict(zip(table.columns, row)) for row in table.rows}
    assert rows["`acmix_resnet50`"]["G: ours"] == "4.560"  # dagger: biases and position
    assert rows["`resnet50`"]["G: ours"] == "4.500"
    assert rows["`acmix_san10`"]["convention"] == "A+bias"
    assert rows["`acmix_san10`"]["difference (G)"] == "+2.65"
    assert {row["parameters: ours"] for row in rows.values()} == {"12,345,678"}


def test_csv_and_markdown_hold_the_same_cells(invented):
    for table in tables.all_tables(invented):
        assert len(set(table.columns)) == len(table.columns)
        rows = list(csv.reader(table.csv().splitlines()))
        assert rows == [list(table.columns), *map(list, table.rows)]
        lines = [line for line in table.markdown().splitlines() if line.startswith("| ")]
        assert lines == [tables.markdown_row(row) for row in rows]


def test_stages_of_a_plain_convolution_are_its_products_and_its_shifts(invented):
    assert tables.stage_cost(invented["conv"], "A", convolution=True) == ((500_000_000, 50), (7_000_000, 0))
    assert tables.stage_cost(invented["acmix"], "A") == ((3_000_000_000, 1000), (1_000_000_000, 0))


def test_theory_of_table_1_is_what_the_cells_do():
    shape = (1, tables.CHANNELS, tables.SIDE, tables.SIDE)
    cells = {"conv": nn.Conv2d(64, 64, 3), "attention": ACmix(64, 64, mix="attention"), "acmix": ACmix(64, 64)}
    table = tables.table1_theory({key: complexity(cell, shape) for key, cell in cells.items()})
    differences = [(row[5], row[9]) for row in table.rows]
    assert differences == [("+0", "+0")] * 5 + [("-576", "+0")]
    assert table.markdown() in TABLES.read_text(encoding="utf-8")


@pytest.mark.slow
def test_table_1_on_resnet50():
    counts = {name: complexity(create_model(name), (1, 3, 224, 224)) for name, *_ in tables.TABLE1_RESNET50.values()}
    conv = tables.stage_cost(counts["resnet50"], "A+position", convolution=True)
    attention, acmix = (tables.stage_cost(counts[name], "A+position") for name in ("sasa_resnet50", "acmix_resnet50"))
    giga = [[round(stage[0] / 1e9, 4) for stage in stages] for stages in (conv, attention, acmix)]
    assert giga == [[1.8497, 0.0124], [0.9634, 0.2028], [0.9634, 0.3661]]
    assert [stage[1] for stage in conv] == [9 * 1_257_472, 0]
    assert [stage[1] for stage in attention] == [3 * 1_257_472, 0]
    assert [stage[1] for stage in acmix] == [3 * 1_257_472, 307_584]
    assert tables.table1_resnet50(counts).markdown() in TABLES.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["resnet26", "acmix_resnet26", "acmix_san10", "sasa_resnet26"])
def test_tables_are_current_for_small_models(name, script):
    counts = {name: script.count(name)}
    (row,) = [row for row in (*FIGURE4, *COMPETITORS) if row.key == name]
    line = tables.markdown_row(tables.cost_row(row, counts))
    assert line.removeprefix("| ").removesuffix(" |") in TABLES.read_text(encoding="utf-8")


@pytest.mark.slow
def test_everything_written_is_current(script):
    counts = script.count_all()
    assert TABLES.read_text(encoding="utf-8") == script.document(counts)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == script.with_models(readme, counts)
    for table in tables.all_tables(counts):
        path = ROOT / "docs" / "tables" / f"{table.name}.csv"
        assert path.read_text(encoding="utf-8") == table.csv()


def test_readme_lists_every_model(script):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [name for name in list_models(task="classification") if not name.endswith("_digits")]
    assert not [name for name in names if f"| `{name}` | " not in readme]


def test_readme_keeps_what_is_around_the_markers(script, invented, monkeypatch):
    monkeypatch.setattr(script, "other_models", lambda: ["stranger"])
    text = f"before\n{script.MARKERS[0]}\nold\n{script.MARKERS[1]}\nafter\n"
    written = script.with_models(text, invented)
    assert written.startswith(f"before\n{script.MARKERS[0]}\n")
    assert written.endswith(f"{script.MARKERS[1]}\nafter\n")
    assert "| `stranger` | 12,345,678 | 4.500 (A) | - | - | - |" in written
    assert "| `resnet50` | 12,345,678 | 4.500 (A) | 25.6M | 4.1 | 76.9 |" in written
    assert "old" not in written
    assert script.with_models(written, invented) == written
    with pytest.raises(UserError, match="end of models"):
        script.with_models("no markers", invented)


def test_breakdown_adds_up(capsys, script):
    script.main(["--model", "acmix_resnet_digits", "--image-size", "32", "mix=sum"])
    text = capsys.readouterr().out
    net = create_model("acmix_resnet_digits", mix="sum")
    found = complexity(net, (1, 3, 32, 32))
    assert "one image of 32x32" in text
    assert f"{sum(p.size for p in net.trainable_params()):,}" in text.split("total")[1].splitlines()[0]
    assert f"{found.macs('A', 'II'):,}" in text
    assert f"dagger       {found.macs('dagger') / 1e9:.4f} G" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "acmix_resnet5"], "unknown model 'acmix_resnet5': did you mean"),
        (["--model", "resnet26", "kernel_shape=3"], "does not take this argument"),
        (["--model", "acmix_resnet26", "shift=left"], "shift='left': choose from"),
        (["--model", "resnet26", "in_channels=three"], "in_channels='three': give an integer of at least 1"),
        (["--model", "resnet26", "stem"], "'stem': give options of the model as key=value"),
        (["--model", "resnet26", "stem=[a"], "the value is no YAML"),
        (["--model", "resnet26", "--image-size", "16"], "--image-size 16: give at least 32"),
        (["--model", "resnet26", "--image-size", "big"], "'big' is not a whole number"),
        (["--tables", "shift=tensor"], "options belong to a --model"),
        ([], "required"),
    ],
)
def test_mistakes_are_told(script, arguments, message):
    with pytest.raises(UserError) as caught:
        script.main(arguments)
    assert message in str(caught.value)


def test_mistakes_are_one_line_on_the_command_line(run_cli):
    done = run_cli("scripts/complexity.py", "--model", "acmix_resnet5")
    assert done.code == 2
    assert done.stderr.startswith("error: unknown model 'acmix_resnet5'")
    assert done.stderr.count("\n") == 1


def test_figure_4_is_drawn(tmp_path, invented):
    plot_tradeoff(invented, tmp_path / "figure4.png")
    assert (tmp_path / "figure4.png").read_bytes().startswith(b"\x89PNG")
    assert 10_000 < (ROOT / "docs" / "figure4.png").stat().st_size < 200_000


def test_script_counts_in_pynative_mode_on_cpu(script, capsys):
    runtime.start(mode="graph")
    script.main(["--model", "resnet_digits", "--image-size", "32"])
    assert ms.get_context("mode") == ms.PYNATIVE_MODE
