"""Multiply-adds of segmentors at 512x2048, as the paper prints them."""

from __future__ import annotations

import numpy as np
import pytest

from acmix_ms.analysis import tables
from acmix_ms.analysis.complexity import complexity
from acmix_ms.analysis.reported import TABLE2
from models import create_model
from models.necks.ppm import AveragePool
from tests.conftest import ROOT

MISSED = {"upernet_acmix_swin_tiny"}  # the paper's own rows contradict each other there


@pytest.mark.slow
@pytest.mark.parametrize("name", ["semantic_fpn_pvt_tiny", "semantic_fpn_acmix_pvt_tiny"])
def test_segmentors_cost_what_is_printed_and_the_table_is_current(script, name):
    row = next(row for row in TABLE2 if row.model == name)
    counts = {row.key: script.count(name, row.image_size)}
    cells = (f"`{name}`", row.schedule, row.size, *tables.cost_row(row, counts), row.miou)
    assert tables.markdown_row(cells) in (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert f"{counts[row.key].macs(row.convention) / 1e9:.0f}" == row.flops


def test_all_rows_but_one_are_as_printed():
    lines = [line.split("|") for line in (ROOT / "docs" / "tables.md").read_text(encoding="utf-8").splitlines()]
    found = {cells[1].strip(" `"): cells for cells in lines if len(cells) > 2 and cells[3].strip() == "512x2048"}
    assert set(found) == {row.model for row in TABLE2}
    assert {name for name, cells in found.items() if cells[11].strip() != "yes"} == MISSED


def test_the_auxiliary_head_has_parameters_but_no_part_in_inference():
    net = create_model("upernet_acmix_shapes", num_classes=3)
    found, head = complexity(net, (1, 3, 64, 64)), net.auxiliary_head
    assert not [item for item in found.items if item.name.startswith("auxiliary_head")]
    assert found.params > sum(p.size for p in head.trainable_params())


def test_pooling_counts_as_mmdetections_counter_has_it():
    found = complexity(AveragePool(3), (2, 5, 8, 7))
    assert (found.macs(), found.macs("mmdetection")) == (0, int(np.prod((2, 5, 8, 7))))
