"""analysis: every figure is written, shows its data, is of the right size, and survives short or odd data."""

import io
import math
import warnings

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from PIL import Image, ImageColor

from acmix_ms import ACmix
from acmix_ms.analysis import diagram, figures
from acmix_ms.errors import UserError

COLUMNS = "epoch,step,train_loss,lr,img_per_s,val_loss,val_top1,val_top5"


@pytest.fixture(autouse=True)
def _no_warning():
    # An empty axis, a NaN limit or a missing glyph is a warning of matplotlib first.
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        yield


def pixels_of(path, colour):
    """How many pixels of the picture have exactly this colour."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    return int((picture == ImageColor.getrgb(colour)).all(axis=-1).sum())


def assert_good_png(path, width):
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] == width
        assert 0.25 < picture.size[1] / width < 0.5


def write_log(path, rows):
    path.write_text("\n".join([COLUMNS, *rows]) + "\n")
    return path


def rows(count):
    return [f"{e},{e * 22},{2 / e},{0.1 / e},180,{2.5 / e},{100 - 50 / e},{100 - 10 / e}" for e in range(1, count + 1)]


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_curves_show_all_series(tmp_path, epochs):
    png = tmp_path / "new folder" / "curves.png"
    figures.plot_curves(write_log(tmp_path / "log.csv", rows(epochs)), png)
    assert_good_png(png, 1260)
    for colour in (figures.BLUE, figures.VERMILION, figures.GREEN, figures.PURPLE):
        assert pixels_of(png, colour) > 5


@pytest.mark.parametrize("values", ["1,22,2.3,0.1,180,,,", "1,22,nan,0.1,180,nan,nan,nan"])
def test_curves_without_validation_or_with_nan(tmp_path, values):
    png = tmp_path / "curves.png"
    figures.plot_curves(write_log(tmp_path / "log.csv", [values]), png)
    assert_good_png(png, 1260)
    assert pixels_of(png, figures.VERMILION) == 0  # nothing is drawn for what was not measured
    assert pixels_of(png, figures.PURPLE) > 5


def test_curves_name_the_best_epoch():
    assert figures._best([1, 2, 3], [90.0, 95.0, 95.0], True, 2) == "best 95.00 in epoch 2"
    assert figures._best([1, 2, 3], [90.0, -5.0, -5.0], False, 2) == "best -5.00 in epoch 2"
    assert figures._best([1], [math.nan], True, 2) == "not measured"
    assert figures._best([7], [0.4237], True, 3) == "best 0.424 in epoch 7"


def test_curves_know_no_metric_by_name(tmp_path):
    png, log = tmp_path / "curves.png", tmp_path / "log.csv"
    log.write_text("epoch,lr,train_loss,train_bbox,val_mAP\n1,0.1,2,1,0.3\n2,0.1,1,0.5,0.4\n")
    figures.plot_curves(log, png, {"val_mAP": "box mAP"})
    for colour in (figures.BLUE, figures.VERMILION, figures.GREEN, figures.PURPLE):  # loss, mAP, the box term, rate
        assert pixels_of(png, colour) > 5


def test_curves_of_an_empty_log_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv: no epoch"):
        figures.plot_curves(write_log(tmp_path / "log.csv", []), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "rates",
    [
        {"one layer": [(0.5, 0.5)]},
        {"zero and negative": [(0.0, 0.5), (-0.5, 0.1), (0.5, 0.0)]},
        {f"run {run}": [(0.5 + 0.1 * run, 0.5)] * 12 for run in range(8)},
    ],
)
def test_rates(tmp_path, rates):
    png = tmp_path / "rates.png"
    figures.plot_rates(rates, png)
    assert_good_png(png, 1260)
    assert pixels_of(png, figures.BLUE) > 5


@pytest.mark.parametrize(("layers", "epochs"), [(1, 1), (12, 3), (40, 300)])
def test_rate_history_has_a_line_for_each_layer(tmp_path, layers, epochs):
    png = tmp_path / "new folder" / "history.png"
    history = {f"layer {i}": [(e, 0.5 + i * e / 9000, -0.1 * i) for e in range(1, epochs + 1)] for i in range(layers)}
    figures.plot_rate_history(history, png)
    assert_good_png(png, 1260)
    assert pixels_of(png, "#440154") > 5  # the first layer is the darkest
    buffer = io.BytesIO()
    figures.plot_rate_history(history, buffer)
    assert buffer.getvalue() == png.read_bytes()


@pytest.mark.parametrize("history", [{}, {"plain network": []}])
def test_history_of_nothing_is_refused(history):
    with pytest.raises(UserError, match="no layer with learned rates"):
        figures.plot_rate_history(history, io.BytesIO())


@pytest.mark.parametrize("rates", [{}, {"plain network": []}])
def test_rates_of_nothing_are_refused(tmp_path, rates):
    with pytest.raises(UserError, match="no layer with learned rates"):
        figures.plot_rates(rates, tmp_path / "rates.png")


class Mixed(nn.Cell):
    """A layer with the official names of the rates and nothing else."""

    def __init__(self, **rates):
        super().__init__()
        for name, value in rates.items():
            setattr(self, name, Parameter(Tensor(np.array([value], np.float32)), name=name))


def test_rates_of_several_families_have_a_row_each(tmp_path):
    png = tmp_path / "figure5.png"
    runs = {"seed 0": [(0.2, 0.8), (0.9, 0.1)], "seed 1": [(0.3, 0.7), (0.8, 0.2)]}
    figures.plot_rates({"swin": runs, "san": runs, "plain": {"seed 0": []}}, png)
    with Image.open(png) as picture:
        assert picture.size == (1260, 768)  # two rows: the plain family has nothing to show
    assert pixels_of(png, figures.BLUE) > 5 < pixels_of(png, figures.VERMILION)
    with pytest.raises(UserError, match="nothing to draw"):
        figures.plot_rates({"swin": {"seed 0": []}}, png)


def test_ablations_show_a_bar_for_each_row(tmp_path):
    png = tmp_path / "ablations.png"
    row = {"table": "7", "label": "a row", "row": "sum", "top1_mean": 90.0, "top1_std": 1.5}
    records = [row, {**row, "row": "learned", "label": "another", "top1_std": None}]
    figures.plot_ablations(records, png, titles={"7": "Table 7"})
    assert png.stat().st_size < 200_000
    assert pixels_of(png, figures.BLUE) > 100 < pixels_of(png, figures.VERMILION)
    with pytest.raises(UserError, match="no run is finished"):
        figures.plot_ablations([], png, titles={})


def test_collect_rates_follows_the_layers():
    inner = nn.SequentialCell(Mixed(rate1=0.75))
    net = nn.SequentialCell(nn.Dense(2, 2), Mixed(rate1=0.25, rate2=0.5), Mixed(), inner, Mixed(rate1=-1, rate2=2))
    assert figures.collect_rates(net) == [("1", 0.25, 0.5), ("3.0", 0.75, 0.25), ("4", -1.0, 2.0)]
    assert figures.collect_rates(nn.Dense(2, 2)) == []


def test_collect_rates_of_the_real_operator():
    net = nn.SequentialCell(ACmix(8, 8), nn.ReLU(), ACmix(8, 8, mix="conv"))
    assert figures.collect_rates(net) == [("0", 0.5, 0.5)]
    assert figures.collect_rates(nn.SequentialCell(ACmix(8, 8, mix="alpha_one"))) == [("0", 0.5, 1.0)]


def test_operator(tmp_path):
    png = tmp_path / "docs" / "operator.png"
    diagram.draw_operator(png)
    assert_good_png(png, 1500)
    for part in (diagram.SHARED, diagram.ATTENTION, diagram.CONVOLUTION, diagram.SUM):
        assert pixels_of(png, part[0]) > 100
