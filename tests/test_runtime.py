"""runtime: the environment guard, devices, seeds, processes."""

import os
import random
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest

from acmix_ms import runtime
from acmix_ms.errors import UserError

NAMES = ("ONEDNN_MAX_CPU_ISA", "GLOG_v")


def environment_after_import(version, machine="x86_64", **given):
    """What `import acmix_ms.runtime` leaves in the environment, and whether MindSpore was imported by it."""
    code = f"""
import os, platform, sys
from importlib import metadata
def version(name):
    if {version!r} is None:
        raise metadata.PackageNotFoundError(name)
    return {version!r}
metadata.version = version
platform.machine = lambda: {machine!r}
import acmix_ms
before = "mindspore" in sys.modules
import acmix_ms.runtime
print(*(os.environ.get(name, "unset") for name in {NAMES!r}), before or "mindspore" not in sys.modules)
"""
    env = {key: value for key, value in os.environ.items() if key not in NAMES}
    env.update(given)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("version", "machine", "isa"),
    [
        ("2.7.2", "x86_64", "unset"),
        ("2.8.0", "x86_64", "unset"),
        ("2.9.0", "x86_64", "AVX2"),
        ("2.10.0", "x86_64", "AVX2"),  # 2.10 is newer than 2.9, though not as text
        ("2.10.0rc1", "AMD64", "AVX2"),
        ("2.10.0", "aarch64", "unset"),
        (None, "x86_64", "unset"),  # a MindSpore without metadata
    ],
)
def test_guard_caps_onednn_where_avx512_is_slow(version, machine, isa):
    assert environment_after_import(version, machine) == [isa, "3", "True"]


def test_guard_keeps_what_the_user_has_set():
    kept = environment_after_import("2.10.0", ONEDNN_MAX_CPU_ISA="AVX512_CORE", GLOG_v="1")
    assert kept == ["AVX512_CORE", "1", "True"]


def test_guard_comes_with_the_package():
    code = "import acmix_ms, os; print(os.environ['GLOG_v'])"
    env = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3"]


def test_broken_image_is_told_once_by_the_exception():
    code = """
import acmix_ms
import mindspore.dataset as ds, numpy as np
broken = np.frombuffer(bytes.fromhex("89504e470d0a1a0a") + b"no picture" * 20, np.uint8)
data = ds.GeneratorDataset([(broken,)], ["image"], shuffle=False).map(ds.vision.Decode(), ["image"])
try:
    list(data.create_tuple_iterator())
except RuntimeError as error:
    print("Decode" in str(error))
"""
    env = {key: value for key, value in os.environ.items() if key not in runtime.QUIET}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def only(*present):
    return lambda device: device in present


def test_auto_takes_the_best_device(monkeypatch):
    for present, best in ((("CPU",), "CPU"), (("GPU", "CPU"), "GPU"), (("Ascend", "CPU"), "Ascend")):
        monkeypatch.setattr(runtime, "available", only(*present))
        assert runtime._resolve_device("auto") == best


def test_absent_device_is_one_line_with_a_remedy(monkeypatch):
    monkeypatch.setattr(runtime, "available", only("CPU"))
    with pytest.raises(UserError, match=r"^runtime\.device=Ascend: .* only CPU; use runtime\.device=auto[^\n]*$"):
        runtime.start(device="Ascend")


@pytest.mark.skipif(runtime.available("Ascend"), reason="this machine has an Ascend device")
def test_real_probe_of_an_absent_device_is_quiet():
    code = "from acmix_ms import runtime; runtime.start(device='Ascend')"
    env = {key: value for key, value in os.environ.items() if key != "GLOG_v"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("acmix_ms.errors.UserError: runtime.device=Ascend: ")
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "ascend"}, "runtime.device='ascend': did you mean 'Ascend'"),
        ({"device": "TPU"}, "runtime.device='TPU'"),
        ({"mode": "grpah"}, "runtime.mode='grpah': did you mean 'graph'"),
        ({"seed": -1}, "seed=-1"),
        ({"threads": 0}, "runtime.threads=0"),
        ({"jit_level": "O2"}, "runtime.jit_level='O2'"),
        ({"device": "CPU", "deterministic": True, "threads": 2}, "runtime.threads=2"),
    ],
)
def test_impossible_arguments_are_named(arguments, said):
    with pytest.raises(UserError) as caught:
        runtime.start(**arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mode_is_set():
    runtime.start(mode="graph")
    assert ms.get_context("mode") == ms.GRAPH_MODE
    runtime.start(mode="pynative")
    assert ms.get_context("mode") == ms.PYNATIVE_MODE


def test_seeds_reproduce():
    def draw(seed):
        runtime.start(mode="pynative", seed=seed)
        return [ms.ops.randn(4).asnumpy(), np.random.rand(4), np.array([random.random()])]

    first, again, other = draw(1), draw(1), draw(2)
    for one, two, three in zip(first, again, other):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, three)


def test_deterministic_on_cpu_runs_with_one_thread():
    code = """
import mindspore as ms
from acmix_ms import runtime
asked = []
ms.device_context.cpu.op_tuning.threads_num = asked.append
for _ in range(2):
    runtime.start(device="CPU", deterministic=True)
print(asked)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1]"  # once: MindSpore refuses a second time


def test_rank_and_world_size_come_from_msrun_alone(monkeypatch):
    monkeypatch.setenv("RANK_ID", "3")  # as an Ascend user's shell may have it
    monkeypatch.delenv("MS_ROLE", raising=False)
    assert (runtime.rank(), runtime.world_size()) == (0, 1)
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("MS_WORKER_NUM", "8")
    assert (runtime.rank(), runtime.world_size()) == (3, 8)
