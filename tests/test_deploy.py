"""Exported files compute what the model computes, or are not there."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from tiny import Restless, TinyNet

from acmix_ms import runtime
from acmix_ms.config import DataConfig
from acmix_ms.deploy import VerificationError, check_format, check_output, export, mindir, verify
from acmix_ms.errors import UserError


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


@pytest.mark.parametrize(("batch", "expected"), [(5, 5), (None, 64)])
def test_a_file_tells_what_it_takes(tmp_path, batch, expected):
    path = export(TinyNet(), "mindir", tmp_path / "net.mindir", image_size=32, batch=batch)
    assert mindir.input_shapes(path) == [(batch, 3, 32, 32)]
    data = DataConfig(batch_size=64, image_size=32)
    fitting = mindir.data_for(path, data)
    assert (fitting.batch_size, data.batch_size) == (expected, 64)
    with pytest.raises(UserError, match="takes images of 32x32 pixels.*data.image_size=64.*--image-size 64"):
        mindir.data_for(path, DataConfig(image_size=64))


def test_a_file_that_takes_no_images_is_named(tmp_path):
    path = tmp_path / "dense.mindir"
    ms.export(nn.Dense(5, 3), ms.Tensor(np.zeros((2, 5), np.float32)), file_name=str(path), file_format="MINDIR")
    with pytest.raises(UserError, match="dense.mindir takes 2x5, not images"):
        mindir.data_for(path, DataConfig())


def test_files_that_are_no_mindir_are_named(tmp_path):
    images = [np.ones((1, 3, 32, 32), np.float32)]
    with pytest.raises(UserError, match="none.mindir does not exist"):
        verify(tmp_path / "none.mindir", TinyNet(), images)
    (tmp_path / "text.mindir").write_text("text " * 100)
    with pytest.raises(UserError, match="text.mindir cannot be loaded"):
        verify(tmp_path / "text.mindir", TinyNet(), images)
