"""Official weights as files: converting them, the manifest of what was released, and `create_model(pretrained=...)`."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from mindspore import Tensor

from acmix_ms import runtime
from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError
from models import create_model, list_models, manifest, torch_files
from models.pretrained import BUFFERS, torch_name
from scripts.convert_torch import main as convert
from tests.conftest import ROOT
from tests.helpers.official import official_input, official_state
from tests.models.test_pretrained import MODEL, digits, official
from tests.ops.test_ops import relative


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that ``pretrained=True`` looks into; no test sees the user's own."""
    monkeypatch.setenv("ACMIX_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def state():
    """Official weights of the small model, for 7 classes."""
    return official(digits(7))


@pytest.fixture
def converted(tmp_path, state):
    """The same, converted."""
    safetensors.numpy.save_file(state, tmp_path / "official.safetensors")
    return run(tmp_path / "official.safetensors", tmp_path / "ours.safetensors")


def run(source, output, *options, model=MODEL):
    """Convert; returns the output."""
    convert(["--model", model, "--input", str(source), "--output", str(output), *options])
    return output


def assert_holds(net, state, but=()):
    for parameter in net.get_parameters():
        name = torch_name(parameter.name)
        assert np.array_equal(parameter.asnumpy(), state[name]) != name.startswith(tuple(but) or "none"), name


# ---------------------------------------------------------------------------------------------------- converted files
@pytest.mark.parametrize(
    ("name", "file", "ending"),
    [
        ("acmix_swin_tiny", "swin_acmix_T", "safetensors"),
        ("pvt_tiny", "pvt_tiny", "npz"),
        ("acmix_resnet26", "resnet_acmix26", "npz"),
    ],
)
def test_converted_files_give_the_official_logits(vectors, tmp_path, name, file, ending):
    file = vectors(file)
    state = official_state(file)
    assert name == "pvt_tiny" or any(key.endswith(BUFFERS) for key in state)  # which only PyTorch has
    source, output = tmp_path / f"official.{ending}", tmp_path / "ours.safetensors"
    (np.savez if ending == "npz" else lambda path, **arrays: safetensors.numpy.save_file(arrays, path))(source, **state)
    run(source, output, model=name)
    runtime.start(mode="graph")
    net = create_model(name, pretrained=output).set_train(False)
    assert relative(net(Tensor(official_input(file))), file["logits"]) < 1e-5


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_a_converted_file_says_where_it_is_from(tmp_path, state, ending, capsys):
    source = tmp_path / "official.npz"
    np.savez(source, **state)
    output = run(source, tmp_path / f"ours.{ending}")
    assert "7 classes, read back and equal" in capsys.readouterr().out
    meta = checkpoint.read(output).meta
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    expected = {"model": MODEL, "num_classes": 7, "source": "official.npz", "source_sha256": digest}
    assert meta == {**expected, "format_version": checkpoint.FORMAT_VERSION}
    assert [path.name for path in tmp_path.iterdir() if path != source] == [output.name]  # nothing is left beside it


def test_an_output_stays_until_the_new_one_is_proved(tmp_path, state, converted, monkeypatch):
    before, source = converted.read_bytes(), tmp_path / "other.npz"
    np.savez(source, **{**state, "fc.bias": state["fc.bias"] + 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            run(source, converted, "--force")
    read = checkpoint.read
    with monkeypatch.context() as patch:

        def other(path):
            saved = read(path)
            saved.weights["fc.bias"] = saved.weights["fc.bias"] + 1e-7
            return saved

        patch.setattr(checkpoint, "read", other)
        with pytest.raises(UserError, match="does not read back"):
            run(source, converted, "--force")
    assert converted.read_bytes() == before
    run(source, converted, "--force")
    assert np.array_equal(read(converted).weights["fc.bias"], state["fc.bias"] + 1)


# ------------------------------------------------------------------------------------------------------ the manifest
def test_the_manifest_agrees_with_itself():
    assert {release.model for release in manifest.RELEASES} <= set(list_models())
    for release in manifest.RELEASES:
        assert release.url.startswith("https://")
        assert release.num_classes == 1000
        assert 70 < release.top1 < 85
        if release.file:
            assert release.url.endswith(f"/{release.file}")
            assert release.file.endswith(torch_files.ENDINGS)
        if release.sha256:
            assert set(release.sha256) <= set("0123456789abcdef")
            assert len(release.sha256) in (8, 64)
            in_name = manifest.expected_sha256(f"x/other-{release.file}")  # not listed: of the name alone
            assert in_name is None or release.sha256.startswith(in_name)
    files = [release.file for release in manifest.RELEASES if release.file]
    assert len(set(files)) == len(files)


def test_the_page_of_weights_is_what_the_command_prints(capsys):
    convert(["--list"])
    assert capsys.readouterr().out in (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")


@pytest.fixture
def released(tmp_path, state, monkeypatch):
    """As if the small model's weights had been released; returns the release and its file."""
    source = tmp_path / "small.npz"
    np.savez(source, **state)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    release = manifest.Release(MODEL, "https://example.org/small.npz", 99.0, "example.org", "MIT", "small.npz", digest)
    monkeypatch.setattr(manifest, "RELEASES", (*manifest.RELEASES, release))
    return release, source


def test_a_released_file_needs_no_other_argument(released, folder, state, monkeypatch):
    release, source = released
    assert MODEL in list_models(pretrained=True)
    with pytest.raises(UserError) as caught:
        create_model(MODEL, pretrained=True)
    command = f"python scripts/convert_torch.py --model {MODEL} --input small.npz"
    path = folder / f"{MODEL}.safetensors"
    assert str(caught.value) == (
        f"pretrained=True: {path} does not exist; download https://example.org/small.npz and run: {command}"
    )
    monkeypatch.chdir(source.parent)
    convert(command.split()[4:])  # what it says serves, and so does the file's name alone
    assert_holds(create_model(MODEL, pretrained=True), state)
    path.unlink()
    convert(["--input", str(source)])
    assert_holds(create_model(MODEL, num_classes=7, pretrained=True), state)
    with pytest.raises(UserError, match="exists already"):
        convert(["--input", str(source)])
    source.unlink()
    with pytest.raises(UserError, match="does not exist; download it from https://example.org/small.npz"):
        convert(["--input", str(source), "--force"])
    monkeypatch.setattr(manifest, "RELEASES", (replace(release, sha256="0" * 64),))
    np.savez(source, **state)
    with pytest.raises(UserError, match="that of this name is 0000"):
        convert(["--input", str(source), "--force"])
    assert path.is_file()


def test_without_files_pretrained_says_what_to_do(folder):
    for name in list_models(pretrained=True):
        with pytest.raises(UserError) as caught:
            create_model(name, pretrained=True)
        for part in (str(folder / f"{name}.safetensors"), "https://", f"--model {name} --input"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no weights of acmix_resnet50 were released.*deit_tiny, pvt_large.*swin_tiny"):
        create_model("acmix_resnet50", pretrained=True)


def test_list_models_knows_what_was_released():
    assert list_models("acmix_*", pretrained=True) == ["acmix_swin_small", "acmix_swin_tiny"]
    assert "resnet26" not in list_models(pretrained=True)


# -------------------------------------------------------------------------------------------- create_model(pretrained)
def test_pretrained_takes_the_weights_and_their_classes(converted, state, caplog):
    with caplog.at_level(logging.WARNING):
        for net in (create_model(MODEL, pretrained=converted), create_model(MODEL, 7, pretrained=str(converted))):
            assert net.fc.bias.shape == (7,)
            assert_holds(net, state)
    assert caplog.text == ""


def test_pretrained_leaves_a_head_of_other_classes_as_drawn(converted, state, caplog):
    net = create_model(MODEL, num_classes=3, pretrained=converted)
    assert f"classifier has 7 classes in {converted}, 3 here: drawn anew" in caplog.text
    assert net.fc.weight.shape[0] == 3
    rest = [parameter for parameter in net.get_parameters() if not parameter.name.startswith("fc.")]
    assert all(np.array_equal(parameter.asnumpy(), state[torch_name(parameter.name)]) for parameter in rest)


@pytest.mark.parametrize("name", [MODEL, "swin_digits", "acmix_pvt_tiny"])
def test_pretrained_backbones(tmp_path, name, caplog):
    whole = create_model(name, num_classes=3)
    given = {key: parameter.asnumpy() + 1 for key, parameter in whole.parameters_dict().items()}
    checkpoint.save(tmp_path / "a.ckpt", given, meta={"model": name, "num_classes": 3})
    net = create_model(name, pretrained=tmp_path / "a.ckpt", features_only=True)
    taken = {key: value.asnumpy() for key, value in net.parameters_dict().items() if not key.startswith("norms.")}
    assert all(np.array_equal(value, given[key]) for key, value in taken.items())
    assert set(given) - set(taken) == {key for key in given if key.partition(".")[0] in net.head_names}
    assert f"of {tmp_path / 'a.ckpt'} left out" in caplog.text
    assert ("and as drawn: norms.0.gamma" in caplog.text) == (name == "swin_digits")
    with pytest.raises(UserError, match="another architecture: lacks"):  # what is missing is drawn for heads only
        del given[next(iter(taken))]
        checkpoint.save(tmp_path / "a.ckpt", given, meta={"model": name})
        create_model(name, pretrained=tmp_path / "a.ckpt", features_only=True)


def test_pretrained_position_tables_are_resized(tmp_path, caplog):
    small = create_model("swin_digits", num_classes=3)
    checkpoint.save(tmp_path / "a.safetensors", small.parameters_dict(), meta={"num_classes": 3})
    net = create_model("swin_digits", pretrained=tmp_path / "a.safetensors", window_size=6)
    assert "resized (bicubic)" in caplog.text
    assert net.layers[0].blocks[0].attn.relative_position_bias_table.shape[0] == 11**2


def test_what_cannot_serve_as_pretrained_is_named(tmp_path, converted, folder):
    def fails(words, path=converted, model=MODEL, **options):
        with pytest.raises(UserError, match=words) as caught:
            create_model(model, pretrained=path, **options)
        assert "\n" not in str(caught.value)

    fails("none.ckpt does not exist", tmp_path / "none.ckpt")
    fails("PyTorch's names.*convert_torch.py", tmp_path / "official.safetensors")
    fails("holds acmix_resnet_digits, another architecture", model="resnet_digits")
    fails("does not take this argument", shape=3)
    (tmp_path / "cut.safetensors").write_bytes(converted.read_bytes()[:-9])
    fails("cut.safetensors is truncated", tmp_path / "cut.safetensors")
    (tmp_path / "torch.pth").write_bytes(b"PK\x03\x04" + bytes(99))
    fails("convert it with scripts/convert_torch.py", tmp_path / "torch.pth")
    folder.mkdir()
    (folder / f"{MODEL}.safetensors").write_bytes(b"")
    fails(f"{MODEL}.safetensors is", True)


# --------------------------------------------------------------------------------------------------------- as a user
def test_the_command_fills_the_folder_of_pretrained(run_cli, tmp_path, folder, state):
    safetensors.numpy.save_file(state, tmp_path / "official.safetensors")
    result = run_cli("scripts/convert_torch.py", "--model", MODEL, "--input", tmp_path / "official.safetensors")
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{folder / MODEL}.safetensors: ")
    assert_holds(create_model(MODEL, pretrained=True), state)


def test_mistakes_of_the_command_are_one_line(tmp_path):
    with pytest.raises(UserError, match="--input FILE is missing.*--list"):
        convert([])
    with pytest.raises(UserError, match="x.npz is no file that a release tells the model of: give --model"):
        convert(["--input", "x.npz"])
    with pytest.raises(UserError, match="--output y.pth: give a name that ends with .ckpt or .safetensors"):
        convert(["--model", MODEL, "--input", "x.npz", "--output", "y.pth"])
