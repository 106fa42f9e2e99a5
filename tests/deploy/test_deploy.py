"""Exported files compute what the model computes, or are not there."""

from __future__ import annotations

import json
import re

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import nn, ops

from acmix_ms import runtime
from acmix_ms.config import DataConfig
from acmix_ms.data.digits import MEAN
from acmix_ms.data.preprocess import preprocess_of
from acmix_ms.deploy import (
    Description,
    VerificationError,
    check_format,
    check_output,
    compare,
    description,
    export,
    open_file,
    verify,
)
from acmix_ms.errors import UserError
from acmix_ms.ops import PatchwiseACmix
from acmix_ms.ops.fuse import fuse_for_export, randomise
from models import create_model
from models.competitors import AugmentedConv
from models.deit import VisionTransformer
from models.layers import Mlp
from models.pvt import PyramidVisionTransformer
from models.resnet import ResNet
from models.swin import SwinTransformer
from tests.helpers.tiny import Restless, TinyNet


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.start("CPU", "graph")


@pytest.mark.parametrize(("batch", "sizes"), [(2, [2]), (None, [1, 3])])
def test_export_is_verified_and_complete(tmp_path, capsys, batch, sizes):
    net = TinyNet()
    net.set_train(True)  # export must not keep batch norm in training
    path = export(net, "mindir", tmp_path / "net.mindir", image_size=32, batch=batch)
    assert [p.name for p in tmp_path.iterdir()] == ["net.mindir"]
    assert f"batch {sizes[-1]}: largest difference 0 absolute" in capsys.readouterr().out
    images = np.random.default_rng(1).standard_normal((sizes[-1], 3, 32, 32)).astype(np.float32)
    assert verify(path, net, [images]).relative < 1e-6
    net.set_train(False)
    graph = nn.GraphCell(ms.load(str(path)))
    assert np.allclose(graph(ms.Tensor(images)).asnumpy(), net(ms.Tensor(images)).asnumpy(), atol=1e-5)


def test_verify_sees_other_weights(tmp_path):
    path = export(TinyNet(), "mindir", tmp_path / "net.mindir", image_size=32)
    difference = verify(path, TinyNet(), [np.ones((1, 3, 32, 32), np.float32)])
    assert difference.relative > 1e-2
    assert difference.absolute > 1e-3


def test_a_file_that_differs_is_removed(tmp_path):
    with pytest.raises(VerificationError, match="differs by"):
        export(Restless(), "mindir", tmp_path / "net.mindir", image_size=8)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_does_not_replace_the_one_before(tmp_path):
    path = tmp_path / "net.mindir"
    path.write_bytes(b"before")
    with pytest.raises(VerificationError):
        export(Restless(), "mindir", path, image_size=8, force=True)
    assert path.read_bytes() == b"before"


def test_existing_output_needs_force(tmp_path):
    path = tmp_path / "net.mindir"
    path.write_bytes(b"before")
    with pytest.raises(UserError, match="exists already.*--force"):
        export(TinyNet(), "mindir", path, image_size=32)
    assert path.read_bytes() == b"before"
    export(TinyNet(), "mindir", path, image_size=32, force=True)
    assert path.stat().st_size > 1000


def test_outputs_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write there"):
        check_output(tmp_path / "file" / "net.mindir")
    with pytest.raises(UserError, match="is a folder"):
        check_output(tmp_path)


def test_formats():
    check_format("mindir")
    with pytest.raises(UserError, match="--format mindri: did you mean 'mindir'"):
        check_format("mindri")
    with pytest.raises(UserError, match="AIR|air.*needs an Ascend host"):
        check_format("air")


@pytest.mark.parametrize("format", ["mindir", "onnx"])
@pytest.mark.parametrize("batch", [5, None])
def test_a_file_tells_what_it_takes_and_answers_any_number_of_images(tmp_path, format, batch):
    net = TinyNet()
    answers = open_file(export(net, format, tmp_path / f"net.{format}", image_size=32, batch=batch))
    assert answers.input_shape == (batch, 3, 32, 32)
    answers.check_size(32)
    with pytest.raises(UserError, match="takes images of 32x32 pixels.*data.image_size=64.*--image-size 64"):
        answers.check_size(64)
    images = np.random.default_rng(2).standard_normal((7, 3, 32, 32)).astype(np.float32)
    assert np.allclose(answers(images), net(ms.Tensor(images)).asnumpy(), atol=1e-5)
    with pytest.raises(UserError, match="takes images of 3x32x32, not 3x16x16"):
        answers(images[:, :, :16, :16])


def test_a_file_that_takes_no_images_is_named(tmp_path):
    path = tmp_path / "dense.mindir"
    ms.export(nn.Dense(5, 3), ms.Tensor(np.zeros((2, 5), np.float32)), file_name=str(path), file_format="MINDIR")
    with pytest.raises(UserError, match="dense.mindir takes 2x5, not images"):
        open_file(path)


@pytest.mark.parametrize("format", ["mindir", "onnx"])
def test_files_that_cannot_be_loaded_are_named(tmp_path, format):
    images = [np.ones((1, 3, 32, 32), np.float32)]
    path = tmp_path / f"net.{format}"
    with pytest.raises(UserError, match=f"net.{format} does not exist"):
        verify(path, TinyNet(), images)
    path.write_text("text " * 100)
    with pytest.raises(UserError, match=f"net.{format} cannot be loaded"):
        verify(path, TinyNet(), images)
    export(TinyNet(), format, path, image_size=32, force=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"net.{format} cannot be loaded"):
        open_file(path)
    with pytest.raises(UserError, match="unknown ending '.pb'"):
        open_file(tmp_path / "net.pb")


def test_an_encrypted_mindir_is_named(tmp_path):
    path, example = tmp_path / "net.mindir", ms.Tensor(np.zeros((1, 3, 32, 32), np.float32))
    secret = {"enc_key": b"0123456789abcdef", "enc_mode": "AES-GCM"}
    ms.export(TinyNet().set_train(False), example, file_name=str(path), file_format="MINDIR", **secret)
    with pytest.raises(UserError, match="net.mindir cannot be loaded as MINDIR, it is truncated, encrypted"):
        open_file(path)


def test_another_model_is_told(tmp_path):
    path = export(TinyNet(7), "onnx", tmp_path / "net.onnx", image_size=32)
    with pytest.raises(VerificationError, match=r"net.onnx gives shape \(1, 7\), expected \(1, 10\): is it another"):
        verify(path, TinyNet(10), [np.ones((1, 3, 32, 32), np.float32)])


@pytest.mark.parametrize("form", ["sliding", "window"])
def test_half_precision_is_smaller_and_close(tmp_path, capsys, form):
    net, sizes = randomise(FORMS[form]()), {}
    for precision in ("fp32", "fp16"):
        path = export(net, "onnx", tmp_path / f"{precision}.onnx", image_size=32, precision=precision)
        sizes[precision] = path.stat().st_size
        (difference,) = re.findall(r"absolute, (\S+) of the largest", capsys.readouterr().out)
        assert float(difference) < (1e-5 if precision == "fp32" else 1e-2)
    assert sizes["fp16"] < (0.6 if form == "sliding" else 0.9) * sizes["fp32"]  # the masks of windows are no weights
    assert {value.dtype for value in net.get_parameters()} == {ms.float32}, "the net itself stays as it is"


def test_a_size_is_left_open_where_the_net_allows_it(tmp_path):
    net = create_model("resnet_digits", num_classes=10).set_train(False)
    for format in ("mindir", "onnx"):
        answers = open_file(export(net, format, tmp_path / f"net.{format}", image_size=None, batch=None))
        for side in (32, 41):
            images = np.random.default_rng(3).standard_normal((2, 3, side, side)).astype(np.float32)
            assert compare(answers(images), net(ms.Tensor(images)).asnumpy()).relative < 1e-5
    with pytest.raises(UserError, match="--image-size dynamic: a ResNet with attention is made for one size"):
        export(create_model("acmix_resnet_digits"), "onnx", tmp_path / "other.onnx", image_size=None)


def augmented(stage, channels, stride):
    return AugmentedConv(channels, 8, stride, num_heads=2)


SMALL = {"dims": (16, 16, 32, 32), "num_heads": (1, 1, 2, 2), "mlp_ratios": (2, 2, 2, 2)}
# One of each form that has something special in ONNX: halo blocks, windows and rolls and padding, class token and
# reduction, global attention, patchwise weights, relative positions. The models are as these, only larger.
FORMS = {
    "sliding": lambda: create_model("acmix_resnet_digits", num_classes=10),
    "patchwise": lambda: PatchwiseACmix(16, 16, attn_kernel_size=5),
    "window": lambda: SwinTransformer((1, 2, 1, 1), 10, dim=8, num_heads=(1, 2, 2, 2), window_size=3, operator={}),
    "reduction": lambda: PyramidVisionTransformer((1, 1, 1, 1), 10, operator={}, image_size=32, **SMALL),
    "global": lambda: VisionTransformer(10, depth=1, dim=32, num_heads=2, operator={"shift": "tensor"}),
    "augmented": lambda: ResNet((1, 1, 1, 1), 10, widths=(8, 16, 16, 16), operator=augmented),
}


@pytest.mark.parametrize("form", ["sliding", "window"])
def test_a_mindir_for_any_batch_computes_the_same(tmp_path, form):
    net = randomise(FORMS[form]())
    export(net, "mindir", tmp_path / "net.mindir", image_size=40, batch=None, tolerance=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_written_as_onnx_for_any_batch(tmp_path, form):
    net = randomise(FORMS[form]())
    net = nn.SequentialCell(nn.Conv2d(3, 16, 1), net, Pool()) if form == "patchwise" else net
    options = {"image_size": 40, "batch": None, "reference": net, "tolerance": 1e-5}
    path = export(fuse_for_export(net), "onnx", tmp_path / "net.onnx", **options)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"Softsign", "ReduceSumSquare", "Expand"}
    assert ("Erf" in kinds) == (form in ("window", "reduction", "global"))


class Pool(nn.Cell):
    def construct(self, x):
        return x.mean((2, 3))


def test_an_operator_without_onnx_form_is_named(tmp_path):
    class Sine(nn.Cell):
        def construct(self, x):
            return ops.asinh(x).mean((2, 3))

    with pytest.raises(UserError, match="--format onnx: .*Asinh.* Give --format mindir"):
        export(Sine(), "onnx", tmp_path / "net.onnx", image_size=8)
    assert list(tmp_path.iterdir()) == []


def test_each_format_gets_a_graph_of_its_own(tmp_path):
    """MindSpore keeps the graph of a Cell: that of a MINDIR must not become ONNX, nor one become another twice."""
    net = nn.SequentialCell(nn.Conv2d(3, 4, 3), Pool(), Mlp(4, 8))
    for name in ("a.mindir", "b.onnx", "c.onnx"):
        export(net, name[2:], tmp_path / name, image_size=32, tolerance=1e-5)


def test_a_description_lies_beside_the_file(tmp_path):
    path = tmp_path / "net.onnx"
    about = Description("tiny_net", 10, preprocess_of(DataConfig()), tuple("0123456789"))
    export(TinyNet(), "onnx", path, image_size=32, batch=None, description=about)
    values = json.loads((tmp_path / "net.onnx.json").read_text())
    assert (values["model"], values["format"], values["precision"]) == ("tiny_net", "onnx", "fp32")
    assert values["input"] == {"shape": [None, 3, 32, 32], "dtype": "float32", "layout": "NCHW", "colors": "RGB"}
    assert values["preprocess"]["mean"] == 3 * [MEAN]
    assert values["verified"]["logits"]["relative"] < 1e-5
    found = description.read(path)
    assert (found.classes, found.preprocess, found.input_shape) == (about.classes, about.preprocess, (None, 3, 32, 32))

    export(TinyNet(), "onnx", path, image_size=32, force=True)
    with pytest.raises(UserError, match="net.onnx.json, which export.py writes beside the file, is not there"):
        description.read(path)
    for text in ("{", "[]", "{}", '{"preprocess": {"size": 3}}'):
        (tmp_path / "net.onnx.json").write_text(text)
        with pytest.raises(UserError, match="net.onnx.json is (not what export.py writes|damaged)"):
            description.read(path)
