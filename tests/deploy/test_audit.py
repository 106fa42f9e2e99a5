"""The audit for Ascend: what it asks the installed MindSpore, and that it finds each kind of problem there is."""

from __future__ import annotations

import ctypes
import json
import platform

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from acmix_ms import config
from acmix_ms.deploy.ascend import audit, elf, graph, registries
from acmix_ms.deploy.ascend.registries import Entry
from acmix_ms.deploy.ascend.train_graph import TrainStep
from acmix_ms.errors import UserError
from scripts import audit_ascend
from tests.helpers.refusals import refusal
from tests.helpers.tiny import TinyNet


class Planted(nn.Cell):
    """One problem of each kind: 7 dimensions, int64, a mask of -1e9, 20 channels, and Muls, which no AIR has."""

    def __init__(self):
        super().__init__()
        self.mask = ms.Tensor(np.where(np.eye(8), 0, -1e9).astype(np.float32))
        self.conv = nn.Conv2d(20, 32, 1, weight_init="ones")

    def construct(self, x):
        y = ops.softmax(self.conv(x) + self.mask, -1)  # (1, 32, 8, 8) from (1, 20, 8, 8)
        y = ops.transpose(y.reshape(1, 2, 16, 2, 4, 2, 4), (0, 1, 3, 5, 2, 4, 6))
        return (y * 2.5).astype(ms.int64)


class Clean(nn.Cell):
    """16 channels, and nothing else that the audit tells."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 32, 1, weight_init="ones")

    def construct(self, x):
        return ops.relu(self.conv(x))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """MINDIR files of both, and one whose ReLU has a name that nobody knows."""
    from mindspore.train.mind_ir_pb2 import ModelProto

    folder = tmp_path_factory.mktemp("audit")
    for name, cell, channels in (("planted", Planted(), 20), ("clean", Clean(), 16)):
        audit.write_graph(cell, [ms.Tensor(np.zeros((1, channels, 8, 8), np.float32))], folder / f"{name}.mindir")
    model = ModelProto()
    model.ParseFromString((folder / "clean.mindir").read_bytes())
    next(one for one in model.primitives if one.op_type == "ReLU").op_type = "Nonsense"
    (folder / "unknown.mindir").write_bytes(model.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def audits(files):
    return {one.name: one for one in audit.audit_files([(p.stem, p) for p in sorted(files.glob("*.mindir"))])}


# ------------------------------------------------------------------------------------------------------------- graphs
def test_a_graph_tells_formats_shapes_and_constants(files):
    read = graph.read(files / "planted.mindir")
    by_name = {operator.primitive: operator for operator in read.operators}
    conv = by_name["Conv2D"]
    assert [value.tensors for value in conv.inputs] == [
        (graph.Tensor("float32", (1, 20, 8, 8)),),
        (graph.Tensor("float32", (32, 20, 1, 1)),),
    ]
    assert conv.output.tensors[0].shape == (1, 32, 8, 8)
    assert by_name["Transpose"].inputs[0].tensors[0].shape == (1, 2, 16, 2, 4, 2, 4)
    assert by_name["Transpose"].inputs[1].numbers.tolist() == [0, 1, 3, 5, 2, 4, 6]
    assert by_name["Cast"].output.tensors[0].dtype == "int64"


def test_what_is_no_file_of_a_graph_is_one_line(tmp_path):
    for name, content in (("absent", None), ("text", b"# no graph\n" * 9), ("empty", b"")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            graph.read(tmp_path / name)


# ------------------------------------------------------------------------------------------------------------ problems
def kinds(one):
    return {finding.kind: finding.what for finding in one.findings}


def test_each_planted_problem_is_found(audits):
    found = kinds(audits["planted"])
    assert found.keys() == set(audit.FINDINGS)
    assert "int64 (1, 2, 2, 2, 16, 4, 4)" in found["wide"]
    assert "float32 (1, 2, 16, 2, 4, 2, 4)" in found["rank"]
    assert "-1e+09" in found["half"]
    assert "channels in 20: no multiple of 16" in found["channels"]
    assert audits["planted"].uses["Muls"].place == "aclnn"
    assert audits["planted"].kinds(audit.UNKNOWN) == []


def test_a_clean_graph_has_no_findings(audits):
    assert audits["clean"].findings == []
    assert audits["clean"].uses["Conv2D"].place == "ge"
    assert audits["clean"].uses["ReLU"].place == "aclnn"
    assert audits["clean"].note is None


def test_an_unknown_primitive_is_status_3(audits, files, capsys, tmp_path):
    assert audits["unknown"].kinds(audit.UNKNOWN) == ["Nonsense"]
    found = tmp_path / "found.json"
    code = audit_ascend.main(["--file", str(files / "unknown.mindir"), "--details", "--json", str(found)])
    said = capsys.readouterr()
    assert code == 3
    assert "an Ascend has Nonsense" in said.err
    assert "unknown    Nonsense: 1 times, float32, up to 4 dimensions" in said.out
    assert json.loads(found.read_text())[0]["unknown"] == ["Nonsense"]


def test_channels_of_groups_and_matrices():
    def value(*shape, numbers=None):
        return graph.Value("v", (graph.Tensor("float32", shape),) if shape else (), numbers)

    def operator(name, inputs, **attributes):
        return graph.Operator(name, "", inputs, value(1), attributes)

    grouped = operator("Conv2D", [value(1, 64, 8, 8), value(32, 4, 3, 3)], group=16)
    assert audit.channels(grouped) == {"channels in": 4, "channels out": 2}
    no, yes = value(numbers=np.array([0])), value(numbers=np.array([1]))
    product = operator("MatMul", [value(5, 7), value(9, 7), no, yes])
    assert audit.channels(product) == {"depth": 7, "columns": 9}
    assert audit.channels(operator("BatchMatMul", [value(2, 7, 5), value(2, 7, 9), yes, no])) == {
        "depth": 7,
        "columns": 9,
    }


# ------------------------------------------------------------------------------------------------- sources of truth
def test_where_a_primitive_runs_follows_the_sources_in_their_order():
    def entry(aclnn=False, ge=False, rewritten=False, aicpu=None, documented=None):
        return Entry(aclnn, ge, rewritten, aicpu, documented)

    some = frozenset({"float32"})
    assert audit.place("Load", None) == "compiler"
    assert audit.place("X", entry(aclnn=True, aicpu=some)) == "aclnn"
    assert audit.place("X", entry(ge=True)) == "ge"
    assert audit.place("X", entry(ge=True, aicpu=some)) == "either"
    assert audit.place("X", entry(rewritten=True, documented="Ascend")) == "rewritten"
    assert audit.place("X", entry(aicpu=some, documented="Ascend")) == audit.AI_CPU
    assert audit.place("X", entry(documented="Ascend GPU")) == "documented"
    assert audit.place("X", entry(documented="GPU CPU")) == audit.UNKNOWN


def test_the_installed_mindspore_answers():
    names = ["Softmax", "Conv2D", "Muls", "Gather", "AdamWeightDecay", "Nonsense"]
    found, reason = registries.look_up(names)
    assert reason is None
    assert (found["Softmax"].aclnn, found["Softmax"].documented) == (True, "Ascend GPU CPU")
    assert (found["Conv2D"].aclnn, found["Conv2D"].ge, found["Conv2D"].aicpu) == (False, True, None)
    assert (found["Muls"].aclnn, found["Muls"].ge) == (True, False)
    assert {"float16", "int64", "bool"} <= found["Gather"].aicpu
    assert found["AdamWeightDecay"].rewritten
    assert found["Nonsense"] == Entry(False, False, False, None, None)


def test_64_bit_tensors_send_what_either_can_run_to_the_ai_cpu(monkeypatch):
    entry = Entry(False, True, False, frozenset({"int64"}), None)
    monkeypatch.setattr(registries, "look_up", lambda names: (dict.fromkeys(names, entry), None))
    for dtype, where in (("float32", "either"), ("int64", audit.AI_CPU)):
        sum_ = graph.Operator("AddN", "", [], graph.Value("y", (graph.Tensor(dtype, (4,)),)), {})
        (found,) = audit.audit_graphs([("g", graph.Graph([sum_]))])
        assert found.uses["AddN"].place == where


def test_without_the_plugin_the_audit_says_so(monkeypatch, files):
    monkeypatch.setattr(registries, "OPERATORS", "plugin/absent.so")
    (found,) = audit.audit_files([("clean", files / "clean.mindir")])
    assert "this MindSpore is without plugin/absent.so" in found.note
    assert found.uses["Conv2D"].place == "documented"  # all that is left


def test_a_stand_in_can_be_loaded_and_does_nothing(tmp_path):
    if platform.machine() not in elf.RETURN_ZERO:
        pytest.skip(f"no stand-ins for {platform.machine()}")
    path = tmp_path / "libnothing.so"
    elf.write_stand_in(path, ["aclInit", "_ZN2ge5ShapeC1Ev"], platform.machine())
    library = ctypes.CDLL(str(path))
    library.aclInit.restype = ctypes.c_uint64
    assert library.aclInit(5, 6) == 0
    assert not hasattr(library, "aclFinalize")
    with pytest.raises(ValueError, match="z80"):
        elf.write_stand_in(path, [], "z80")
    operators = elf.symbols(registries.package() / "lib" / registries.OPERATORS)
    assert registries.ASK_ACLNN in operators.offered - operators.wanted
    (tmp_path / "text").write_text("no library")
    with pytest.raises(ValueError, match="no 64-bit ELF file"):
        elf.symbols(tmp_path / "text")


# ------------------------------------------------------------------------------------------------- models and steps
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_models_have_no_unknown_primitive_and_fit_half_precision_and_air(capsys, precision):
    models = ["acmix_resnet_digits", "acmix_swin_digits", "acmix_san_digits"]
    assert audit_ascend.main(["--precision", precision, "--models", *models]) == 0
    lines = [line.strip("| ").split("|") for line in capsys.readouterr().out.splitlines() if "_digits" in line]
    assert len(lines) == 3
    for line in lines:
        cells = dict(zip(audit.HEADER, (cell.strip() for cell in line)))
        for column in (audit.UNKNOWN, audit.AI_CPU, "64-bit", "transposes >6d", "beyond fp16", "not in AIR"):
            assert cells[column] == "0", (cells["graph"], column)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_train_step_is_the_one_of_an_ascend(optimizer, tmp_path):
    keys = [f"optim.name={optimizer}", "data.batch_size=2", "run_dir=runs", "optim.clip_norm=5"]
    step = TrainStep(TinyNet(10), config.for_model("tiny_net", keys))
    inputs = [ms.Tensor(np.zeros((2, 3, 32, 32), np.float32)), ms.Tensor(np.zeros(2, np.int32))]
    audit.write_graph(step, inputs, tmp_path / "step.mindir")
    (found,) = audit.audit_files([("step", tmp_path / "step.mindir")])
    assert found.kinds(audit.UNKNOWN) == []
    assert {"Conv2DBackpropFilter", "BatchNormGrad", "Switch"} <= found.uses.keys()
    update = {"sgd": "ApplyMomentum", "adamw": "AdamWeightDecay"}[optimizer]
    assert found.uses[update].count == len(TinyNet(10).trainable_params())
    assert "IsFinite" in found.uses  # `precision.all_finite` of a CPU takes sums


def test_a_train_step_is_not_made_of_a_compiled_one():
    ms.set_context(mode=ms.GRAPH_MODE)
    with pytest.raises(ValueError, match="PyNative"):
        TrainStep(TinyNet(10), config.for_model("tiny_net", ["run_dir=runs"]))


# --------------------------------------------------------------------------------------------------------- the command
def wrong(*args):
    return refusal(audit_ascend.main, [str(arg) for arg in args])


def test_mistakes(run_cli, tmp_path):
    assert "leave out --models" in wrong("--file", "x.mindir", "--models", "resnet26")
    assert "leave out --models" in wrong("--file", "x.mindir", "--precision", "fp16")
    assert "go with --train" in wrong("--optimizer", "sgd")
    assert "go with --train" in wrong("--precision", "mixed")
    assert "--image-size 16: give at least 32" in wrong("--image-size", 16)
    assert "--models resnet27: did you mean 'resnet26'" in wrong("--models", "resnet27")
    done = run_cli("scripts/audit_ascend.py", "--file", tmp_path / "absent.mindir")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "absent.mindir does not exist" in done.stderr


def test_the_table_goes_between_its_markers():
    start, end = audit_ascend.START.format(""), audit_ascend.END.format("")
    assert audit_ascend.written(f"a\n{start}\nold\n{end}\nz\n", "new", "") == f"a\n{start}\nnew\n{end}\nz\n"
    with pytest.raises(UserError, match="belongs between the lines"):
        audit_ascend.written("nothing here", "new", "")
