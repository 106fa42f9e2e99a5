"""predict.py and verify.py --against: the same answers from a checkpoint and from every file made of it."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

import export as export_script
import predict as predict_script
from acmix_ms import config, runtime
from acmix_ms.data import create_loader
from acmix_ms.data.preprocess import Preprocess, preprocess_of
from acmix_ms.deploy import lite, prediction
from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError
from models import build, create_model
from scripts import verify as verify_script
from tests.helpers.refusals import refusal
from tests.helpers.tiny import TinyNet, make_images, register

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint that knows all of itself, files made of it, and pictures."""
    folder = tmp_path_factory.mktemp("predict")
    make_images(folder / "pictures", classes=("a",), train=2, val=2)
    save(folder / "net.ckpt", TinyNet(), "tiny_net", NAMES)
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        export("--checkpoint", folder / "net.ckpt", "--format", "all", "--output", folder / "net", "--batch", "dynamic")
    return folder


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    register(monkeypatch)


def save(path, net, model, names):
    values = {"model": {"name": model}, "data": {"name": "imagefolder", "image_size": 32, "interpolation": "bicubic"}}
    meta = {"model": model, "num_classes": len(names), "class_names": names}
    checkpoint.save(path, net.parameters_dict(), meta={**meta, "config": config.to_yaml(config.from_dict(values))})


def export(*args):
    runtime.start(mode="graph")
    return export_script.main([str(arg) for arg in args])


def predict(*args):
    return predict_script.main([str(arg) for arg in args])


def verify(*args):
    return verify_script.main([str(arg) for arg in args])


def test_pictures_are_prepared_as_the_loader_prepares_them(tmp_path):
    images = make_images(tmp_path / "images", train=1, val=4)
    data = config.DataConfig(
        name="imagefolder", path=str(images), batch_size=8, image_size=24, eval_crop_ratio=0.8, interpolation="bicubic"
    )
    loaded = next(create_loader(data, "val").epoch(0)).images
    read = [preprocess_of(data).read(file) for file in prediction.find_images([images / "val"])]
    assert np.array_equal(loaded, np.stack(read))


def test_another_scale_is_computed_with():
    """mean and deviation may be those of pixels 0..255, as mmdetection writes them."""
    picture = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    usual = Preprocess(36, 32)
    mean, std = (tuple(255 * value for value in values) for values in (usual.mean, usual.std))
    np.testing.assert_allclose(Preprocess(36, 32, mean=mean, std=std, scale=1)(picture), usual(picture), atol=1e-5)


def test_every_file_sees_what_the_checkpoint_sees(folder, capsys):
    assert predict("--checkpoint", folder / "net.ckpt", folder / "pictures", "--json") == 0
    expected = json.loads(capsys.readouterr().out)
    assert [len(entry["classes"]) for entry in expected] == [5, 5, 5, 5]
    assert expected[0]["image"] == str(folder / "pictures" / "train" / "a" / "0.png")
    assert expected[0]["classes"][0]["class"] in NAMES
    formats = ["mindir", "onnx"] + (["ms"] if lite.missing() is None else [])
    for format in formats:
        output = folder / f"{format}.json"
        predict("--checkpoint", folder / f"net.{format}", folder / "pictures", "--output", output)
        lines = capsys.readouterr().out.splitlines()
        found = json.loads(output.read_text())
        assert len(lines) == 20
        for given, wanted in zip(found, expected):
            assert [entry["class"] for entry in given["classes"]] == [entry["class"] for entry in wanted["classes"]]
            shares = [[entry["probability"] for entry in side["classes"]] for side in (given, wanted)]
            assert np.allclose(*shares, atol=1e-4)
        best = found[0]["classes"][0]
        assert lines[0].endswith(f"{100 * best['probability']:6.2f} %  {best['class']}")


def answers_of_a_foreign_program(file, pictures):
    """The shares of all classes, by what the JSON says, with Pillow, NumPy and ONNX Runtime alone."""
    import onnxruntime

    description = json.loads(file.with_name(f"{file.name}.json").read_text())
    how = description["preprocess"]
    assert (how["resize_method"], how["interpolation"]) == ("pillow", "bicubic")
    session, crop = onnxruntime.InferenceSession(str(file)), how["crop"]
    for path in pictures:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
        sides = [int(how["resize"] * side / min(image.size)) for side in image.size]
        left, top = (round((side - crop) / 2) for side in sides)
        pixels = image.resize(sides, Image.Resampling.BICUBIC).crop((left, top, left + crop, top + crop))
        prepared = (np.asarray(pixels) * how["scale"] - how["mean"]) / how["std"]
        given = prepared.transpose(2, 0, 1)[None].astype(np.float32)
        powers = np.exp(session.run(None, {session.get_inputs()[0].name: given})[0][0].astype(np.float64))
        yield dict(zip(description["classes"], powers / powers.sum()))


@pytest.mark.parametrize("file", ["net.onnx", "net.ckpt"])
def test_the_description_is_all_that_a_foreign_program_needs(folder, tmp_path, capsys, file):
    random, photos = np.random.default_rng(0), load_sample_images().images
    for i in range(8):
        height, width = random.integers(100, 400, 2)
        image = Image.fromarray(photos[i % 2][:height, :width])
        exif = image.getexif()
        exif[0x0112] = i + 1
        image.convert("CMYK" if i == 3 else "RGB").save(tmp_path / f"{i}.jpg", quality=90, exif=exif)
    assert predict("--checkpoint", folder / file, tmp_path, "--json", "--top", 10) == 0
    predicted = json.loads(capsys.readouterr().out)
    pictures = sorted(tmp_path.glob("*.jpg"))
    assert len(predicted) == len(pictures) == 8
    for entry, shares in zip(predicted, answers_of_a_foreign_program(folder / "net.onnx", pictures)):
        assert len(entry["classes"]) == 10
        for given in entry["classes"]:
            assert given["probability"] == pytest.approx(shares[given["class"]], abs=1e-5)


def test_names_of_classes_may_come_from_a_file(folder, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"digit {i}\n" for i in range(10)))
    picture = folder / "pictures" / "val" / "a" / "0.png"
    assert predict("--checkpoint", folder / "net.ckpt", picture, "--classes", names, "--top", 10) == 0
    assert sorted(line.split("%  ")[1] for line in capsys.readouterr().out.splitlines()) == [
        f"digit {i}" for i in range(10)
    ]
    names.write_text("cat\ndog\n")
    named = ["--checkpoint", folder / "net.onnx", picture, "--classes", names]
    assert "2 names of classes, but" in refusal(predict, *named)


def test_what_is_no_image_does_not_stop_the_others(folder, tmp_path, capsys):
    (tmp_path / "0.png").write_text("a text")
    Image.new("L", (5, 70)).save(tmp_path / "1.png")
    assert predict("--checkpoint", folder / "net.onnx", tmp_path, "--top", 1) == 1
    captured = capsys.readouterr()
    assert captured.err == f"error: image {tmp_path / '0.png'} cannot be read (no image of a known kind): " + (
        "give a JPEG, PNG or the like\n"
    )
    assert captured.out.startswith(str(tmp_path / "1.png")[-30:]) or "1.png" in captured.out
    predict("--checkpoint", folder / "net.onnx", tmp_path / "0.png", "--json")
    assert "cannot be read" in json.loads(capsys.readouterr().out)[0]["error"]


def test_predict_mistakes(folder, tmp_path):
    picture = folder / "pictures" / "val" / "a" / "0.png"
    assert "nowhere.png does not exist" in refusal(predict, "--checkpoint", folder / "net.ckpt", "nowhere.png")
    assert "has no images" in refusal(predict, "--checkpoint", folder / "net.ckpt", tmp_path)
    assert "none.onnx does not exist" in refusal(predict, "--checkpoint", tmp_path / "none.onnx", picture)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((folder / "net.onnx").read_bytes())
    assert "alone.onnx.json, which export.py writes" in refusal(predict, "--checkpoint", alone, picture)
    nameless = tmp_path / "nameless.ckpt"
    checkpoint.save(nameless, TinyNet().parameters_dict())
    assert "does not say of which model it is" in refusal(predict, "--checkpoint", nameless, picture)
    drawn = ("--attention", tmp_path)
    assert "shows its answers only" in refusal(predict, "--checkpoint", folder / "net.onnx", picture, *drawn)
    assert "without attention has none" in refusal(predict, "--checkpoint", folder / "net.ckpt", picture, *drawn)


def test_attention_is_drawn(folder, tmp_path):
    net = create_model("acmix_resnet_digits", num_classes=10)
    save(tmp_path / "acmix.ckpt", net, "acmix_resnet_digits", NAMES)
    pictures = folder / "pictures" / "val"
    assert predict("--checkpoint", tmp_path / "acmix.ckpt", pictures, "--attention", tmp_path / "drawn") == 0
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == ["0001-0.png", "0002-1.png"]
    with Image.open(drawn[0]) as image:
        assert image.width > 3 * image.height  # the picture and four layers beside each other
        assert len(image.convert("RGB").getcolors(2**24)) > 100


@pytest.mark.parametrize("file", ["net.mindir", "net.onnx"])
def test_any_two_are_compared(folder, tmp_path, capsys, file):
    reference = tmp_path / "reference.npz"
    pictures = ("--images", folder / "pictures")
    against = ("--against", folder / "net.ckpt")
    assert verify(folder / file, *against, *pictures, "--write-reference", reference) == 0
    assert "4 images: largest difference" in capsys.readouterr().out
    assert verify(folder / file, "--against", reference) == 0
    assert verify(reference, "--against", folder / file) == 0
    other = TinyNet()
    other.fc.bias.set_data(other.fc.bias + 1)
    save(tmp_path / "other.ckpt", other, "tiny_net", NAMES)
    assert verify(folder / file, "--against", tmp_path / "other.ckpt") == 3
    assert verify(folder / file, "--against", tmp_path / "other.ckpt", "--tolerance", "1e9") == 0
    assert "differs from" in capsys.readouterr().err


def test_a_file_of_another_model_is_told(folder, tmp_path, capsys):
    save(tmp_path / "other.ckpt", TinyNet(7), "tiny_net", NAMES[:7])
    assert verify(folder / "net.onnx", "--against", tmp_path / "other.ckpt") == 3
    assert "gives shape (8, 10), expected (8, 7): is it another model?" in capsys.readouterr().err


def test_verify_mistakes(folder, tmp_path):
    reference = tmp_path / "reference.npz"
    np.savez(reference, images=np.zeros((1, 3, 32, 32), np.float32))
    against = ("--against", folder / "net.ckpt")
    assert "holds no images and logits" in refusal(verify, reference, *against)
    right = np.zeros((1, 3, 32, 32), np.float32)
    for images, logits, words in (
        (right[:0], np.zeros((0, 10)), "images has shape"),
        (right, np.array(["cat"]), "logits are no finite numbers"),
        (right, np.full((1, 10), np.nan), "logits are no finite numbers"),
        (right, np.zeros((2, 10)), "logits has shape"),
        (right[0], np.zeros((3, 10)), r"not (N, 3, H, W)"),
        (np.float32(3), np.zeros((1, 10)), "images has shape"),
    ):
        np.savez(reference, images=images, logits=logits)
        assert words in refusal(verify, reference, *against)
    np.savez(reference, pictures=np.zeros((1, 3, 32, 32), np.float32), logits=np.zeros((1, 10), np.float32))
    assert "holds no images and logits" in refusal(verify, reference, *against)
    for content in (b"", b"text", b"PK\x03\x04 cut"):
        reference.write_bytes(content)
        assert "cannot be read" in refusal(verify, reference, *against)
    assert "give one other file" in refusal(verify, *against)
    assert "does not exist" in refusal(verify, tmp_path / "none.onnx", *against)
    assert "go with --against" in refusal(verify, "resnet_digits", "--images", folder)
    np.savez(reference, images=np.zeros((1, 3, 32, 32), np.float32), logits=np.zeros((1, 10), np.float32))
    assert "has images of its own" in refusal(verify, reference, *against, "--images", folder / "pictures")
    assert "has images of its own" in refusal(verify, reference, "--against", reference)


def test_export_all_writes_what_can_be_made_here(folder, tmp_path, capsys):
    assert {path.name for path in folder.glob("net.*")} >= {"net.mindir", "net.onnx", "net.mindir.json"}
    base = ("--checkpoint", folder / "net.ckpt", "--format")
    before = (folder / "net.onnx").read_bytes()
    assert "net.mindir exists already" in refusal(export, *base, "all", "--output", folder / "net")
    assert (folder / "net.onnx").read_bytes() == before
    capsys.readouterr()
    assert export(*base, "all", "--output", tmp_path / "other") == 0
    told = capsys.readouterr().out
    assert "--format air is left out, it cannot be made here, it needs an Ascend host" in told
    if lite.missing():
        assert "--format ms is left out, it cannot be made here: MindSpore Lite was not found" in told
    else:
        assert "reloaded other.ms, batch 1" in told
    assert "random" not in told


def test_export_mistakes(folder, tmp_path):
    base = ("--checkpoint", folder / "net.ckpt", "--output", tmp_path / "net.onnx", "--format", "onnx")
    assert "made for one size" in refusal(export, *base, "--image-size", "dynamic")
    assert "has 10 classes, the model 7" in refusal(export, *base, "--num-classes", 7)
    (tmp_path / "file").write_text("")
    assert "cannot write there" in refusal(export, *base, "--output", tmp_path / "file" / "net.onnx")
    assert "--precision" in refusal(export, *base, "--precision", "int4")
    assert "--target: invalid choice" in refusal(export, *base, "--target", "TPU")
    assert "no N or HxW up to" in refusal(export, *base, "--image-size", "99999999")
    assert "no N or HxW up to" in refusal(export, *base, "--image-size", "32x32x3")
    assert "do not fit into memory" in refusal(export, *base, "--batch", "99999999")
    assert "is a folder" in refusal(export, *base, "--output", tmp_path)
    assert "is a folder" in refusal(export, *base, "--format", "all", "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_for_images_that_are_not_square_answers_pictures(folder, tmp_path, capsys):
    net = create_model("resnet_digits", num_classes=10)
    save(tmp_path / "net.ckpt", net, "resnet_digits", NAMES)
    base = ("--checkpoint", tmp_path / "net.ckpt", "--format", "onnx", "--output", tmp_path / "net.onnx")
    assert export(*base, "--image-size", "24x40") == 0
    capsys.readouterr()
    assert predict("--checkpoint", tmp_path / "net.onnx", folder / "pictures" / "val", "--top", 1) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert verify(tmp_path / "net.onnx", "--against", tmp_path / "net.ckpt", "--images", folder / "pictures") == 0


def test_nan_is_no_answer(folder, tmp_path, capsys):
    net = TinyNet()
    net.fc.bias.set_data(ms.Tensor(np.full(10, np.nan, np.float32)))
    save(tmp_path / "net.ckpt", net, "tiny_net", NAMES)
    picture = folder / "pictures" / "val" / "a" / "0.png"
    assert "numbers that are not finite (logits)" in refusal(predict, "--checkpoint", tmp_path / "net.ckpt", picture)
    assert verify(folder / "net.onnx", "--against", tmp_path / "net.ckpt") == 3
    assert "not finite" in capsys.readouterr().err


def test_names_of_classes_are_shown_safely(folder, tmp_path, capsys):
    save(tmp_path / "net.ckpt", TinyNet(), "tiny_net", [f"{name}\x1b[2J\x9b" for name in NAMES])
    command = ("--checkpoint", tmp_path / "net.ckpt", folder / "pictures" / "val")
    for more in ((), ("--json",)):
        assert predict(*command, *more) == 0
        assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


def test_a_converted_checkpoint_prepares_pictures_as_the_recipe_of_its_model(tmp_path):
    saved = checkpoint.Checkpoint({}, {}, {"model": "swin_tiny", "num_classes": 1000})
    data = build.config_of(saved, "swin.safetensors", ["data.image_size=192"]).data
    assert (data.name, data.image_size, data.interpolation) == ("imagefolder", 192, "bicubic")
    assert build.config_of_model("botnet50").data.image_size == 224
    saved.meta.clear()
    assert "does not say of which model it is" in refusal(build.config_of, saved, "swin.safetensors")


def test_without_lite_the_way_to_it_is_told(folder, tmp_path, monkeypatch):
    def none():
        raise UserError("MindSpore Lite was not found: run `make lite`")

    monkeypatch.setattr(lite, "find", none)
    base = ("--checkpoint", folder / "net.ckpt", "--format", "ms", "--output", tmp_path / "net.ms")
    assert "run `make lite`" in refusal(export, *base)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_runtime_the_way_to_it_is_told(folder, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert "pip install onnx onnxruntime" in refusal(export, "--checkpoint", folder / "net.ckpt", "--format", "onnx")


def test_graph_mode_is_left_as_it_was():
    assert ms.get_context("mode") == ms.PYNATIVE_MODE
