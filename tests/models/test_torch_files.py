"""Reading official files of weights: their formats, types and wrappings, and whether they are what they should be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import types

import numpy as np
import pytest
import safetensors.numpy

from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError
from models import manifest, torch_files
from models.pretrained import torch_name
from tests.models.test_pretrained import digits, official
from tests.models.test_weights import assert_holds, run

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (it is optional)"
)


@pytest.fixture
def state():
    """Official weights of the small model, for 7 classes."""
    return official(digits(7))


def as_bfloat16(arrays) -> bytes:
    """A .safetensors file, which NumPy cannot write in this type."""
    header, data = {}, b""
    for name, value in arrays.items():
        upper = (np.asarray(value, np.float32).reshape(-1).view(np.uint32) >> 16).astype("<u2").tobytes()
        offsets = [len(data), len(data) + len(upper)]
        header[name] = {"dtype": "BF16", "shape": list(np.shape(value)), "data_offsets": offsets}
        data += upper
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_weights_of_other_precisions_and_of_parallel_models(tmp_path, state, kind):
    floats = {f"module.{name}": value for name, value in state.items() if value.dtype.kind == "f"}
    source = tmp_path / "official.safetensors"
    if kind == "bfloat16":
        source.write_bytes(as_bfloat16(floats))
        rounded = {name: (v.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, v in floats.items()}
    else:
        safetensors.numpy.save_file({name: value.astype(kind) for name, value in floats.items()}, source)
        rounded = {name: value.astype(kind).astype(np.float32) for name, value in floats.items()}
    saved = checkpoint.read(run(source, tmp_path / "ours.ckpt")).weights
    assert {value.dtype for value in saved.values()} == {np.dtype(np.float32)}
    for name, value in saved.items():
        assert np.array_equal(value, rounded[f"module.{torch_name(name)}"]), name


def test_which_hash_a_name_tells():
    assert manifest.expected_sha256("a/resnet50-19c8e357.pth") == "19c8e357"  # an older file of torchvision
    assert manifest.expected_sha256("resnet50-0676ba61.pth").startswith("0676ba61b6795bbe")
    assert manifest.expected_sha256("swin_small_patch4_window7_224.pth") is None
    assert manifest.expected_sha256("mine-20260131.pth") is None  # a date


def test_another_file_under_a_released_name_is_refused(tmp_path, state):
    np.savez(tmp_path / "official.npz", **state)
    digest = hashlib.sha256((tmp_path / "official.npz").read_bytes()).hexdigest()
    good, bad = tmp_path / f"small-{digest[:8]}.npz", tmp_path / "small-abcdef12.npz"
    for path in (good, bad):
        path.write_bytes((tmp_path / "official.npz").read_bytes())
    run(good, tmp_path / "good.ckpt")
    with pytest.raises(UserError, match=rf"{bad} has sha256 {digest[:8]}, that of this name is abcdef12: .*--no-check"):
        run(bad, tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()
    assert checkpoint.read(run(bad, tmp_path / "bad.ckpt", "--no-check")).meta["source_sha256"] == digest


# --------------------------------------------------------------------------------------------------- PyTorch's pickles
def test_the_state_dict_is_found_within_what_training_scripts_save():
    state = {"conv1.weight": 1}
    assert torch_files._unwrap({"model": state, "model_ema": {}, "epoch": 3}) == state
    assert torch_files._unwrap({"state_dict": {"module": state}}) == state
    assert torch_files._unwrap(state) == state
    assert torch_files._unwrap([state]) == {}


@pytest.fixture
def yacs(monkeypatch):
    """A CfgNode that is pickled as that of yacs: a dictionary with attributes."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        yield module.CfgNode


@needs_torch
@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_state_of_swin_is_read(tmp_path, state, yacs, zipped, monkeypatch):
    import argparse

    import torch

    config = yacs(MODEL=yacs(NAME="acmix", DEPTHS=[2, 2]), BASE=[""])
    config.__dict__["__immutable__"] = True
    weights = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    whole = {"model": weights, "optimizer": optimizer, "lr_scheduler": {"t_in_epochs": False}, "epoch": 299}
    whole |= {"max_accuracy": np.float64(81.9), "config": config, "args": argparse.Namespace(lr=0.1)}
    torch.save(whole, tmp_path / "official.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "yacs.config")  # whoever converts does not have it
    assert_holds(digits(7, pretrained=run(tmp_path / "official.pth", tmp_path / "ours.safetensors")), state)


@needs_torch
def test_no_program_in_a_file_is_run(tmp_path, state):
    import torch

    class Program:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "has-run"),)

    weights = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    torch.save({"model": weights, "config": Program()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth holds posix.mkdir beside weights.*torch.save"):
        run(tmp_path / "evil.pth", tmp_path / "ours.ckpt")
    assert not (tmp_path / "has-run").exists()


@needs_torch
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "no state"])
def test_damaged_pickles_are_named(tmp_path, state, damage):
    import torch

    path = tmp_path / "official.pth"
    torch.save({"epoch": 3} if damage == "no state" else {"model": {"a": torch.ones(999)}}, path)
    data = {"cut": path.read_bytes()[:900], "text": b"hello\n", "empty": b"", "no state": path.read_bytes()}[damage]
    path.write_bytes(data)
    with pytest.raises(UserError, match="holds no state dict" if damage == "no state" else "is damaged or not a file"):
        run(path, tmp_path / "ours.ckpt")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_a_flipped_bit_in_a_zip_file_is_no_traceback(tmp_path, write):
    path = tmp_path / "official.npz"
    write(path, a=np.arange(6, dtype=np.float32), b=np.ones(2, np.float32))
    data, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(data), 3):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert sum(value.nbytes for value in torch_files.read_state(path).values()) <= 32
        except UserError as error:
            assert "is not a readable .npz file" in str(error)
            refused += 1
    assert refused > 500
