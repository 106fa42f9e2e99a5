"""Hand counts of FLOPs, padding, bytes and time on paper; labels; Table 5's ratios."""

from __future__ import annotations

import json

import mindspore as ms
import pytest
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.analysis.complexity import complexity
from acmix_ms.analysis.roofline import DEVICES, FUSIONS, LABEL, predict, report, table, twins
from acmix_ms.analysis.rules import _halo
from acmix_ms.analysis.table5 import TABLE5, Pair, table5
from acmix_ms.analysis.trace import trace, work
from acmix_ms.backbone import Backbone
from acmix_ms.errors import UserError
from acmix_ms.ops import ACmix, PatchwiseACmix, ShiftConv, WindowACmix
from acmix_ms.ops.fuse import fuse
from acmix_ms.ops.neighborhood import _halo_plan
from models import create_model


def only(net: nn.Cell, shape: tuple) -> tuple:
    """The one piece of work of a Cell, and its row."""
    (piece,), (row,) = work(trace(net, shape)), predict(net, shape).rows
    return piece, row


# --------------------------------------------------------------------------------------------- hand counts of one Cell
def test_convolution():
    piece, row = only(nn.Conv2d(8, 12, 3, 2, pad_mode="pad", padding=1), (2, 8, 9, 6))
    assert row.flops == 2 * (2 * 12 * 5 * 3) * 9 * 8 == 51840
    assert row.cube_flops == 2 * 32 * 9 * 16 * 16 == 147456  # 30 rows, 8 -> 12 channels
    assert row.bytes == piece.unfused == 2 * (2 * 8 * 54 + 2 * 12 * 15 + 12 * 8 * 9) == 4176
    assert (row.bound, row.time_s) == ("memory", pytest.approx(4176 / 1.2e12))
    assert row.intensity == pytest.approx(51840 / 4176)


def test_large_convolution_is_bound_by_the_matrix_unit():
    _, row = only(nn.Conv2d(256, 256, 3, pad_mode="pad", padding=1), (32, 256, 16, 16))
    assert row.flops == row.cube_flops == 2 * 32 * 256 * 9 * 256 * 256  # nothing to pad
    assert (row.bound, row.time_s) == ("cube", pytest.approx(row.flops / 256e12))


def test_dense():
    _, row = only(nn.Dense(20, 40), (3, 20))
    assert (row.flops, row.cube_flops) == (2 * 3 * 20 * 40, 2 * 16 * 32 * 48)
    assert row.bytes == 2 * (3 * 20 + 3 * 40 + 20 * 40)


def test_group_convolution_leaves_most_of_the_matrix_unit_empty():
    _, row = only(ShiftConv(64, 16, 3), (1, 144, 14, 14))  # 16 groups, each 9 -> 4 channels
    assert row.flops == 2 * 16 * 196 * 9 * 9 * 4
    assert row.cube_flops == 2 * 16 * 208 * 9 * 16 * 16  # 196 pixels are padded too
    assert row.bytes == 2 * (144 * 196 + 64 * 196 + 64 * 9 * 9)


def test_norms_and_activations():
    norm, row = only(nn.LayerNorm((6,)), (2, 7, 6))
    assert (norm.fused, norm.unfused, norm.vector, norm.flops) == (2 * 2 * 84, 2 * 2 * 84, 7 * 84, 0)
    assert row.time_s == pytest.approx(max(336 / 1.2e12, 588 / (32 * 64 * 1e9)))
    for cell in (nn.BatchNorm2d(4), nn.ReLU()):
        (piece,) = work(trace(cell, (3, 4, 5, 5)))
        assert (piece.fused, piece.unfused) == (0, 2 * 2 * 300)
        assert predict(cell, (3, 4, 5, 5)).rows == ()  # they ride on what is before them


def test_window_attention():
    net = WindowACmix(32, (4, 2), 2, mix="attention")
    pieces = {piece.kind: piece for piece in work(trace(net, (1, 8, 4, 32)), 3)}
    pixels, logits = 3 * 32, 3 * 4 * 2 * 8 * 8  # 4 windows of 8 tokens, 2 heads
    attention = pieces["attention"]
    assert attention.flops == 2 * 2 * 8 * 32 * pixels
    assert attention.cube == 2 * (3 * 4 * 2) * (16 * 16 * 16 + 16 * 16 * 16)  # 8 tokens fill half of each side
    assert attention.vector == 6 * logits
    assert attention.fused == 2 * 4 * 32 * pixels  # q, k, v, result
    assert attention.unfused == attention.fused + logits * (2 + (2 + 4) + 8 + 8 + (4 + 2) + 2)
    assert pieces["project"].fused == 2 * (32 * pixels + 96 * pixels + 32 * 96)
    assert pieces["move"].fused == 0


def test_neighbourhood_attention_multiplies_whole_halos():
    net = ACmix(64, 64, mix="attention")
    pieces = {piece.kind: piece for piece in work(trace(net, (1, 64, 14, 14)))}
    attention = pieces["attention"]
    assert attention.flops == 2 * 2 * 49 * 64 * 196  # 49 taps of each query
    # 4 heads, 4 blocks: 49 queries against 169 keys, 16 channels; then 169 keys for 16 channels.
    assert attention.cube == 2 * 16 * (64 * 16 * 176 + 64 * 176 * 16)
    assert attention.vector == 6 * 16 * 49 * 169
    assert attention.fused == 2 * 4 * 64 * 196
    project = pieces["project"]
    assert project.unfused - project.fused == 2 * 2 * 64 * 196  # unfused the input is read three times


@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [((56, 56), 1, 1), ((56, 56), 2, 1), ((7, 9), 1, 2), ((7, 5), 1, 1)]
)
def test_blocks_are_those_of_the_operator(size, stride, dilation):
    blocks, _, keys, bias, _ = _halo_plan(*size, 7, stride, dilation)
    assert _halo(size, 7, stride, dilation) == (blocks, *bias.shape)
    assert keys is None or len(keys) == blocks * bias.shape[1]


def test_shift_by_additions_is_vector_work():
    net = ACmix(16, 16, mix="conv", shift="tensor")
    (shift,) = (piece for piece in work(trace(net, (2, 16, 6, 6))) if piece.kind == "shift")
    assert (shift.flops, shift.cube, shift.vector) == (0, 0, 9 * 16 * 72)


# ----------------------------------------------------------------------------------------------------- whole networks
@pytest.mark.parametrize(
    "name", ["acmix_resnet_digits", "acmix_san_digits", "acmix_swin_digits", "swin_digits", "acmix_pvt_tiny"]
)
def test_totals_are_those_of_complexity(name):
    net, shape = create_model(name), (2, 3, 32, 32)
    calls, macs = trace(net, (1, *shape[1:])), complexity(net, shape).macs("A")
    pieces = work(calls, 2)
    assert sum(piece.flops for piece in pieces) == 2 * macs
    assert all(piece.cube >= piece.flops for piece in pieces)
    assert sum(piece.unfused for piece in pieces) > sum(piece.fused for piece in pieces)
    assert 2 * sum(piece.flops for piece in work(calls, 6)) == 6 * 2 * macs


def test_a_cell_that_declares_its_work():
    shape = (2, 3, 64, 64)
    net = create_model("botnet50")
    assert predict(net, shape).total("flops") == 2 * complexity(net, shape).macs("A")


class Residual(nn.Cell):
    """Two convolutions with a sum between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def construct(self, x):
        y = self.first(x)
        return self.second(y + x)


class Head(nn.Cell):
    """What a dense task has: a list of maps in, two lists out; it tells its work itself."""

    def construct(self, maps):
        return [each * 2 for each in maps], [each[:, :1] for each in maps]

    def work(self, given, out):
        assert given == ((2, 4, 8, 6), (2, 4, 4, 3)) and out[1] == ((2, 1, 8, 6), (2, 1, 4, 3))
        return [{"kind": "head", "macs": 100, "params": 3}]


class Detector(nn.Cell):
    """A pyramid of maps that are not square, from a Cell and from a function, and a head on all of them."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), Head()

    def construct(self, x):
        fine = self.stem(x)
        return self.head([fine, fine[:, :, ::2, ::2]])


def test_several_maps_of_any_size_go_in_and_out():
    conv, between, head = work(trace(Detector(), (1, 3, 8, 6)), 2)
    assert conv.macs == 2 * 4 * 3 * 48
    assert (between.kind, between.unfused) == ("between", 2 * 2 * 2 * 4 * 12)  # the coarse map alone
    maps = 2 * 4 * (48 + 12) * 2 + 2 * (48 + 12)  # in, and both lists out
    assert (head.macs, head.flops, head.cube, head.unfused) == (100, 200, 200, 2 * (maps + 3))
    assert complexity(Detector(), (2, 3, 8, 6)).macs() == conv.macs + 100
    assert predict(Detector(), (2, 3, 8, 6)).total("flops") == 2 * (conv.macs + 100)


def test_maps_that_are_not_square_cost_what_their_pixels_cost():
    wide, square = (complexity(create_model("acmix_resnet_digits"), (1, 3, *size)) for size in ((32, 128), (64, 64)))
    assert wide.macs() == square.macs()
    fused = create_model("acmix_pvt_tiny").set_train(False)
    flops = [predict(fused, (1, 3, *size)).total("flops") for size in ((64, 96), (96, 64))]
    assert flops[0] == flops[1] == 2 * complexity(fused, (1, 3, 64, 96)).macs()


def test_a_deploy_form_is_predicted_with_the_sizes_that_it_is_given():
    net = fuse(create_model("acmix_pvt_tiny").set_train(False))
    assert predict(net, (1, 3, 64, 64)).total("flops") == 2 * complexity(net, (1, 3, 64, 64)).macs()


def test_functions_between_cells_are_seen():
    pieces = work(trace(Residual(), (1, 4, 5, 5)), 2)
    assert [(piece.name, piece.kind) for piece in pieces] == [
        *(("first", "conv"), ("second", "between"), ("second", "conv")),
    ]
    assert (pieces[1].fused, pieces[1].unfused) == (0, 2 * 2 * 200)
    plain = nn.SequentialCell(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert "between" not in [piece.kind for piece in work(trace(plain, (2, 4, 5, 5)))]


def test_sums_and_speed():
    net = nn.SequentialCell(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1))
    found = {fusion: predict(net, (4, 16, 8, 8), fusion=fusion) for fusion in FUSIONS}
    assert [len(found[fusion].rows) for fusion in FUSIONS] == [2, 3]
    seconds = sum(row.time_s for row in found["unfused"].rows)
    assert found["unfused"].latency_ms == pytest.approx(1e3 * seconds)
    assert found["unfused"].fps == pytest.approx(4 / seconds)
    assert found["unfused"].fps < found["fused"].fps


def test_tracing_leaves_no_trace():
    runtime.start(mode="graph")
    net = nn.SequentialCell(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).set_train(True)
    assert trace(net, (1, 3, 8, 8)) == trace(net, (1, 3, 8, 8))  # no hook stayed behind
    assert net.training
    assert ms.get_context("mode") == ms.GRAPH_MODE


# ------------------------------------------------------------------------------------------------------ what is printed
def test_every_table_says_that_it_is_a_prediction():
    net = PatchwiseACmix(8, 8, share_channels=4, attn_kernel_size=3)
    shown = table(predict(net, (2, 8, 6, 6), model="mine"), heaviest=2)
    assert shown.startswith(f"mine on Ascend 910, fp16, batch 2, fused: {LABEL}\n")
    assert shown.rstrip().endswith(f"images/s ({LABEL})")
    text, data = report([("one", nn.Conv2d(3, 4, 3))], (1, 4), 16, heaviest=1)
    assert text.count(LABEL) == 1 + 2 * 2 * 2  # the title; two lines for each batch and convention
    assert "1.2 TB/s" in text and "https://" in text
    assert data == json.loads(json.dumps(data))
    assert data["label"] == LABEL and all(found["label"] == LABEL for found in data["predictions"])
    assert not [key for found in data["predictions"] for key in found if key in ("fps", "latency_ms")]


def test_twins():
    found = [predict(nn.Conv2d(3, 4, 3), (1, 3, side, side), model=name) for name, side in (("x", 8), ("acmix_x", 16))]
    (pair,) = twins(found)
    assert (pair["model"], pair["over"], pair["batch"]) == ("acmix_x", "x", 1)
    assert pair["predicted_ratio"] == pytest.approx(found[1].fps / found[0].fps)


def test_every_figure_of_a_device_has_its_source():
    for device in DEVICES.values():
        assert all("http" in source for source in device.sources)
        assert "fp32" not in device.cube  # not published


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "ascend91"}, "device='ascend91': no published peaks are known here, did you mean 'ascend910'"),
        ({"precision": "fp32"}, "precision='fp32': no peak of the Ascend 910 is published for it, choose fp16"),
        ({"fusion": "half"}, "fusion='half': choose from fused, unfused"),
        ({"shape": (0, 3, 8, 8)}, "batch=0"),
    ],
)
def test_what_cannot_be_predicted(options, message):
    with pytest.raises(UserError, match=message):
        predict(nn.Conv2d(3, 4, 3), **{"shape": (1, 3, 8, 8), **options})


# ------------------------------------------------------------------------------------------------------------- Table 5
class Maps(Backbone):
    """Four maps, as many convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 4)
        self.rest = nn.CellList([nn.Conv2d(width, width, 3, 2) for _ in range(3)])

    def construct(self, x):
        maps = (self.first(x),)
        for conv in self.rest:
            maps = (*maps, conv(maps[-1]))
        return maps


class Whole(nn.Cell):
    """A head of one convolution on the last map; wider for a name that says so."""

    def __init__(self, name: str):
        super().__init__()
        width = {"narrow": 16, "wide": 64}[name]
        self.backbone, self.head = Maps(width), nn.Conv2d(width, 32, 3)

    def construct(self, x):
        return self.head(self.backbone(x)[-1])


def test_table5():
    pairs = (Pair("narrow", "wide", 60.0, 40.0, "stated"), Pair("narrow", "narrow", 10.0, 10.0, "stated"))
    text, data = table5(Whole, 2, image_size=64, pairs=pairs)
    assert text.count(LABEL) == 1 and "paper" in text
    assert len(data["rows"]) == 2 * 2 * 2
    for row in data["rows"]:
        first, second = row["predicted_fps"]
        assert row["predicted_ratio"] == pytest.approx(first / second)
        assert row["paper_ratio"] == pytest.approx(1.5 if row["plain"] == "wide" else 1.0)
        assert row["predicted_ratio"] > 1 if row["plain"] == "wide" else row["predicted_ratio"] == 1
    for part, cell in (("backbone", Maps(16)), ("whole", Whole("narrow"))):
        (alone,) = (row for row in data["rows"][:4] if (row["part"], row["fusion"]) == (part, "fused"))
        assert alone["predicted_fps"][0] == pytest.approx(predict(cell, (2, 3, 64, 64)).fps)


def test_ratios_of_the_paper():
    assert [round(pair.ratio, 1) for pair in TABLE5] == [1.3, 1.8]
