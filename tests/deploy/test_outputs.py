"""Nets with several outputs, sizes that are not square, paths of any kind, and the forms of another device."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import nn, ops

from acmix_ms import runtime
from acmix_ms.config import DataConfig
from acmix_ms.data.preprocess import preprocess_of
from acmix_ms.deploy import (
    Description,
    NotFiniteError,
    Output,
    VerificationError,
    compare,
    compare_outputs,
    description,
    export,
    exporter,
    open_file,
    runner,
    verify,
)
from acmix_ms.errors import UserError
from acmix_ms.ops import ACmix, fold
from acmix_ms.ops.fuse import fuse_for_export, randomise
from tests.helpers.tiny import TinyNet

FORMATS = ["mindir", "onnx", "ms"]
SIZE = (24, 40)


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.start("CPU", "graph")


class Levels(nn.Cell):
    """Maps of two levels in a tuple, the first also read inside of the net, a vector, and a map of labels."""

    def __init__(self, labels: bool = True):
        super().__init__()
        self.first, self.second = (nn.Conv2d(c, 6, 3, stride=2, weight_init="he_uniform") for c in (3, 6))
        self.head, self.labels = nn.Dense(6, 5), labels

    def construct(self, x):
        high = self.first(x)
        low = self.second(high)
        vector = self.head(low.mean((2, 3)))
        return ((high, low), vector, high.argmax(1).astype(ms.int32)) if self.labels else ((high, low), vector)


def about(*names):
    outputs = tuple(Output(name, f"what {name} means") for name in names)
    postprocess = {"operation": "none of this version"}
    return Description(
        "levels", 5, preprocess_of(DataConfig()), outputs=outputs, task="detection", postprocess=postprocess
    )


def need(format):
    if exporter.unavailable(format):
        pytest.skip(exporter.unavailable(format))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("batch", [2, None])
def test_several_outputs_keep_their_names_in_every_format(tmp_path, capsys, format, batch):
    need(format)
    net, names = Levels(), ["high", "low", "vector", "labels"]
    path = export(net, format, tmp_path / f"net.{format}", image_size=SIZE, batch=batch, description=about(*names))
    told = capsys.readouterr().out
    assert all(f"{name} " in told for name in names) and "960 of 960 labels the same" in told
    images = np.random.default_rng(5).standard_normal((3, 3, *SIZE)).astype(np.float32)
    outputs = open_file(path).outputs(images)
    for name, expected in zip(names, runner.run_cell(net, images)):
        assert outputs[name].shape == expected.shape
        assert compare(outputs[name], expected).relative < 1e-5
    found = description.read(path)
    assert found.task == "detection" and found.postprocess["operation"] == "none of this version"
    assert [output.name for output in found.outputs] == names == list(found.verified.outputs)
    assert found.outputs[1] == Output("low", "what low means", (batch, 6, 6, 10))
    assert found.input_shape == (batch, 3, *SIZE)
    with pytest.raises(UserError, match="gives high .*, not logits .*: it is no classifier"):
        open_file(path)(images)
    if format == "onnx":
        assert [output.name for output in onnx.load(path).graph.output] == names


def test_one_wrong_output_of_several_is_told_by_its_name(tmp_path):
    net = Levels(labels=False)
    path = export(net, "onnx", tmp_path / "net.onnx", image_size=SIZE, description=about("high", "low", "vector"))
    net.head.bias.set_data(net.head.bias + 1)
    difference = verify(path, net, [np.ones((1, 3, *SIZE), np.float32)])
    assert difference.outputs["high"].within(1e-5) and not difference.outputs["vector"].within(1e-2)
    assert difference.relative == difference.outputs["vector"].relative and not difference.within(1e-2)
    assert str(difference).index("high ") < str(difference).index("vector ")
    with pytest.raises(ValueError, match="names 2 outputs, a Levels has 3"):
        export(net, "onnx", path, image_size=SIZE, description=about("high", "low"), force=True)


def test_float16_with_several_outputs(tmp_path):
    path = export(Levels(), "onnx", tmp_path / "net.onnx", image_size=SIZE, precision="fp16", tolerance=0.05)
    kinds = [values.dtype for values in open_file(path).outputs(np.ones((1, 3, *SIZE), np.float32)).values()]
    assert kinds == [np.float32, np.float32, np.float32, np.int32]


def test_labels_are_compared_by_their_share():
    expected = np.arange(100, dtype=np.int32).reshape(1, 10, 10)
    given = expected.copy()
    given[0, 0, :3] += 7
    difference = compare(given.astype(np.int64), expected)
    assert (difference.agreeing, difference.images) == (97, 100)
    assert difference.relative == pytest.approx(0.03) and str(difference) == "97 of 100 labels the same"
    with pytest.raises(VerificationError, match="gives float32, expected int32"):
        compare(given.astype(np.float32), expected)
    with pytest.raises(VerificationError, match="gives a, expected b"):
        compare_outputs({"a": given}, {"b": given})


class Overflowing(nn.Cell):
    def construct(self, x):
        return ops.exp(x.mean((2, 3)) * 1e4)


@pytest.mark.parametrize("format", ["mindir", "onnx"])
def test_nan_and_infinity_are_an_error_and_no_answer(tmp_path, format):
    path = tmp_path / f"net.{format}"
    export(Overflowing(), format, path, image_size=8, images=np.full((4, 3, 8, 8), -1e-4, np.float32))
    with pytest.raises(NotFiniteError, match=rf"net.{format} gives numbers that are not finite \(logits\)"):
        open_file(path)(np.ones((1, 3, 8, 8), np.float32))
    with pytest.raises(VerificationError, match="not finite.*it was removed"):
        export(
            Overflowing(), format, tmp_path / f"other.{format}", image_size=8, images=np.ones((4, 3, 8, 8), np.float32)
        )
    assert not (tmp_path / f"other.{format}").exists()


# ------------------------------------------------------------------------------------------------------------- paths
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["a b", "é", "c++", "日本", "'q'", "byte\udcff"])
def test_files_go_to_any_path(tmp_path, monkeypatch, format, name):
    need(format)
    if name != "a b" and format == "ms":
        pytest.skip("each costs seconds")
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    net = TinyNet()
    path = export(net, format, f"{name.replace(chr(0xDCFF), '')} net.{format}", image_size=32)
    assert [file.name for file in folder.iterdir()] == [path.name]
    if "\udcff" in name and format == "mindir":
        with pytest.raises(UserError, match="not UTF-8; rename it"):
            open_file(folder / path)
    else:
        assert verify(folder / path, net, [np.ones((1, 3, 32, 32), np.float32)]).relative < 1e-5


def test_a_plain_folder_is_needed_somewhere(tmp_path, monkeypatch):
    odd = tmp_path / "a b"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    with pytest.raises(UserError, match="TMPDIR=.*a b: .*set TMPDIR=/tmp"):
        export(TinyNet(), "mindir", odd / "net.mindir", image_size=32)


def test_an_output_that_names_a_folder_is_refused(tmp_path):
    for formats in (["onnx"], ["mindir", "onnx"]):
        for given in (str(tmp_path), f"{tmp_path}/new/"):
            with pytest.raises(UserError, match="is a folder: give the name of a file"):
                exporter.outputs(given, "net", formats)
    assert exporter.outputs(f"{tmp_path}/net.v2", "net", ["onnx"]) == [tmp_path / "net.v2.onnx"]
    assert exporter.outputs(f"{tmp_path}/net.onnx", "net", ["onnx"]) == [tmp_path / "net.onnx"]


def test_what_does_not_fit_into_memory_is_refused(tmp_path):
    with pytest.raises(UserError, match="--batch and --image-size: 1000000x3x32x32 numbers do not fit"):
        export(TinyNet(), "onnx", tmp_path / "net.onnx", image_size=32, batch=1000000)


# ----------------------------------------------------------------------------------------------------- another device
def test_the_target_chooses_the_forms_and_the_answers_stay(tmp_path):
    net = nn.SequentialCell(nn.Conv2d(3, 96, 1), randomise(ACmix(96, 96, num_heads=3)))
    forms = {}
    for target in ("CPU", "Ascend", "GPU"):
        fused = fuse_for_export(net, target)
        forms[target] = [cell.form for _, cell in fused.cells_and_names() if hasattr(cell, "form")]
        path = tmp_path / f"{target}.mindir"
        export(fused, "mindir", path, image_size=10, batch=2, reference=net, tolerance=1e-5)
    assert forms["CPU"] != forms["Ascend"]
    assert forms["CPU"] == [cell.form for _, cell in fuse_for_export(net).cells_and_names() if hasattr(cell, "form")]
    assert set(fold.COSTS) == {"CPU", "Ascend", "GPU"}
