"""The directions of the imports and the shape of the files, as CONTRIBUTING tells them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each part of acmix_ms may import from acmix_ms, itself aside. A new part needs a line here.
BASE = {"errors", "runtime"}
ANSWERS = {"postprocess", "masks", "maps"}
MAY_IMPORT = {
    "__init__": {"runtime", "ops", "checkout"},
    "checkout": set(),
    "errors": set(),
    "machine": set(),
    "runtime": {"errors"},
    "arguments": {"errors", "config"},
    "config": {"errors", "files", "checkout"},
    "files": {"errors"},
    "backbone": set(),
    "objects": set(),
    "maps": set(),
    "postprocess": set(),
    "masks": {"errors", "postprocess"},
    "ops": BASE | {"maps"},
    "analysis": BASE | {"ops", "objects", "postprocess", "maps", "backbone"},
    "data": BASE | {"config", "files", "objects", "masks", "maps"},
    "engine": BASE | {"config", "files", "machine", "ops", "data", "analysis", "backbone"} | ANSWERS,
    "launch": BASE | {"config", "engine"},
    "deploy": BASE | {"config", "files", "ops", "data", "engine"} | ANSWERS,
}
MODELS_MAY_IMPORT = BASE | {"ops", "backbone", "objects", "postprocess", "maps"}
ALSO = {
    "pretrained.py": {"engine"},  # reading, checking and resizing weights is written once, for fine-tuning too
    "torch_files.py": {"files"},  # the sum over a file as well
    "tasks.py": {"config", "data", "deploy", "engine"},  # what trains and judges a net
    "answers.py": {"analysis", "config", "data", "deploy", "engine"},  # what a net says of image files
    "exports.py": {"config", "data", "deploy"},  # what of a net goes into a file
    "build.py": {"arguments", "checkout", "config", "data", "deploy", "engine", "files"},  # configuration -> net
}
COMMANDS = "commands"  # of acmix_ms they alone may import everything, models as well: they put the parts together


def imported(source, package=""):
    """Full names of all that a source imports, inside functions too; relative names are resolved in ``package``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def imported_by(path):
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return imported(path.read_text(encoding="utf-8"), package)


def files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def parts_of_acmix(names):
    """Which parts of acmix_ms are meant; the Cells that the package exports are of ops."""
    parts = {name.split(".")[1] for name in names if name.startswith("acmix_ms.")}
    return {"ops" if part.endswith("ACmix") else part for part in parts} - {"__version__"}


def relative(path):
    return str(path.relative_to(ROOT))


def test_imports_are_found_wherever_they_stand():
    source = "import a.b as c, d\nfrom e import f, g\nfrom . import h\nfrom ..i import j\ndef k():\n    from l import n"
    expected = {"a.b", "d", "e.f", "e.g", "acmix_ms.ops.h", "acmix_ms.i.j", "l.n"}
    assert imported(source, "acmix_ms.ops") == expected


TOOLBOX = [path for path in files("acmix_ms") if path.parent.name != COMMANDS]


def rooms(path):
    """Which folders beside ``acmix_ms`` a file imports from."""
    names = {name.removeprefix("acmix_ms.") if f"{name}.".startswith("acmix_ms.models.") else name
             for name in imported_by(path)}
    return {name.split(".")[0] for name in names} & {"models", "benchmarks", "scripts"}


@pytest.mark.parametrize("path", TOOLBOX, ids=relative)
def test_toolbox_never_imports_models(path):
    assert not rooms(path)


@pytest.mark.parametrize("path", files("models", "benchmarks"), ids=relative)
def test_scripts_are_above_models_and_what_measures(path):
    folder = path.relative_to(ROOT).parts[0]
    assert rooms(path) <= {"models", folder}


@pytest.mark.parametrize("path", files("acmix_ms/commands") + sorted(ROOT.glob("*.py")), ids=relative)
def test_commands_look_down_on_packages_only(path):
    # What is installed has no other folder than acmix_ms.
    assert not {name.split(".")[0] for name in imported_by(path)} & {"scripts", "benchmarks", "models", "tests"}


@pytest.mark.parametrize("path", files("models"), ids=relative)
def test_models_import_each_other_relatively(path):
    # They are models.* in this folder and acmix_ms.models.* for everybody else.
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        assert not [name for name in names if f"{name}.".startswith(("models.", "acmix_ms.models."))]


@pytest.mark.parametrize("path", TOOLBOX, ids=relative)
def test_parts_of_the_toolbox_keep_their_order(path):
    part = path.relative_to(ROOT / "acmix_ms").parts[0].removesuffix(".py")
    assert parts_of_acmix(imported_by(path)) <= MAY_IMPORT[part] | {part}


@pytest.mark.parametrize("path", files("models"), ids=relative)
def test_models_import_the_operator_only(path):
    assert parts_of_acmix(imported_by(path)) <= MODELS_MAY_IMPORT | ALSO.get(path.name, set())


def test_the_judge_is_imported_by_tests_and_verify_only():
    # A reference that the implementation may call could no longer contradict it.
    everywhere = files("acmix_ms", "models", "benchmarks", "scripts")
    users = [path for path in everywhere if path.name not in ("reference.py", "verify.py")]
    users += ROOT.glob("*.py")
    judge = "acmix_ms.ops.reference"
    assert [relative(p) for p in users if any(f"{name}.".startswith(f"{judge}.") for name in imported_by(p))] == []


@pytest.mark.parametrize("path", files("acmix_ms", "models", "benchmarks"), ids=relative)
def test_machine_and_process_are_the_business_of_runtime(path):
    if path == ROOT / "acmix_ms" / "runtime.py":
        return
    private = {"environ", "getenv", "set_device", "set_context", "set_deterministic", "device_context"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not private & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", files("acmix_ms", "models", "benchmarks"), ids=relative)
def test_constructors_print_nothing(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            assert not [call for call in ast.walk(node) if getattr(getattr(call, "func", None), "id", "") == "print"]


@pytest.mark.parametrize("path", files("acmix_ms/commands"), ids=relative)
def test_commands_are_read_in_one_glance(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 70


def test_importing_the_package_is_cheap():
    # Bad arguments are told before the seconds that MindSpore takes to load.
    code = "import sys, acmix_ms; print(sorted({'mindspore', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
