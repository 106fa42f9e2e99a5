"""AIR files, written by MindSpore's own Ascend backend with a stand-in for CANN's graph engine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from acmix_ms.deploy.ascend import cann
from acmix_ms.deploy.ascend.air import Graph
from acmix_ms.deploy.ascend.dry_run import SOCS
from tests.helpers.ascend import needs_stand_in
from tests.helpers.tiny import TinyNet

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_AIR = """
import sys
from pathlib import Path
from acmix_ms import runtime
from acmix_ms.deploy import VerificationError, mindir
runtime.start("Ascend")
from mindspore import nn, ops
class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.fc, self.acosh = nn.Dense(4, 4), ops.auto_generate.AcoshExt()
    def construct(self, x):
        return self.acosh(self.fc(x))
try:
    mindir.write_air(Net(), Path("net.air"), (2, 4))
except VerificationError as error:
    sys.exit(f"error: {error}")
"""


def on_ascend(arguments, soc, folder):
    """A Python process of a machine with an Ascend."""
    environment = cann.environment(cann.stand_in(), soc, folder / "log")
    environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True)


@needs_stand_in
@pytest.mark.slow
@pytest.mark.parametrize("soc", SOCS)
def test_the_command_writes_weights_and_one_input(soc, tmp_path):
    """On a 910B MindSpore writes no file as it is set up by default, and on both the file would have no weights."""
    arguments = ["--model", "acmix_resnet_digits", "--format", "air", "--batch", "2", "--output", "net.air"]
    done = on_ascend([ROOT / "export.py", *arguments], soc, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AIR cannot be reloaded by MindSpore" in done.stdout
    graph = Graph(tmp_path / "net.air")
    from models import create_model

    weights = sum(value.size for value in create_model("acmix_resnet_digits").trainable_params())
    assert graph.inputs == ["x"] and not graph.missing
    assert graph.constant_bytes > weights, "those of the deploy form, which are fewer, of four bytes each"
    (logits,) = graph.compute(np.ones((2, 3, 32, 32), np.float32))
    assert logits.shape == (2, 10) and np.allclose(logits[0], logits[1]) and logits.std() > 0


@needs_stand_in
def test_a_net_that_no_air_can_hold_is_refused(tmp_path):
    (tmp_path / "net.py").write_text(WITHOUT_AIR)  # MindSpore compiles no code that is not in a file
    done = on_ascend(["net.py"], SOCS[0], tmp_path)
    assert done.returncode == 1 and not (tmp_path / "net.air").exists()
    assert "error: MindSpore cannot write this net as AIR" in done.stderr and "AcoshExt" in done.stderr


def test_another_file_is_no_graph(tmp_path):
    path = tmp_path / "net.air"
    for content in (b"", b"\x08\x01om", b"99\n{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="net.air was not written by the stand-in"):
            Graph(path)


def test_an_air_file_without_the_weights_is_an_error(tmp_path, monkeypatch):
    """MindSpore 2.8 writes Parameters as inputs, or no file at all: they are constants, and the file is looked at."""
    import mindspore as ms

    from acmix_ms.deploy import VerificationError, mindir

    levels, contents = [], [b"x" * 100, None, b"x" * 10**6]

    def export(cell, *inputs, file_name, file_format):
        assert file_format == "AIR" and not list(cell.get_parameters()), "no Parameter is left"
        levels.append(ms.context.get_jit_config()["jit_level"])
        content = contents.pop(0)
        if content is not None:
            Path(file_name).write_bytes(content)

    monkeypatch.setattr(ms, "export", export)
    before, path = ms.context.get_jit_config(), tmp_path / "net.air"
    for said in ("wrote 100 bytes of AIR", "wrote 0 bytes of AIR", None):
        net = TinyNet()
        weights = sum(value.nbytes for value in net.get_parameters())
        expected = net.set_train(False)(ms.Tensor(np.ones((1, 3, 32, 32), np.float32))).asnumpy()
        with contextlib.nullcontext() if said is None else pytest.raises(VerificationError, match=said):
            mindir.write_air(net, path, (1, 3, 32, 32))
        again = net(ms.Tensor(np.ones((1, 3, 32, 32), np.float32))).asnumpy()
        assert np.array_equal(again, expected) and weights > 100, "constants are the same net"
        path.unlink(missing_ok=True)
    assert levels == ["O2"] * 3
    assert (ms.context.get_jit_config() or {"jit_level": "O0"}) == (before or {"jit_level": "O0"})
