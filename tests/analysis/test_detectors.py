"""Multiply-adds of detectors, as mmdetection and the papers print them; shapes that are foretold, not computed."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import runtime
from acmix_ms.analysis import tables
from acmix_ms.analysis.complexity import complexity
from acmix_ms.analysis.reported import TABLE3, TABLE4
from acmix_ms.analysis.shapes import shape_of
from acmix_ms.ops import ACmix, PatchwiseACmix
from models import create_model
from models.detection.retinanet import ANCHORS
from tests.conftest import ROOT

TABLES = ROOT / "docs" / "tables.md"


# mmdetection 3.3 prints 250.34 and 239.32 for ResNet-50; the others were worked out beforehand by its rules.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "convention", "expected"),
    [
        ("retinanet_resnet50", (800, 1333), "mmdetection", 250.34),
        ("retinanet_resnet50", (1280, 800), "mmdetection", 239.32),
        ("retinanet_pvt_tiny", (800, 1333), "mmdetection", 230.16),
        ("retinanet_san19", (800, 1333), "mmdetection", 229.89),
        ("retinanet_pvt_tiny", 576, "mmdetection", 64.7),
        ("retinanet_pvt_small", 576, "mmdetection", 79.6),
        ("retinanet_pvt_large", 576, "mmdetection", 125.5),
    ],
)
def test_detectors_cost_what_is_printed(script, name, size, convention, expected):
    giga = script.count(name, size).macs(convention) / 1e9
    assert round(giga, len(str(expected).partition(".")[2])) == expected


def test_table5_has_so_many_anchors():
    assert len(ANCHORS.all(ANCHORS.sizes(576, 576))) == 62_190


def test_projections_at_the_stride():
    cell, shape = ACmix(8, 16, stride=2, num_heads=2, attn_kernel_size=3), (1, 8, 6, 10)
    all_pixels, some = (complexity(cell, shape, strided_projections=strided) for strided in (False, True))
    assert (all_pixels.macs(stage="I"), some.macs(stage="I")) == (3 * 8 * 16 * 60, 3 * 8 * 16 * 15)
    assert all_pixels.macs(stage="II") - some.macs(stage="II") == 9 * 3 * 16 * (60 - 15)  # fc
    plain = ACmix(8, 16, num_heads=2, attn_kernel_size=3)
    assert complexity(plain, shape) == complexity(plain, shape, strided_projections=True)


def test_the_released_form_of_acmix_projects_more_than_the_paper_counts(script):
    row = next(row for row in TABLE3 if row.model == "retinanet_acmix_resnet50")
    released, printed = (script.count(row.model, row.image_size, strided) for strided in (False, True))
    assert f"{printed.macs('mmdetection') / 1e9:.0f}" == row.flops == "230"
    assert f"{released.macs('mmdetection') / 1e9:.0f}" == "238"


def test_heads_for_regions_are_counted_on_1000_boxes_and_100_masks(script):
    net = create_model("cascade_mask_rcnn_acmix_shapes")
    found = script.count("cascade_mask_rcnn_acmix_shapes", 64)
    heads = 3 * 1000 * (49 * 4 * 9 * 32 * 32 + 49 * 32 * 64 + 64 * (81 + 320))
    masks = 3 * 100 * (196 * 4 * 9 * 32 * 32 + 196 * 4 * 32 * 32 + 784 * 32 * 80)
    assert found.macs() - complexity(net, (1, 3, 64, 64)).macs() == heads + masks


def test_mmdetections_counter():
    net = nn.SequentialCell(
        nn.Conv2d(3, 4, 3, has_bias=True), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(4, 5, 1)
    )
    found = complexity(net, (2, 3, 6, 8))
    assert found.macs("mmdetection") - found.macs() == 2 * 48 * 4 * (1 + 2 + 1 + 1)
    deconv = complexity(nn.Conv2dTranspose(3, 5, 2, 2, pad_mode="valid", has_bias=True), (1, 3, 4, 4))
    assert (deconv.macs(), deconv.macs("A+bias"), deconv.params) == (16 * 3 * 5 * 4, 16 * 60 + 64 * 5, 3 * 5 * 4 + 5)


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        (nn.Conv2d(3, 5, 3, 2, pad_mode="pad", padding=1), (2, 3, 9, 8)),
        (nn.Conv2d(3, 5, (3, 2), (1, 2), pad_mode="pad", padding=(1, 2, 0, 1)), (2, 3, 9, 8)),
        (nn.Conv2d(3, 5, 3, 2), (2, 3, 9, 8)),
        (nn.Conv2d(3, 5, 4, 4, pad_mode="valid"), (2, 3, 9, 15)),
        (nn.Conv2d(4, 4, 3, pad_mode="pad", padding=2, dilation=2, group=2), (1, 4, 7, 6)),
        (nn.Dense(6, 3), (2, 5, 6)),
        (ACmix(8, 16, stride=2, num_heads=2), (1, 8, 7, 9)),
        (PatchwiseACmix(16, 8, rel_channels=2, stride=2), (1, 16, 9, 7)),
    ],
)
def test_shapes_are_those_that_cells_give(cell, shape):
    runtime.start(mode="pynative")
    assert shape_of(cell, shape) == cell(Tensor(np.zeros(shape, np.float32))).shape


def test_what_only_computing_tells_is_computed():
    assert shape_of(nn.MaxPool2d(2, 2), (1, 3, 4, 4)) is None
    assert shape_of(nn.Conv2dTranspose(3, 3, 2, 2), (1, 3, 4, 4)) is None


@pytest.mark.parametrize("name", ["retinanet_resnet50", "retinanet_pvt_tiny"])
def test_tables_of_detectors_are_current(name, script):
    row = next(row for row in (*TABLE3, *TABLE4) if row.model == name)
    line = tables.markdown_row(tables.detector_row(row, {row.key: script.count(name, row.image_size)}))
    assert line in TABLES.read_text(encoding="utf-8")
