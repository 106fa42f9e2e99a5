"""Files of MindSpore are read in Python: whatever is wrong in one is an error, and never the end of the process."""

from __future__ import annotations

import itertools
import json
import random
import struct

import mindspore as ms
import numpy as np
import pytest
import safetensors.numpy
from mindspore.train import serialization

from acmix_ms.engine import checkpoint, ckpt_file
from acmix_ms.errors import UserError

ARRAYS = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1) - 3,
    "conv.bias": np.array([0.5, -2], np.float32),
    "mask": np.array([True, False, True]),
    "steps": np.array(70_000, np.int64),
}
TYPES = [
    *("bool_", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "bfloat16"),
]


def same(a, b):
    """Bitwise, the names in order."""
    return list(a) == list(b) and all(alike(a[name], b[name]) for name in a)


def alike(a, b):
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def plain(path, arrays, **options):
    ms.save_checkpoint(
        [{"name": name, "data": ms.Tensor(value)} for name, value in arrays.items()], str(path), **options
    )
    path.chmod(0o644)
    return path


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "ours.ckpt"
    checkpoint.save(path, ARRAYS, {"optimizer.moment": np.ones(2, np.float32)}, {"epoch": 3, "model": "tiny"})
    return path


def refused(path):
    with pytest.raises(UserError) as raised:
        checkpoint.read(path)
    message = str(raised.value)
    assert str(path) in message and message.isprintable() and len(message) < 400 + len(str(path))
    return message


def everything(found):
    return {**found.weights, **{f"state {name}": value for name, value in found.state.items()}}


def damages(data, seed, count):
    """Bytes changed, lost, doubled and put elsewhere."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        start, length = draw.randrange(len(data)), draw.randrange(1, 9)
        kind = draw.randrange(4)
        if kind == 0:
            changed[start : start + length] = draw.randbytes(length)
        elif kind == 1:
            del changed[start : start + length]
        elif kind == 2:
            changed[start:start] = changed[start : start + draw.randrange(1, 80)]
        else:
            changed[start] = draw.choice((0, 1, 2, 8, 10, 18, 26, 127, 128, 255))
        if changed != data:
            yield bytes(changed)


# What MindSpore writes


@pytest.mark.parametrize("sliced", [False, True])
def test_every_type_is_read_as_mindspore_reads_it(tmp_path, monkeypatch, sliced):
    values = np.random.default_rng(0).integers(0, 2**16, (64, 9, 5))
    entries = [
        {"name": name, "data": ms.Tensor(values % 2 if name == "bool_" else values).astype(getattr(ms, name))}
        for name in TYPES
    ]
    entries += [{"name": f"{name}.scalar", "data": ms.Tensor(3, getattr(ms, name))} for name in TYPES]
    if sliced:
        monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # in KB: of 1 to 23 entries each
    path = tmp_path / "a.ckpt"
    ms.save_checkpoint(
        entries, str(path), append_dict={"epoch": 3, "rate": 0.1, "done": True, "note": "tëxt", "no": ""}
    )
    expected = {
        name: value.asnumpy() for name, value in ms.load_checkpoint(str(path)).items() if not isinstance(value, str)
    }
    assert len(expected) == 2 * len(TYPES) + 3
    assert same(ckpt_file.read(path), expected)
    assert path.read_bytes().count(b"float64\x12") == (23 if sliced else 1)


def test_a_scalar_of_old_versions_is_one(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(entry("a", [0], "Float32", struct.pack("<f", 2.5)))
    found = ckpt_file.read(path)["a"]
    assert found.shape == ms.load_checkpoint(str(path))["a"].shape == () and found == 2.5


def test_values_can_be_changed_and_outlive_the_file(tmp_path):
    path = plain(tmp_path / "a.ckpt", ARRAYS)
    found = ckpt_file.read(path)
    path.unlink()
    assert all(value.flags.writeable and value.flags.aligned for value in found.values())


def test_the_crc_of_mindspore_is_looked_at(tmp_path):
    path = plain(tmp_path / "a.ckpt", ARRAYS, crc_check=True, append_dict={"note": "text"})
    data = bytearray(path.read_bytes())
    assert same(ckpt_file.read(path), ARRAYS)
    for position in (data.index(ARRAYS["conv.weight"].tobytes()) + 20, len(data) - 1, len(data) - 9):
        data[position] ^= 4
        path.write_bytes(data)
        assert "CRC does not match" in refused(path)
        data[position] ^= 4
    path.write_bytes(data[:-1])
    assert "damaged" in refused(path)


def test_an_encrypted_file_is_named(tmp_path):
    path = plain(tmp_path / "a.ckpt", ARRAYS, enc_key=b"0123456789ABCDEF", enc_mode="AES-GCM")
    assert "is encrypted" in refused(path)


# Damage


def flips(data):
    """With one bit changed, every bit."""
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def passing(path, damaged):
    """How many of the damaged files are read; what is read of them must be what was saved."""
    whole, passed = everything(checkpoint.read(path)), 0
    for content in damaged:
        path.write_bytes(content)
        try:
            found = everything(checkpoint.read(path))
        except UserError:
            continue
        assert found.keys() == whole.keys() and all(alike(found[name], whole[name]) for name in found), content
        passed += 1
    return passed


def test_no_flipped_bit_passes(ours):
    assert passing(ours, list(flips(ours.read_bytes()))) == 0


def test_no_cut_and_no_other_damage_passes(ours):
    data = ours.read_bytes()
    assert passing(ours, [data[:point] for point in range(len(data))]) == 0
    ours.write_bytes(data)
    assert passing(ours, damages(data, 1, 500)) < 5  # white space in the description for other


def test_damage_in_files_of_plain_mindspore_never_changes_the_structure(tmp_path):
    """Their values have no checksum; names, types, shapes and sizes agree, or the file is refused."""
    path = plain(tmp_path / "a.ckpt", ARRAYS)
    data = path.read_bytes()
    for changed in flips(data):
        path.write_bytes(changed)
        try:
            found = ckpt_file.read(path)
        except UserError:
            continue
        differing = [name for name in ARRAYS if name not in found or not alike(found[name], ARRAYS[name])]
        assert len(differing) == 1 and len(found) == len(ARRAYS), changed
        (name,) = differing
        if name in found:  # a bit of its values; or one dimension, where that is the same number of bytes
            assert found[name].dtype == ARRAYS[name].dtype and found[name].nbytes == ARRAYS[name].nbytes, changed
        else:
            (other,) = set(found) - set(ARRAYS)
            assert alike(found[other], ARRAYS[name]), changed
    for changed in damages(data, 2, 500):
        path.write_bytes(changed)
        try:
            found = ckpt_file.read(path)
        except UserError:
            continue
        assert sum(value.nbytes for value in found.values()) <= len(changed)
    for point in range(len(data)):
        path.write_bytes(data[:point])
        try:
            found = ckpt_file.read(path)  # cut between two entries: what is missing only a net tells
        except UserError:
            continue
        assert 0 < len(found) < len(ARRAYS) and all(alike(found[name], ARRAYS[name]) for name in found)


def test_no_damage_to_safetensors_passes(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, ARRAYS, {"optimizer.moment": np.ones(2, np.float32)}, {"epoch": 3})
    data = path.read_bytes()
    cuts = [data[:point] for point in range(len(data))]
    passed = passing(path, [*itertools.islice(flips(data), 0, None, 3), *damages(data, 3, 500), *cuts])
    assert passed < 100  # white space, and the description in other words


# What nobody writes by mistake


def field(key, data):
    return bytes([key]) + number(len(data)) + data


def number(value):
    out = []
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def entry(name, dims, kind, content):
    name = name.encode() if isinstance(name, str) else name
    tensor = b"".join(b"\x08" + number(size) for size in dims) + field(0x12, kind.encode()) + field(0x1A, content)
    return field(0x0A, field(0x0A, name) + field(0x12, tensor))


FLOATS = np.ones(6, np.float32).tobytes()
GOOD = entry("good", [2, 3], "Float32", FLOATS)


@pytest.mark.parametrize(
    ("data", "words"),
    {
        "short": (entry("a", [2, 3], "Float32", FLOATS[:-4]), "has 20 bytes"),
        "empty": (entry("a", [2, 3], "Float32", b""), "has 0 bytes"),
        "long": (entry("a", [2, 3], "Float32", FLOATS * 2), "has 48 bytes"),
        "relabelled": (entry("a", [2, 3], "Float64", FLOATS), "Float64"),
        "unknown type": (entry("a", [2, 3], "Float31", FLOATS), "type Float31"),
        "four bits": (entry("a", [2, 3], "Int4", FLOATS[:6]), "type Int4"),
        "huge": (entry("a", [1 << 40, 3], "Float32", FLOATS), "1099511627776"),
        "overflow": (entry("a", [1 << 62, 4], "Float32", b""), "has 0 bytes"),
        "nothing, huge": (entry("a", [0, 1 << 62, 1 << 62], "Float32", b""), "has 0 bytes"),
        "negative": (entry("a", [(1 << 64) - 6], "Float32", FLOATS), "negative"),
        "rank": (entry("a", [1] * 33, "Float32", FLOATS[:4]), "no tensor"),
        "twice": (GOOD + entry("good", [6], "Float32", FLOATS), "good twice"),
        "again": (GOOD + entry("b", [6], "Float32", FLOATS) + GOOD, "good twice"),
        "a slice too many": (GOOD + GOOD, "has 48 bytes"),
        "no name": (entry("", [2, 3], "Float32", FLOATS), "no text"),
        "no text": (entry(b"\xff\xfe", [2, 3], "Float32", FLOATS), "no text"),
        "control": (entry("a\x1b[2J", [2, 3], "Float32", FLOATS), "no text"),
        "long name": (entry("a" * 5000, [2, 3], "Float32", FLOATS), "no text"),
        "neither true nor false": (entry("a", [2], "Bool", b"\x01\x02"), "neither true nor false"),
        "odd text": (entry("a", [0], "str", b"abc"), "has 3 bytes"),
        "hash table": (field(0x0A, field(0x0A, b"a") + field(0x1A, b"")), "hash table"),
        "name alone": (field(0x0A, field(0x0A, b"a")), "no tensor"),
        "a name beyond all": (GOOD + b"\x0a\x06\x0a" + number(1 << 50), "truncated|no text"),
        "an entry beyond all": (GOOD + b"\x0a" + number(1 << 62), "truncated after 2 entries"),
    }.values(),
)
def test_what_does_not_agree_is_refused(tmp_path, data, words):
    path = tmp_path / "a.ckpt"
    path.write_bytes(GOOD.replace(b"good", b"fine") + data)
    message = refused(path)
    assert any(word in message for word in words.split("|")), message


def described(version=1, checksum='""'):
    return f'{{"format_version": {version}, "checksum": {checksum}}}'


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize(
    "header",
    [
        *("", "[]", "3", "{}", '{"format_version": 1}', "[" * 100_000, '{"a":' * 100_000),
        *(described(version=version) for version in ('"1"', "true", "[1]", "-1", "0", "1e9", "null", "1" + "0" * 400)),
        *(described(checksum=checksum) for checksum in ("null", "[]", "{}", '""', "0")),
    ],
    ids=lambda header: header[:40],
)  # fmt: skip
def test_a_wrong_description_is_refused(tmp_path, suffix, header):
    path = tmp_path / f"a{suffix}"
    if suffix == ".ckpt":
        path.write_bytes(entry(checkpoint.META, [len(header)], "UInt8", header.encode()) + GOOD)
    else:
        safetensors.numpy.save_file(ARRAYS, path, metadata={checkpoint.SAFETENSORS_META: header})
    assert "damaged" in refused(path)


def test_a_description_that_lost_its_name_is_missed(tmp_path):
    for state in ({}, {"step": np.ones(1)}):
        path = tmp_path / "a.ckpt"
        checkpoint.save(path, ARRAYS, state, {"epoch": 3})
        data = path.read_bytes()
        for name in (b"train_state.mfta", b"trainostate.meta", b"a.quite.other.na"):
            path.write_bytes(data.replace(b"train_state.meta", name))
            assert "its description is missing" in refused(path)
        other = tmp_path / "a.safetensors"
        checkpoint.save(other, ARRAYS, state, {"epoch": 3})
        other.write_bytes(other.read_bytes().replace(b'"acmix"', b'"acmiy"'))
        assert "its description is missing" in refused(other)


def test_names_that_only_begin_alike_are_of_others(tmp_path):
    names = ("t", "tr.w", "train", "train_stat", "training.weight")
    path = plain(tmp_path / "a.ckpt", {name: np.ones(2, np.float32) for name in names})
    assert list(checkpoint.read(path).weights) == list(names)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F4", "NONE"])
def test_types_that_numpy_does_not_have_are_refused(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    size = 1 if kind == "F4" else 2  # bytes of two values
    header = json.dumps({"a": {"dtype": kind, "shape": [2], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    assert "not a safetensors file that can be read" in refused(path)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_half_precision_comes_back(tmp_path, name):
    half = ms.Tensor([1, -2.5, 3e38], ms.bfloat16).asnumpy()
    checkpoint.save(tmp_path / name, {"a": half})
    assert alike(checkpoint.read(tmp_path / name).weights["a"], half)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_a_file_that_may_not_be_read_is_named(tmp_path, name):
    path = tmp_path / name
    checkpoint.save(path, ARRAYS)
    path.chmod(0)
    if path.stat().st_uid != 0:
        assert "cannot be read: Permission denied" in refused(path)


# Going on


def test_the_state_before_is_taken_whatever_bit_of_the_header_is_flipped(tmp_path, capsys):
    for step in (5, 9):
        checkpoint.save_state(tmp_path, ARRAYS, {"a": np.ones(2, np.float32)}, {"step": step}, keep=2)
    newest = tmp_path / "step-00000009.ckpt"
    data = newest.read_bytes()
    start = data.index(b"conv.weight") - 4  # length of the entry, name, length, dimensions, type, length
    for changed in itertools.islice(flips(data), 8 * start, 8 * (start + 40)):
        newest.write_bytes(changed)
        path, found = checkpoint.newest_state(tmp_path)
        assert path.name == "step-00000005.ckpt" and found.meta["step"] == 5
    assert capsys.readouterr().out.count("step-00000009.ckpt is ") == 8 * 40
