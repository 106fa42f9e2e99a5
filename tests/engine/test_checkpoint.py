"""Checkpoints: whole or not at all, readable by MindSpore alone, and every doubtful file named."""

from __future__ import annotations

import os
import shutil

import mindspore as ms
import numpy as np
import pytest
import safetensors.numpy
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.engine import checkpoint
from acmix_ms.engine.evaluation import build_predictor
from acmix_ms.errors import UserError
from tests.helpers.tiny import TinyNet


@pytest.fixture
def net():
    return TinyNet()


@pytest.fixture
def saved(net, tmp_path):
    path = tmp_path / "last.ckpt"
    state = {"optimizer.moments.fc.weight": np.ones((10, 32), np.float32), "optimizer.state_step": np.float32(7)}
    checkpoint.save(path, net.parameters_dict(), state, {"epoch": 3, "model": "tiny_net"})
    return path


def values(net):
    return {name: parameter.asnumpy().copy() for name, parameter in net.parameters_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_round_trip(net, saved):
    loaded = checkpoint.read(saved)
    assert same(loaded.weights, values(net))
    assert loaded.meta["epoch"] == 3
    assert loaded.state["optimizer.state_step"] == 7
    assert loaded.state["optimizer.state_step"].shape == ()
    assert loaded.state["optimizer.moments.fc.weight"].shape == (10, 32)
    other = TinyNet()
    assert checkpoint.load_weights(other, saved)["model"] == "tiny_net"
    assert same(values(other), values(net))


def test_the_checksum_covers_names_types_shapes_values_and_what_is_said():
    zeros = np.zeros((2, 3), np.float32)
    entries = [{"a": zeros}, {"b": zeros}, {"a": zeros.T}, {"a": zeros.view(np.int32)}, {"a": zeros + 1}]
    found = [checkpoint._checksum(each, {}) for each in entries] + [checkpoint._checksum(entries[0], {"epoch": 1})]
    assert len(set(found)) == len(found)


def test_plain_mindspore_reads_it(net, saved):
    other = TinyNet()
    missing, _ = ms.load_param_into_net(other, ms.load_checkpoint(str(saved)))
    assert missing == []
    assert same(values(other), values(net))


def test_weights_reach_a_graph_that_has_run(net, saved):
    runtime.start(mode="graph")
    other = TinyNet()
    predict = build_predictor(other)
    other.set_train(False)
    images = ms.Tensor(np.ones((1, 3, 32, 32), np.float32))
    predict(images).asnumpy()
    checkpoint.load_weights(other, saved)
    runtime.start(mode="pynative")
    net.set_train(False)
    assert np.allclose(predict(images).asnumpy(), net(images).asnumpy(), atol=1e-5)


def test_files_of_plain_mindspore_and_safetensors_load(net, tmp_path):
    ms.save_checkpoint(net, str(tmp_path / "plain.ckpt"), append_dict={"epoch": 3, "note": "text"}, crc_check=True)
    loaded = checkpoint.read(tmp_path / "plain.ckpt")
    assert loaded.meta == {}
    assert same({name: loaded.weights[name] for name in values(net)}, values(net))
    safetensors.numpy.save_file(values(net), tmp_path / "plain.safetensors")
    other = TinyNet()
    checkpoint.load_weights(other, tmp_path / "plain.safetensors")
    assert same(values(other), values(net))


def test_a_failed_write_leaves_the_old_file(net, saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        checkpoint.save(saved, TinyNet().parameters_dict())
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


def test_the_old_file_is_there_until_the_new_one_is_whole(net, saved, monkeypatch):
    before, seen = saved.read_bytes(), []
    replace = os.replace

    def watched(source, target):
        seen.append((saved.read_bytes() == before, checkpoint.read(source).meta["epoch"]))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    checkpoint.save(saved, net.parameters_dict(), meta={"epoch": 4})
    assert seen == [(True, 4)]
    assert checkpoint.read(saved).meta["epoch"] == 4


def boundaries(path):
    """Byte positions between the entries of a .ckpt file."""
    positions, data, position = [], path.read_bytes(), 0
    while position < len(data):
        shift = length = 0
        position += 1
        while True:
            byte = data[position]
            length |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                break
        position += length
        positions.append(position)
    assert position == len(data)
    return positions


def error(net, path):
    before = values(net)
    with pytest.raises(UserError) as raised:
        checkpoint.load_weights(net, path)
    assert str(path) in str(raised.value)
    assert same(before, values(net)), "a refused file must not change the net"
    return str(raised.value)


def test_every_cut_is_noticed(net, saved, tmp_path):
    data, cuts = saved.read_bytes(), boundaries(saved)
    path = tmp_path / "cut.ckpt"
    # at every boundary, beside it, and at points all over the file
    points = {point for cut in cuts[:-1] for point in (cut - 1, cut, cut + 1, cut + 5)}
    points |= set(range(1, len(data) - 1, len(data) // 40)) | {len(data) - 1}
    for point in sorted(points):
        path.write_bytes(data[:point])
        message = error(net, path)
        assert "truncated" in message or "damaged" in message, (point, message)


def test_cut_file_of_plain_mindspore_is_noticed(net, tmp_path):
    path = tmp_path / "plain.ckpt"
    ms.save_checkpoint(net, str(path))
    cuts, data = boundaries(path), path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[: cuts[3]])
    assert "lacks" in error(net, path)
    assert "cut short" in error(net, path)
    path.write_bytes(data[: cuts[3] + 9])
    assert "is truncated after 4 entries" in error(net, path)


def test_a_flipped_bit_is_noticed(net, saved):
    data = bytearray(saved.read_bytes())
    for position in (len(data) // 3, len(data) // 2, len(data) - 5):
        changed = data.copy()
        changed[position] ^= 1
        saved.write_bytes(changed)
        assert "damaged" in error(net, saved)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ckpt", b"", "is empty"),
        ("a.ckpt", b"epoch: 3\n" * 50, "is not a checkpoint"),
        ("a.ckpt", b"\n" + b"text that begins with an empty line\n" * 50, "is not a checkpoint"),
        ("a.ckpt", bytes(range(256)) * 9, "is not a checkpoint"),
        ("a.ckpt", b"PK\x03\x04" + bytes(400), "convert_torch"),
        ("a.safetensors", b"text" * 50, "is not a safetensors file"),
    ],
)
def test_foreign_files_are_named(net, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert words in error(net, path)


def test_truncated_safetensors_is_named(net, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(values(net), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in error(net, path)


@pytest.fixture
def published(net, tmp_path):
    """The weights as a .safetensors file with a description."""
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, net.parameters_dict(), {"rate": np.float32(0.5)}, {"model": "tiny_net"})
    return path


def test_safetensors_round_trip(net, published):
    loaded = checkpoint.read(published)
    assert same(loaded.weights, values(net))
    assert loaded.state["rate"] == 0.5
    assert loaded.state["rate"].shape == ()
    assert loaded.meta == {"model": "tiny_net", "format_version": checkpoint.FORMAT_VERSION}
    others = safetensors.numpy.load_file(published)  # the weights have plain names for other readers
    assert same({name: others[name] for name in values(net)}, values(net))
    assert [path.name for path in published.parent.iterdir()] == [published.name]
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not in the order that the format wants
    checkpoint.save(published, {"a": transposed})
    assert np.array_equal(checkpoint.read(published).weights["a"], transposed)


def test_damaged_safetensors_are_noticed(net, published):
    data = published.read_bytes()
    for point in (0, 5, 30, len(data) // 2, len(data) - 1):
        published.write_bytes(data[:point])
        message = error(net, published)
        assert "truncated" in message or "not a safetensors file" in message, point
    for position in (len(data) // 2, len(data) - 5, data.index(b"tiny_net")):
        changed = bytearray(data)
        changed[position] ^= 1
        published.write_bytes(changed)
        assert "damaged" in error(net, published)


def test_a_failed_write_leaves_the_old_safetensors(published, monkeypatch):
    before = published.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        checkpoint.save(published, {"a": np.ones(3)})
    assert published.read_bytes() == before
    assert [path.name for path in published.parent.iterdir()] == [published.name]


def test_missing_file_and_folder_are_named(net, tmp_path):
    assert "does not exist" in error(net, tmp_path / "none.ckpt")
    assert "is a folder" in error(net, tmp_path)


def test_other_class_count_names_both(saved):
    message = error(TinyNet(num_classes=7), saved)
    assert "has 10 classes, the model 7" in message
    assert "num_classes=10" in message


def test_other_architecture_is_named(saved):
    assert "architecture" in error(nn.Dense(4, 10), saved)
    assert "tiny_net" in error(nn.Dense(4, 10), saved)
    wider = error(TinyNet(width=24), saved)
    assert "architecture" in wider
    assert "other shapes" in wider


def test_newer_format_is_named(net, saved, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 99)
        checkpoint.save(saved, net.parameters_dict())
    assert "has format 99" in error(net, saved)


def test_a_copy_is_the_same_checkpoint(net, saved, tmp_path):
    shutil.copy(saved, tmp_path / "copy.ckpt")
    assert checkpoint.load_weights(net, tmp_path / "copy.ckpt")["epoch"] == 3
