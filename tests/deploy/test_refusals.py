"""What others may have changed, damaged or written themselves is refused in one line."""

from __future__ import annotations

import copy
import json

import numpy as np
import onnx
import pytest

from acmix_ms import runtime
from acmix_ms.config import DataConfig
from acmix_ms.data.preprocess import preprocess_of
from acmix_ms.deploy import Description, description, export, open_file, prediction
from acmix_ms.errors import UserError, printable
from tests.helpers.refusals import refusal
from tests.helpers.tiny import TinyNet

FLOAT, FLOAT16, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.start("CPU", "graph")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An exported file with its description."""
    runtime.start("CPU", "graph")
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    about = Description("tiny_net", 10, preprocess_of(DataConfig()), tuple("0123456789"))
    return export(TinyNet(), "onnx", path, image_size=32, description=about)


# ------------------------------------------------------------------------------------------------------ the description
def test_a_description_is_read_as_it_was_written(exported):
    found, values = description.read(exported), json.loads(description.beside(exported).read_text())
    assert description.from_dict(values) == found
    assert found.sha256 and found.outputs[0].shape == (1, 10)
    assert values["postprocess"] == {"operation": "softmax", "output": "logits", "axis": 1}
    assert values["task"] == "classification" and list(values["verified"]) == ["logits"]


def test_an_older_description_still_opens(exported):
    values = json.loads(description.beside(exported).read_text())
    for key in ("sha256", "task", "outputs", "postprocess"):
        del values[key]
    values["verified"] = values["verified"]["logits"]
    found = description.from_dict(values)
    assert (found.sha256, found.task, found.outputs[0].name) == ("", "classification", "logits")
    assert found.verified.worst.agreeing == 4


WRONG = {
    "model": [3, None, "half \ud800 a pair", ["net"]],
    "task": ["classify", None, ["classification"]],
    "format": ["pb", 1, {}],
    "precision": ["fp8", None],
    "num_classes": [0, -1, 1.5, True, "10", None, 2**40, 9],
    "input": [[], {}, {"shape": [1, 3, 32]}, None],
    "preprocess": [[], {}, None, "x"],
    "outputs": [[], {}, [{"name": "logits"}], [3], None, [{"name": "", "meaning": "", "shape": []}]],
    "postprocess": [[], {}, "softmax", {"operation": 3}],
    "classes": ["0123456789", [1] * 10, ["a"] * 9, {}, ["\udcff"] * 10],
    "verified": [[], {}, 3, {"logits": {"absolute": 1}}, {"logits": 0.1}],
    "sha256": ["abc", 3, None, "g" * 64],
    "colour": [1],
}
WRONG_PREPROCESS = {
    "resize": [0, -5, 2.5, "32", None, True, 10**9],
    "crop": [33, 0, [32, 32]],
    "interpolation": ["cubic", 3, ["bilinear"]],
    "mean": [[0.5] * 2, 0.5, [0.5, 0.5, "0.5"], [0.5, 0.5, 10**400], {}],
    "std": [[0.5, 0.5, 0], [0.5, 0.5, -1], [], None],
    "scale": [0, -1, "1", None],
    "size": [3],
}


@pytest.mark.parametrize("key", [*WRONG, *(f"preprocess.{key}" for key in WRONG_PREPROCESS)])
def test_every_value_of_a_description_is_looked_at(exported, key):
    right = json.loads(description.beside(exported).read_text())
    name = key.removeprefix("preprocess.")
    for value in WRONG_PREPROCESS[name] if key != name else WRONG[name]:
        values = copy.deepcopy(right)
        (values["preprocess"] if key != name else values)[name] = value
        with pytest.raises(ValueError) as caught:
            description.from_dict(values)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    if key in right and key not in ("task", "outputs", "postprocess", "verified", "sha256"):
        del right[key]
        with pytest.raises(ValueError, match=f"{key}.*missing"):
            description.from_dict(right)


@pytest.mark.parametrize("text", ["[]", "{", "null", '{"a": NaN}', '{"a": 1e999}', '{"a":' * 100_000, "\ud800", ""])
def test_what_is_no_json_object_is_one_line(tmp_path, exported, text):
    path = tmp_path / "net.onnx"
    path.write_bytes(exported.read_bytes())
    description.beside(path).write_bytes(text.encode(errors="surrogatepass"))
    assert "net.onnx.json" in refusal(description.read, path)
    assert "net.onnx.json" in refusal(open_file, path)


def test_a_description_belongs_to_its_file(tmp_path, exported):
    path = tmp_path / "net.onnx"
    about = description.beside(exported).read_bytes()
    model = onnx.load(exported)
    weight = model.graph.initializer[0]
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]  # too little for any tolerance
    onnx.save(model, path)
    open_file(path)  # nothing is known of it
    description.beside(path).write_bytes(about)
    assert "net.onnx is not the file that" in refusal(open_file, path)
    assert "copy both again, or export it again" in refusal(open_file, path)
    path.write_bytes(exported.read_bytes())
    open_file(path)


def test_names_never_reach_the_terminal_as_they_are():
    text = "a\x1b[31m\x9b\r\nb\udcff\u202e c"
    assert printable(text) == "a\\x1b[31m\\x9b\\r\\nb\\xff\\u202e c"
    assert printable("Käse 日本 🐈") == "Käse 日本 🐈"
    found = prediction.Prediction(f"{text}.png", [(text, 0.5)])
    assert prediction.table(found).isprintable()
    shown = prediction.json_text([found.as_dict()])
    assert all(line.isprintable() for line in shown.split("\n"))
    assert json.loads(shown)[0]["classes"][0]["class"] == text


# --------------------------------------------------------------------------------------------------------- foreign ONNX
def foreign(path, shape, kind=FLOAT, inputs=1, operator="Identity", out=None, taken=None, **attributes):
    """An ONNX of one operator."""
    helper = onnx.helper
    given = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i in range(inputs)]
    nodes = [helper.make_node(operator, [one.name for one in given], ["y"], **attributes)]
    out = helper.make_tensor_value_info("y", taken or kind, out)
    model = helper.make_model(
        helper.make_graph(nodes, "foreign", given, [out]), opset_imports=[helper.make_opsetid("", 11)]
    )
    model.ir_version = 6
    onnx.save(model, path)
    return path


FOREIGN = {
    "int64": ({"shape": [1, 3, 8, 8], "kind": INT64}, r"takes tensor\(int64\), not float32"),
    "float16": ({"shape": [1, 3, 8, 8], "kind": FLOAT16}, r"takes tensor\(float16\), not float32"),
    "scalar": ({"shape": []}, "takes one number, not images"),
    "two inputs": ({"shape": [1, 3, 8, 8], "inputs": 2, "operator": "Add"}, "takes 1x3x8x8 and 1x3x8x8, not images"),
    "huge batch": ({"shape": [2**40, 3, 8, 8]}, "1099511627776x3x8x8, more than fits into memory"),
    "1-D": ({"shape": [2, 3, 8, 8], "operator": "ReduceMean", "axes": [1, 2, 3], "keepdims": 0}, "it is no classifier"),
    "one number": (
        {"shape": [2, 3, 8, 8], "operator": "ReduceMean", "keepdims": 0},
        "gives one number .* for 2 images",
    ),
    "maps": ({"shape": [2, 3, 8, 8]}, r"gives y \(batchx3x8x8\), not logits"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_onnx_is_one_line(tmp_path, kind):
    options, words = FOREIGN[kind]
    path = foreign(tmp_path / "net.onnx", **options)
    with pytest.raises(UserError, match=words) as caught:
        open_file(path)(np.ones((2, 3, 8, 8), np.float32))
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- our words
def test_mindspore_says_nothing_before_our_line(tmp_path, capfd):
    path = tmp_path / "net.mindir"
    path.write_text("text " * 100)
    refusal(open_file, path)
    assert capfd.readouterr() == ("", "")
    with runtime.own_words():
        print("kept", file=__import__("sys").stderr)
    assert capfd.readouterr().err == "kept\n"
