"""MindSpore Lite: finding it, conversion, runs, quantisation, and the script for devices."""

import ast
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from acmix_ms.data.imagefolder import EXTENSIONS
from acmix_ms.deploy import lite as lite_module
from acmix_ms.deploy import lite_config, lite_source
from acmix_ms.deploy.files import open_file
from acmix_ms.errors import UserError
from scripts import infer_lite, quantize_lite
from tests.conftest import ROOT

onnx = pytest.importorskip("onnx", reason="ONNX files need the package onnx (extra export)")
OLD_PYTHON = [ROOT / "acmix_ms" / "deploy" / "lite_worker.py", ROOT / "scripts" / "infer_lite.py"]
COLOURS = {"red": (250, 10, 20), "green": (30, 240, 10), "blue": (5, 60, 255)}


@pytest.fixture(scope="module")
def lite():
    """The MindSpore Lite of this machine."""
    try:
        return lite_module.find()
    except UserError as error:
        pytest.skip(str(error))


def colour_net(path, batch):
    """An ONNX of our own: the mean of each channel, through a convolution with groups; red, green and blue."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    plain = {"kernel_shape": [1, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4}  # Lite knows no defaults
    weights = {"w": np.full((3, 1, 1, 1), 2, np.float32), "mix": 2 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["doubled"], name="grouped", group=3, **plain),
        helper.make_node("Conv", ["doubled", "mix"], ["mixed"], name="dense", **plain),
        helper.make_node("ReduceMean", ["mixed"], ["logits"], name="mean", axes=[2, 3], keepdims=0),
    ]
    given = helper.make_tensor_value_info("images", float32, [batch, 3, 32, 32])
    taken = helper.make_tensor_value_info("logits", float32, [batch, 3])
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "colours", [given], [taken], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    onnx.save(model, str(path))
    return path


def shared_net(path):
    """An ONNX of our own: one kernel over maps of three sizes, as a detector's head goes over its levels."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    kernel = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [1] * 4, "group": 1}
    weights = np.random.default_rng(5).standard_normal((32, 32, 3, 3)).astype(np.float32)
    constants = {"w": weights, "b": np.ones(32, np.float32)}
    nodes, sides = [], {"images": 32, "halved": 16, "quartered": 8}
    for given, made in (("images", "halved"), ("halved", "quartered")):
        nodes.append(helper.make_node("MaxPool", [given], [made], name=made, kernel_shape=[2, 2], strides=[2, 2]))
    nodes += [helper.make_node("Conv", [one, "w", "b"], [f"of_{one}"], name=f"of_{one}", **kernel) for one in sides]
    values = {name: helper.make_tensor_value_info(name, float32, [1, 32, side, side]) for name, side in sides.items()}
    taken = [helper.make_tensor_value_info(f"of_{name}", float32, [1, 32, side, side]) for name, side in sides.items()]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "shared", [values["images"]], taken, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    onnx.save(model, str(path))
    return path


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32)).astype(np.float32)


def expected(batch):
    return 4 * batch.mean((2, 3))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    return colour_net(tmp_path_factory.mktemp("onnx") / "colours.onnx", "batch")


@pytest.fixture(scope="module")
def ms_file(lite, onnx_file):
    return lite.convert(onnx_file, onnx_file.with_suffix(".ms"))


@pytest.fixture(scope="module")
def described(ms_file):
    """The ms file with its JSON beside it."""
    preprocess = {"resize": 32, "interpolation": "bilinear", "crop": 32, "scale": 1 / 255, "mean": [0.5] * 3}
    description = {"num_classes": 3, "preprocess": {**preprocess, "std": [0.1] * 3}, "classes": list(COLOURS)}
    ms_file.with_name(f"{ms_file.name}.json").write_text(json.dumps(description))
    return ms_file


def infer(python, *args):
    command = [str(python), str(ROOT / "scripts" / "infer_lite.py"), *map(str, args)]
    environment = {name: value for name, value in os.environ.items() if name != "GLOG_v"}  # that of a user, not ours
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def refused(done, *parts):
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert all(str(part) in done.stderr for part in parts), done.stderr


# --------------------------------------------------------------------------------------------- the old Python's files
@pytest.mark.parametrize("path", OLD_PYTHON, ids=lambda path: path.name)
def test_files_for_the_old_python_are_valid_there_and_need_little(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    standard = {"argparse", "ctypes", "hashlib", "importlib.util", "json", "os", "sys", "time"}
    assert set(plain + named) <= standard | {"numpy", "PIL", "mindspore_lite"}


# ---------------------------------------------------------------------------------------------------------- finding it
@pytest.mark.parametrize("python", [sys.executable, "/nowhere/python3.7"])
def test_without_lite_one_line_tells_how_to_get_it(python, monkeypatch):
    monkeypatch.setenv("ACMIX_LITE_PYTHON", python)
    lite_module.find.cache_clear()
    try:
        with pytest.raises(UserError, match="make lite") as raised:
            lite_module.find()
        assert python in str(raised.value) and "\n" not in str(raised.value)
        assert lite_module.missing() == str(raised.value)
    finally:
        lite_module.find.cache_clear()


def test_make_lite_tells_which_python_it_needs(tmp_path):
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHON37": sys.executable,
        "VENV": str(tmp_path / "v"),
    }
    command = ["bash", str(ROOT / "scripts" / "make_lite.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    refused(done, f"PYTHON37={sys.executable}", "Python 3.7")
    assert not (tmp_path / "v").exists()


# ---------------------------------------------------------------------------------------------------- convert and run
def test_a_file_for_any_batch_computes_what_its_source_does(lite, ms_file):
    batches = [images(1), images(3, seed=1), images(2, seed=2)]
    outputs = lite.run(ms_file, batches)
    for batch, output in zip(batches, outputs):
        np.testing.assert_allclose(output, expected(batch), atol=1e-5)
    assert min(lite.seconds(ms_file, batches[0], 3)) > 0


@pytest.mark.parametrize("fixed_by", ["source", "input_shape"])
def test_a_file_of_a_fixed_batch_is_fed_in_batches_of_its_size(lite, onnx_file, tmp_path, fixed_by):
    source = colour_net(tmp_path / "two.onnx", 2) if fixed_by == "source" else onnx_file
    shape = (2, 3, 32, 32) if fixed_by == "input_shape" else None
    path = lite.convert(source, tmp_path / "two.ms", input_shape=shape)
    batches = [images(1), images(5, seed=1)]
    for batch, output in zip(batches, lite.run(path, batches)):
        np.testing.assert_allclose(output, expected(batch), atol=1e-5)


def test_a_file_tells_what_it_takes(lite, ms_file, tmp_path):
    fixed = lite.convert(colour_net(tmp_path / "two.onnx", 2), tmp_path / "two.ms")
    assert (lite.input_shape(fixed), lite.input_shape(ms_file)) == ((2, 3, 32, 32), (None, 3, 32, 32))
    answers = open_file(fixed)
    answers.check_size(32)
    with pytest.raises(UserError, match="two.ms takes images of 32x32 pixels.*data.image_size=64.*--image-size 64"):
        answers.check_size(64)
    np.testing.assert_allclose(answers(images(5)), expected(images(5)), atol=1e-5)


def test_bad_files_are_one_line_and_leave_the_earlier_output(lite, ms_file, onnx_file, tmp_path):
    broken = {"truncated": ms_file.read_bytes()[:-900], "foreign": onnx_file.read_bytes(), "empty": b""}
    for name, content in broken.items():
        (tmp_path / f"{name}.ms").write_bytes(content)
    for name in [*broken, "missing"]:
        path = tmp_path / f"{name}.ms"
        with pytest.raises(UserError) as raised:
            lite.run(path, [images(1)])
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"takes \[-1, 3, 32, 32\], given was \[1, 3, 16, 32\]"):
        lite.run(ms_file, [images(1)[:, :, :16]])

    source, output = tmp_path / "cut.onnx", tmp_path / "earlier.ms"
    source.write_bytes(onnx_file.read_bytes()[:-40])
    output.write_bytes(b"earlier")
    with pytest.raises(UserError, match="cut.onnx cannot be read as ONNX"):
        lite.convert(source, output)
    assert output.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_each_convolution_has_weights_of_its_own(tmp_path):
    model = onnx.load(lite_source.with_own_weights(shared_net(tmp_path / "shared.onnx"), tmp_path))
    constants = {constant.name: constant.raw_data for constant in model.graph.initializer}
    names = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert len(set(names)) == 3 and len({constants[name] for name in names}) == 1
    plain = colour_net(tmp_path / "plain.onnx", 1)
    assert lite_source.with_own_weights(plain, tmp_path) == plain, "of which nothing is shared"


def test_shared_weights_serve_maps_of_every_size_and_outputs_have_their_names(lite, tmp_path):
    from acmix_ms.deploy.onnx import Onnx

    source = shared_net(tmp_path / "shared.onnx")
    path = lite.convert(source, tmp_path / "shared.ms")
    batch = np.random.default_rng(6).standard_normal((1, 32, 32, 32)).astype(np.float32)
    wanted = Onnx(source).outputs(batch)
    for names in (None, list(wanted)[::-1]):
        found = open_file(path, names).outputs(batch)
        assert list(found) == (names or list(wanted))
        for name, values in found.items():
            np.testing.assert_allclose(values, wanted[name], atol=1e-4 * np.abs(wanted[name]).max())
    renamed = open_file(path, ["a", "b", "c"]).outputs(batch)
    assert np.array_equal(renamed["b"], found["of_halved"]), "names that the file does not know go by their places"


@pytest.mark.parametrize(
    "source, output, quantization, message",
    [
        ("a.txt", "a.ms", None, "converts .onnx and .mindir"),
        ("a.onnx", "a.mindir", None, "end in .ms"),
        ("a.onnx", "a.ms", None, "does not exist"),
        ("colours.onnx", "a.ms", "ful", "did you mean 'full'"),
        ("colours.onnx", "a.ms", "full", "needs calibration images"),
    ],
)
def test_impossible_conversions_are_refused(lite, onnx_file, tmp_path, source, output, quantization, message):
    shutil.copy(onnx_file, tmp_path)
    with pytest.raises(UserError, match=message):
        lite.convert(tmp_path / source, tmp_path / output, quantization=quantization)


def test_mindir_is_converted_or_refused_as_the_release_allows(lite, tmp_path):
    import mindspore as ms
    from mindspore import nn

    source = tmp_path / "relu.mindir"
    batch = images(1)
    ms.export(nn.ReLU(), ms.Tensor(batch), file_name=str(source), file_format="MINDIR")
    if lite.reads_mindir:
        output = lite.run(lite.convert(source, tmp_path / "relu.ms"), [batch])[0]
        np.testing.assert_array_equal(output, np.maximum(batch, 0))
    else:
        with pytest.raises(UserError, match="cannot read the MINDIR of this MindSpore"):
            lite.convert(source, tmp_path / "relu.ms")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, size", [("acmix_resnet50", 64), ("acmix_swin_tiny", 64), ("acmix_pvt_tiny", 96), ("acmix_san10", 64)]
)
def test_models_compute_the_same_in_lite(lite, name, size, tmp_path):
    import mindspore as ms

    from acmix_ms.deploy import onnx as onnx_files
    from acmix_ms.ops.fuse import fuse_for_export, randomise, relative_difference
    from models import create_model

    net = randomise(create_model(name)).set_train(False)
    path = tmp_path / f"{name}.onnx"
    ms.set_context(mode=ms.GRAPH_MODE)
    onnx_files.write(fuse_for_export(net), path, (None, 3, size, size))
    ms.set_context(mode=ms.PYNATIVE_MODE)
    batches = [np.random.default_rng(seed).standard_normal((seed, 3, size, size)).astype(np.float32) for seed in (1, 2)]
    outputs = lite.run(lite.convert(path, path.with_suffix(".ms")), batches)
    for batch, output in zip(batches, outputs):
        assert relative_difference(ms.Tensor(output), net(ms.Tensor(batch))) < 1e-4


# ------------------------------------------------------------------------------------------------------- quantisation
def test_the_converter_is_told_where_the_images_are_and_what_stays_float(onnx_file, tmp_path):
    text = lite_config.write("full", onnx_file, images(3), tmp_path).read_text()
    assert "quant_type=FULL_QUANT" in text and "calibrate_size=3" in text and "skip_quant_node=grouped\n" in text
    assert f"calibrate_path=images:{tmp_path}/calibration/" in text
    saved = np.fromfile(tmp_path / "calibration" / "00001.bin", np.float32)
    np.testing.assert_array_equal(saved.reshape(3, 32, 32), images(3)[1])
    assert "WEIGHT_QUANT" in lite_config.write("weight", onnx_file, None, tmp_path).read_text()
    assert lite_config.write(None, onnx_file, None, tmp_path) is None


def test_fewer_bits_are_close_and_not_the_same(lite, onnx_file, tmp_path):
    batch = images(4, seed=3) + np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) / 4
    shape = (1, 3, 32, 32)
    full = lite.convert(
        onnx_file, tmp_path / "full.ms", input_shape=shape, quantization="full", calibration=images(20, seed=4)
    )
    output = lite.run(full, [batch])[0]
    assert not np.array_equal(output, expected(batch))
    np.testing.assert_allclose(output, expected(batch), atol=0.2)
    half = lite.convert(onnx_file, tmp_path / "half.ms", fp16=True)
    np.testing.assert_allclose(lite.run(half, [batch])[0], expected(batch), atol=1e-2)


def test_quantize_lite_measures_on_the_digits(lite, onnx_file, run_cli, tmp_path):
    config = ROOT / "configs" / "classification" / "acmix_resnet_digits.yaml"
    source, output = shutil.copy(onnx_file, tmp_path), tmp_path / "colours.int8.ms"
    (tmp_path / "colours.onnx.json").write_text('{"precision": "fp32", "num_classes": 3}')
    args = ["scripts/quantize_lite.py", source, "--config", config, "--images", 30, "--calibration", 10]
    done = run_cli(*args)
    assert done.code == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| fp", "| int8"))]
    assert [row[0] for row in rows] == ["| fp32", "| fp16", "| int8"] and rows[0][-1] == "100.00 % |"
    assert output.is_file() and json.loads((tmp_path / "colours.int8.ms.json").read_text())["precision"] == "int8"
    # Before any work, and so in this process.
    with pytest.raises(UserError, match="exists already"):
        quantize_lite.main([str(arg) for arg in args[1:]])


# -------------------------------------------------------------------------------------------------------- infer_lite.py
def test_image_files_are_classified(lite, described, tmp_path):
    for name, colour in COLOURS.items():
        Image.new("RGB", (50, 40), colour).save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{name}.png" for name in COLOURS]
    done = infer(lite.python, "--model", described, *files, "--top", 2, "--output", tmp_path / "results.json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for line, file in zip(done.stdout.splitlines(), files):
        assert line.startswith(f"{file}: {file.stem} ") and line.count("%") == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert [entry["top"][0]["name"] for entry in results] == list(COLOURS)
    assert [entry["top"][0]["class"] for entry in results] == [0, 1, 2]
    values = (np.array(COLOURS["red"]) / 255 - 0.5) / 0.1 * 4
    assert results[0]["top"][0]["probability"] == pytest.approx(np.exp(values[0]) / np.exp(values).sum(), abs=1e-4)


def test_folders_are_classified_and_names_are_shown_safely(lite, described, tmp_path):
    deeper = tmp_path / "a" / "b"
    deeper.mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (50, 40), colour).save(deeper / f"{name}\x1b[31m.png")
    (deeper / "broken.png").write_text("no image")
    (deeper / "notes.txt").write_text("no image")
    done = infer(lite.python, "--model", described, tmp_path / "a", "--output", tmp_path / "results.json")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "broken.png cannot be read" in done.stderr
    assert len(done.stdout.splitlines()) == 3 and "\x1b" not in done.stdout and "blue\\x1b[31m.png" in done.stdout
    assert len(json.loads((tmp_path / "results.json").read_text())) == 4
    (tmp_path / "empty").mkdir()
    refused(infer(lite.python, "--model", described, tmp_path / "empty"), "has no images")
    assert infer_lite.ENDINGS == EXTENSIONS


def test_a_ms_that_is_not_the_one_described_is_one_line(lite, described, tmp_path):
    other, values = tmp_path / "other.ms", json.loads(described.with_name(f"{described.name}.json").read_text())
    other.write_bytes(described.read_bytes())
    other.with_name("other.ms.json").write_text(json.dumps({**values, "sha256": "0" * 64}))
    refused(infer(lite.python, "--model", other, "image.png"), "other.ms is not the file", "copy both again")


def test_what_cannot_be_classified_is_one_line(lite, described, tmp_path):
    text, truncated = tmp_path / "text.jpg", tmp_path / "truncated.ms"
    text.write_text("no image")
    refused(infer(lite.python, "--model", described, text), text, "cannot be read as an image")
    refused(infer(lite.python, "--model", described, tmp_path / "none.png"), "none.png does not exist")
    truncated.write_bytes(described.read_bytes()[:-900])
    beside = f"{described}.json"
    refused(infer(lite.python, "--model", truncated, "--json", beside, text), truncated, "cannot be loaded")


@pytest.mark.parametrize(
    "content, message",
    [(None, "No such file"), ("{", "is no JSON"), ("[1]", "missing or wrong"), ('{"num_classes": 3}', "'preprocess'")],
)
def test_a_json_that_is_missing_or_malformed_is_one_line(tmp_path, content, message):
    file = tmp_path / "net.ms.json"
    if content is not None:
        file.write_text(content)
    refused(infer(sys.executable, "--model", tmp_path / "net.ms", "image.png"), file, message)


def test_infer_without_lite_tells_how_to_get_it(tmp_path):
    if lite_module.importlib.util.find_spec("mindspore_lite"):
        pytest.skip("this Python has mindspore_lite")
    right = {"num_classes": 3, "classes": ["a", "b", "c"]}
    for key, value in (("mean", [0.5]), ("std", [1, 1, 0]), ("scale", "x"), ("crop", 9), ("resize", 8.5)):
        preprocess = {"resize": 8, "interpolation": "bilinear", "crop": 8, "scale": 1, "mean": [0] * 3, "std": [1] * 3}
        with pytest.raises(ValueError):
            infer_lite.check({**right, "preprocess": {**preprocess, key: value}})
    preprocess = {"resize": 8, "interpolation": "bilinear", "crop": 8, "scale": 1, "mean": [0] * 3, "std": [1] * 3}
    (tmp_path / "net.ms.json").write_text(json.dumps({"num_classes": 3, "preprocess": preprocess}))
    refused(
        infer(sys.executable, "--model", tmp_path / "net.ms", "image.png"), "mindspore_lite is missing", "make lite"
    )
