"""What is installed and what is packed: the wheel works alone, nothing shadows other projects, nothing is left out."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import acmix_ms
from acmix_ms.checkout import CONFIGS, shipped
from tests.conftest import ROOT

BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


# ------------------------------------------------------------------------------------------------------ in a checkout
def test_the_models_exist_once_whatever_they_are_called():
    import acmix_ms.models.resnet
    import models.layers
    import models.registry

    for name in ("", ".registry", ".layers", ".resnet", ".manifest"):
        ours = importlib.import_module(f"acmix_ms.models{name}")
        assert importlib.import_module(f"models{name}") is ours
        assert ours.__name__ == ours.__spec__.name == f"acmix_ms.models{name}"
    assert models.resnet is acmix_ms.models.resnet
    assert pickle.loads(pickle.dumps(models.resnet.ResNet)) is acmix_ms.models.resnet.ResNet
    with pytest.raises(ModuleNotFoundError, match=r"models\.none"):
        importlib.import_module("models.none")
    with pytest.raises(ImportError, match="none"):
        from models import none  # noqa: F401


@pytest.mark.parametrize("first", ["models.registry", "acmix_ms.models", "models.build"])
def test_the_order_of_imports_does_not_matter(first):
    code = f"import {first}, models, acmix_ms.models, sys; assert models is acmix_ms.models is sys.modules['models']"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=without_path(), check=True)


def test_the_package_lists_what_it_offers():
    assert set(acmix_ms.__all__) | {"models", "runtime"} <= set(dir(acmix_ms))
    assert "create_model" in dir(importlib.import_module("acmix_ms.models"))


def test_configurations_of_the_project_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "configs/classification/resnet_digits.yaml"
    assert shipped(name) == CONFIGS / "classification" / "resnet_digits.yaml"
    assert shipped("configs/none.yaml") == Path("configs/none.yaml")
    assert shipped("classification/resnet_digits.yaml") == Path("classification/resnet_digits.yaml")
    Path(name).parent.mkdir(parents=True)
    Path(name).write_text("seed: 1")
    assert shipped(name) == Path(name), "the user's own file comes first"


# ------------------------------------------------------------------------------------------------------------- packed
def without_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what git knows, or would if it were added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("only a git checkout can say which files are the project's")
    folder = tmp_path_factory.mktemp("tree")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def build(kind: str, tree: Path, target: Path) -> Path:
    """The ``wheel``, ``editable`` (a wheel that points to the tree) or ``sdist`` of the tree."""
    pytest.importorskip("setuptools", minversion="77", reason="it is what builds: make env")
    command = [sys.executable, "-W", "ignore", "-c", BUILD, kind, str(target)]
    done = subprocess.run(command, cwd=tree, env=without_path(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture
def other(tmp_path) -> Path:
    """A folder of another project, which has its own ``models`` and ``train``."""
    folder = tmp_path / "other"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "__init__.py").write_text("who = 'theirs'\n")
    (folder / "models" / "registry.py").write_text("who = 'theirs as well'\n")
    (folder / "train.py").write_text("who = 'theirs'\n")
    return folder


NOT_SHADOWED = """
import importlib.util, sys
import acmix_ms.models                                  # before and after: the order must not matter
import models, models.registry, train
assert (models.who, models.registry.who, train.who) == ("theirs", "theirs as well", "theirs")
from acmix_ms.models import create_model, list_models
assert models.registry is not acmix_ms.models.registry
assert not [name for name in ("scripts", "tests", "configs", "eval", "setup") if importlib.util.find_spec(name)]
print(acmix_ms.__file__, len(list_models()), type(create_model("resnet_digits", 10)).__module__)
"""


@pytest.mark.slow
def test_the_wheel_works_alone(tree, other, tmp_path):
    before = contents(tree)
    wheel = build("wheel", tree, tmp_path / "dist")
    assert contents(tree) == before, "building leaves the source tree as it was"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {name for name in before if name.startswith("acmix_ms/")}
    wanted |= {f"acmix_ms/{name}" for name in before if name.startswith(("models/", "configs/"))}
    assert names == wanted
    assert "acmix_ms/py.typed" in names

    site = tmp_path / "site-packages"  # MindSpore's compiler looks whether a function comes from a folder of this name
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, capture_output=True, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*command: object, code: int = 0) -> str:
        done = subprocess.run([*map(str, command)], cwd=other, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    file, count, module = run(sys.executable, "-c", NOT_SHADOWED).split()
    assert Path(file).parent == site / "acmix_ms"
    assert (int(count) >= 40, module) == (True, "acmix_ms.models.resnet")
    for name in ("train", "eval", "export", "predict"):
        assert f"usage: acmix-{name} " in run(site / "bin" / f"acmix-{name}", "--help")
    assert "see acmix-train --help" in run(site / "bin" / "acmix-train", code=2)
    config = ("--config", "configs/classification/acmix_resnet_digits.yaml", "run_dir=run", "optim.epochs=1")
    run(site / "bin" / "acmix-train", *config, "data.batch_size=256", "runtime.device=CPU")
    assert "  355 images  " in run(site / "bin" / "acmix-eval", "--checkpoint", "run/best.ckpt")


def test_an_editable_installation_shadows_nothing(tree, other, tmp_path):
    before = contents(tree)
    with zipfile.ZipFile(build("editable", tree, tmp_path / "dist")) as archive:
        archive.extractall(tmp_path / "site")
    assert contents(tree) == before
    # Without the site module, so that this environment's own installation is not seen.
    code = f"import site, sys\nsys.path[:0] = [{str(other)!r}]\nsite.addsitedir({str(tmp_path / 'site')!r})\n"
    code += f"sys.path.append({sysconfig.get_path('purelib')!r})\n"  # last: the finder there has the same name
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code + NOT_SHADOWED], cwd=other, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[0]).parent == tree / "acmix_ms"


def test_the_sdist_holds_everything(tree, tmp_path):
    before = contents(tree)
    sdist = build("sdist", tree, tmp_path / "dist")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert names - made == before
