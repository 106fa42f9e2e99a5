"""Official weights: what fits is loaded, what does not is listed, and the command that converts a file."""

from __future__ import annotations

import importlib.util

import mindspore as ms
import numpy as np
import pytest
import safetensors.numpy
from mindspore import Tensor

from acmix_ms import ACmix, runtime
from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError
from models import create_model
from models.pretrained import load_torch_state, torch_name
from scripts.convert_torch import main as convert
from tests.helpers.official import fill
from tests.ops.test_ops import relative

MODEL = "acmix_resnet_digits"


def official(net) -> dict[str, np.ndarray]:
    """A state dict of the net's own shapes under official names, with a buffer as PyTorch has it."""
    state = {torch_name(p.name): fill(torch_name(p.name), tuple(p.shape)) for p in net.get_parameters()}
    return {**state, "bn1.num_batches_tracked": np.array(3)}


def digits(num_classes: int = 10, **kwargs):
    return create_model(MODEL, num_classes=num_classes, **kwargs).set_train(False)


def test_names():
    assert torch_name("layer1.0.bn1.moving_mean") == "layer1.0.bn1.running_mean"
    assert torch_name("layers.0.blocks.1.norm1.gamma") == "layers.0.blocks.1.norm1.weight"
    assert torch_name("gamma") == "weight"
    assert torch_name("layer1.0.conv2.dep_conv.weight") == "layer1.0.conv2.dep_conv.weight"


def test_every_parameter_is_loaded():
    net = digits()
    state = official(net)
    assert load_torch_state(net, state) == []
    for parameter in net.get_parameters():
        assert np.array_equal(parameter.asnumpy(), state[torch_name(parameter.name)]), parameter.name


def test_loading_reaches_a_graph_that_has_run():
    runtime.start(mode="graph")
    net, x = digits(), Tensor(np.ones((1, 3, 32, 32), np.float32))
    before = net(x).asnumpy()
    load_torch_state(net, official(net))
    other = digits()
    load_torch_state(other, official(other))
    assert relative(net(x), before) > 1e-3
    assert relative(net(x), other(x).asnumpy()) < 1e-6


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    net = digits()
    before = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    state = official(net)
    del state["layer1.0.conv2.rate1"]
    state["layer9.weight"] = np.zeros(3)
    state["bn1.weight"] = np.zeros(7)
    with pytest.raises(ValueError) as caught:
        load_torch_state(net, state)
    message = str(caught.value)
    for part in ("1 missing: layer1.0.conv2.rate1", "1 unexpected: layer9.weight", "bn1.weight (7,) instead of (16,)"):
        assert part in message
    assert all(np.array_equal(p.asnumpy(), before[p.name]) for p in net.get_parameters())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.full((16,), 1j, np.complex64), "bn1.weight is of type complex64; give real numbers"),
        (np.array([True] * 16), "bn1.weight is of type bool; give real numbers"),
        (np.array([np.nan] * 2 + [1.0] * 14, np.float32), "bn1.weight is nan or infinite in 2 of 16 values; give"),
        (np.array([-np.inf] + [1.0] * 15, np.float16), "bn1.weight is nan or infinite in 1 of 16 values; give"),
        (np.array([1e300] + [1.0] * 15), "bn1.weight is nan or infinite in 1 of 16 values; give"),
    ],
    ids=["complex", "bool", "nan", "infinite", "too large for float32"],
)
def test_values_that_are_no_weights_are_named_and_nothing_is_loaded(bad, said):
    net = digits()
    before = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    with pytest.raises(UserError, match=f"^state dict: {said}"):
        load_torch_state(net, {**official(net), "bn1.weight": bad})
    assert all(np.array_equal(p.asnumpy(), before[p.name]) for p in net.get_parameters())
    # Of a classifier that is left out nothing is asked.
    state = {**official(digits(7)), "fc.bias": np.full((7,), np.nan, np.float32)}
    assert load_torch_state(net, state, drop_head=True) == ["fc.weight", "fc.bias"]


def test_long_lists_are_cut():
    with pytest.raises(UserError, match=r"missing: .* and \d+ more"):
        load_torch_state(digits(), {})


def test_another_number_of_classes(caplog):
    net = digits(7)
    head = net.fc.weight.asnumpy().copy()
    with pytest.raises(UserError, match=r"fc.weight \(10, 512\) instead of \(7, 512\).*drop_head=True"):
        load_torch_state(net, official(digits()))
    assert load_torch_state(net, official(digits()), drop_head=True) == ["fc.weight", "fc.bias"]
    assert "fc.weight" in caplog.text
    assert np.array_equal(net.fc.weight.asnumpy(), head)
    assert np.array_equal(net.bn1.gamma.asnumpy(), fill("bn1.weight", (16,)))
    with pytest.raises(UserError, match="missing"):  # drop_head forgives the head only
        load_torch_state(net, {n: v for n, v in official(digits()).items() if n != "bn1.bias"}, drop_head=True)


@pytest.mark.parametrize("name", [MODEL, "swin_tiny", "pvt_tiny", "san10"])
def test_a_classifier_gives_its_backbone(name):
    state = official(create_model(name, num_classes=3))
    net = create_model(name, features_only=True)
    with pytest.raises(UserError, match="unexpected"):
        load_torch_state(net, state)
    load_torch_state(net, state, drop_head=True)


def test_official_deit_keeps_q_k_and_v_in_one_layer():
    net = create_model("deit_tiny", num_classes=3)
    state = official(net)
    for i in range(12):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"blocks.{i}.attn.{part}.{kind}") for part in ("q", "kv")]
            state[f"blocks.{i}.attn.qkv.{kind}"] = np.concatenate(parts)
    load_torch_state(net, state)
    assert np.array_equal(net.blocks[3].attn.kv.bias.asnumpy(), state["blocks.3.attn.qkv.bias"][192:])


def test_bare_operator_has_official_names_and_its_fc_is_no_head():
    net = ACmix(8, 16)
    state = official(net)
    assert "fc.weight" in state
    del state["fc.weight"]
    with pytest.raises(UserError, match="missing: fc.weight"):
        load_torch_state(net, state, drop_head=True)


# ------------------------------------------------------------------------------------------------------ the command
def test_converted_file_gives_the_same_logits(tmp_path):
    net, x = digits(7), Tensor(np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32))
    state = official(net)
    load_torch_state(net, state)
    expected = net(x).asnumpy()
    np.savez(tmp_path / "weights.npz", **state)
    safetensors.numpy.save_file(state, tmp_path / "weights.safetensors")
    for ending in ("npz", "safetensors"):
        output = tmp_path / f"{ending}.ckpt"
        convert(["--model", MODEL, "--input", str(tmp_path / f"weights.{ending}"), "--output", str(output)])
        other = digits(7)
        checkpoint.load_weights(other, output)
        assert np.array_equal(other(x).asnumpy(), expected)
        ms.load_param_into_net(digits(7), ms.load_checkpoint(str(output)))  # a plain MindSpore file too


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (it is optional)")
def test_pth_files_are_read(tmp_path):
    import torch

    state = official(digits(7))
    wrapped = {"model": {f"module.{n}": torch.from_numpy(np.asarray(v)) for n, v in state.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "weights.pth")
    convert(["--model", MODEL, "--input", str(tmp_path / "weights.pth"), "--output", str(tmp_path / "w.ckpt")])
    net = digits(7)
    checkpoint.load_weights(net, tmp_path / "w.ckpt")
    assert np.array_equal(net.bn1.gamma.asnumpy(), state["bn1.weight"])


def test_bad_input_is_named_and_loses_nothing(tmp_path, monkeypatch):
    good, output = tmp_path / "good.npz", tmp_path / "y.ckpt"
    np.savez(good, **official(digits()))
    (tmp_path / "bad.npz").write_bytes(b"not a zip file")
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 30)
    (tmp_path / "weights.pth").write_bytes(b"PK")
    (tmp_path / "weights.txt").write_text("1 2 3")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # as if it were not installed

    def fails(named: str, *, model: str = MODEL, source=good, target=output, extra: tuple = ()) -> None:
        with pytest.raises(UserError, match=named):
            convert(["--model", model, "--input", str(source), "--output", str(target), *extra])

    fails("missing.npz does not exist", source=tmp_path / "missing.npz")
    fails("bad.npz is not a readable", source=tmp_path / "bad.npz")
    fails("bad.safetensors is not a readable", source=tmp_path / "bad.safetensors")
    fails("PyTorch, which is not installed", source=tmp_path / "weights.pth")
    fails("unknown ending '.txt'", source=tmp_path / "weights.txt")
    fails("'acmix_resnet_digit'.*'acmix_resnet_digits'", model="acmix_resnet_digit")
    fails("does not fit ResNet", model="resnet_digits")
    fails("fc.weight", extra=("--num-classes", "5"))
    fails("ends with .ckpt", target=tmp_path / "y.pth")
    fails("cannot write there", target=good / "y.pth.ckpt")
    assert not output.exists()
    output.write_text("precious")
    fails("exists already")
    assert output.read_text() == "precious"
    convert(
        [
            "--model",
            MODEL,
            "--input",
            str(good),
            "--output",
            str(output),
            "--force",
            "--num-classes",
            "5",
            "--drop-head",
        ]
    )
    assert checkpoint.read(output).meta["num_classes"] == 5


def test_mistakes_are_one_line(run_cli):
    result = run_cli("scripts/convert_torch.py", "--model", MODEL, "--input", "nowhere.pth", "--output", "y.ckpt")
    assert result.code == 2
    assert result.stderr == "error: --input nowhere.pth does not exist\n"
