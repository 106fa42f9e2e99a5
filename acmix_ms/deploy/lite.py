"""MindSpore Lite in a Python of its own: which one, conversion to ``.ms``, runs on CPU.

PyPI has Lite 2.0.0 for Python 3.7 only, a vendor's release comes for newer ones; so it always runs in a process of its
own (`lite_worker.py`), and the rest of the project does not notice which.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from acmix_ms import runtime
from acmix_ms.deploy import lite_config, lite_source
from acmix_ms.deploy.files import plain_folder, put
from acmix_ms.deploy.runner import Runner, require_images
from acmix_ms.errors import UserError, closest
from acmix_ms.files import writable_file

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("lite_worker.py")
OWN_PYTHON = ROOT / ".venv-lite" / "bin" / "python"  # made by `make lite`
HOW_TO_GET = (
    "run `make lite` (needs Python 3.7), or install the vendor's mindspore_lite beside MindSpore, "
    "or name a Python that has it in ACMIX_LITE_PYTHON"
)
SUFFIX = ".ms"
SOURCES = {".onnx": "onnx", ".mindir": "mindir"}
QUANTIZATIONS = ("weight", "full")


class LiteError(RuntimeError):
    """MindSpore Lite gave up; the message is its own."""


@functools.cache
def find() -> Lite:
    """The MindSpore Lite that is used: of ``ACMIX_LITE_PYTHON``, else of this Python, else of `make lite`.

    Raises:
        UserError: there is none.
    """
    named = runtime.lite_python()
    if named:
        candidates = [named]
    else:
        candidates = [sys.executable] if importlib.util.find_spec("mindspore_lite") else []
        candidates += [str(OWN_PYTHON)] if OWN_PYTHON.is_file() else []
    reasons = []
    for python in candidates:
        try:
            return Lite(python)
        except LiteError as error:
            reasons.append(f"{python}: {error}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise UserError(f"MindSpore Lite was not found{why}: {HOW_TO_GET}")


def missing() -> str | None:
    """Why `find` finds none and how to get one, or None."""
    try:
        find()
    except UserError as error:
        return str(error)
    return None


def without_boxes() -> str | None:
    """Why `find`'s Lite cannot run a detector up to its boxes, or None: seen of 2.0.0, others are tried."""
    version = find().version
    if not version.startswith("2.0."):
        return None
    return (
        f"MindSpore Lite {version} has no kernels for what makes boxes of a detector's maps (Floor, Less): "
        "of a RetinaNet give --raw, scripts/infer_lite.py makes the boxes; others have no such file"
    )


class LiteFile(Runner):
    """The net in a ``.ms``, run by MindSpore Lite on CPU, in a process of its own."""

    def __init__(self, path: str | os.PathLike, names: Sequence[str] | None = None):
        super().__init__(path, names)
        self._lite = find()

    @functools.cached_property
    def input_shape(self) -> tuple[int | None, ...]:
        """See `Runner`. The batch is left to the process that runs the file, which cuts it as the file needs."""
        return None, *require_images(self.path, [self._lite.input_shape(self.path)])[1:]

    def own_names(self, count: int) -> Sequence[str]:
        """See `Runner`."""
        return self._found

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Runner`."""
        return self._run([images])[0]

    def batches(self, batches: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """See `Runner`; in one process."""
        return [self._named(self._checked(values, len(batch))) for batch, values in zip(batches, self._run(batches))]

    def _run(self, batches: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        outputs = self._lite.outputs(self.path, batches)
        self._found = list(outputs[0])  # Lite 2.0.0 tells the names only when it has run
        if set(self._found) == set(self.names):  # a converter may put them in another order
            self._found = list(self.names)
        return [tuple(found[name] for name in self._found) for found in outputs]


class Lite:
    """The MindSpore Lite of one Python.

    Attributes:
        python: the interpreter.
        version: of Lite, such as "2.0.0".

    Raises:
        LiteError: this Python has none, or it does not load.
    """

    def __init__(self, python: str):
        self.python = python
        self.version: str = self._ask({"job": "version"})["version"]

    @functools.cached_property
    def reads_mindir(self) -> bool:
        """Whether it reads what this MindSpore writes; found out with a net of one ReLU.

        Lite 2.0.0 does not: "maximum mind ir version: 1", MindSpore 2.7 writes version 3.
        """
        import mindspore as ms
        from mindspore import nn

        with tempfile.TemporaryDirectory(prefix="acmix-lite-") as folder:
            source = Path(folder) / "relu.mindir"
            example = ms.Tensor(np.zeros((1, 1, 2, 2), np.float32))
            ms.export(nn.ReLU(), example, file_name=str(source), file_format="MINDIR")
            try:
                self._convert(source, Path(folder) / "relu")
            except LiteError:
                return False
        return True

    def convert(
        self,
        source: str | os.PathLike,
        output: str | os.PathLike,
        *,
        input_shape: tuple[int, ...] | None = None,
        fp16: bool = False,
        quantization: str | None = None,
        calibration: np.ndarray | None = None,
    ) -> Path:
        """Write ``source`` as a ``.ms``, under a partial name first.

        Args:
            source: an .onnx, or with a release that reads it (`reads_mindir`) a .mindir.
            input_shape: fixes what the file leaves open, such as the batch.
            fp16: keep the weights in 16 bits, half the size; they are computed with in float32 on CPU.
            quantization: "full": weights and activations in 8 bits, from an .onnx; "weight": the weights alone.
            calibration: (N, 3, H, W) float32 images, prepared as the net gets them, which "full" measures ranges on.

        Raises:
            UserError: the file is missing, is none of these, or cannot be converted.
        """
        source, output = Path(source), writable_file(output, "output")
        kind = SOURCES.get(source.suffix)
        if kind is None:
            raise UserError(f"{source}: MindSpore Lite converts .onnx and .mindir files; give one of these")
        if output.suffix != SUFFIX:
            raise UserError(f"{output}: files of MindSpore Lite end in {SUFFIX}")
        if not source.is_file():
            raise UserError(f"{source} does not exist")
        if kind == "mindir" and not self.reads_mindir:
            raise UserError(
                f"{source}: MindSpore Lite {self.version} cannot read the MINDIR of this MindSpore; "
                "give an .onnx, or install the vendor's release of Lite that matches"
            )
        if quantization not in (None, *QUANTIZATIONS):
            raise UserError(f"quantization={quantization!r}: {closest(str(quantization), QUANTIZATIONS)}")
        with plain_folder(output.parent) as folder:
            partial = folder / "model"
            config = lite_config.write(quantization, source, calibration, folder)
            given = lite_source.with_own_weights(source, folder) if kind == "onnx" else source
            try:
                self._convert(given, partial, input_shape, fp16, config, quantization == "full")
            except LiteError as error:
                raise UserError(f"{source} cannot be converted by MindSpore Lite {self.version}: {error}") from error
            partial = partial.with_suffix(SUFFIX)  # the converter has added it
            partial.chmod(0o644)  # from 0400
            put(partial, output)
        return output

    def input_shape(self, path: str | os.PathLike) -> tuple[int | None, ...]:
        """What a ``.ms`` takes, (B, C, H, W); None where any size will do.

        Raises:
            UserError: the file is missing or broken.
        """
        answer = self._ask_about(path, {"job": "shape", "threads": 1})
        return tuple(None if size == -1 else size for size in answer["shape"])

    def run(
        self, path: str | os.PathLike, batches: Sequence[np.ndarray], *, threads: int | None = None
    ) -> list[np.ndarray]:
        """`outputs` of a ``.ms`` that has one."""
        outputs = self.outputs(path, batches, threads=threads)
        if any(len(found) != 1 for found in outputs):
            raise UserError(f"{path} has {len(outputs[0])} outputs, not one")
        return [next(iter(found.values())) for found in outputs]

    def outputs(
        self, path: str | os.PathLike, batches: Sequence[np.ndarray], *, threads: int | None = None
    ) -> list[dict[str, np.ndarray]]:
        """All outputs of a ``.ms``, by the names in it, for batches (B, C, H, W) float32, in one process.

        A file for any batch size is given them as they are, another one in batches of its own size.

        Raises:
            UserError: the file is missing, broken, or takes something else.
        """
        return self._run(path, batches, threads, 0)[0]

    def seconds(
        self, path: str | os.PathLike, batch: np.ndarray, repeats: int = 50, *, threads: int | None = None
    ) -> list[float]:
        """Seconds of each of ``repeats`` runs on ``batch``, of the file's own size, after one that is not counted.

        Raises:
            UserError: see `run`.
        """
        return self._run(path, [batch], threads, repeats)[1]

    def _run(self, path: str | os.PathLike, batches: Sequence[np.ndarray], threads: int | None, repeats: int):
        """(outputs, seconds of ``repeats`` more runs)."""
        with tempfile.TemporaryDirectory(prefix="acmix-lite-") as folder:
            inputs, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
            np.savez(inputs, **{str(i): np.ascontiguousarray(batch, np.float32) for i, batch in enumerate(batches)})
            request = {"job": "run", "inputs": str(inputs), "outputs": str(outputs), "repeats": repeats}
            answer = self._ask_about(path, {**request, "threads": threads or runtime.cpu_cores()})
            with np.load(outputs) as arrays:
                found = [
                    {name: arrays[f"{number}.{output}"] for output, name in enumerate(answer["names"])}
                    for number in range(len(batches))
                ]
                return found, answer["seconds"]

    def _ask_about(self, path: str | os.PathLike, request: dict) -> dict:
        """One job that loads a ``.ms``."""
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist")
        try:
            return self._ask({**request, "model": str(Path(path).resolve())})
        except LiteError as error:
            raise UserError(
                f"{path} cannot be run by MindSpore Lite {self.version}: {error}; export it again"
            ) from error

    def _convert(
        self,
        source: Path,
        output: Path,
        input_shape: tuple[int, ...] | None = None,
        fp16: bool = False,
        config: Path | None = None,
        calibrates: bool = False,
    ) -> None:
        shape = {lite_config.input_name(source): list(input_shape)} if input_shape else None
        request = {"job": "convert", "kind": SOURCES[source.suffix], "source": str(source.resolve())}
        request.update(output=str(output.resolve()), input_shape=shape, fp16=fp16, config=str(config or ""))
        self._ask({**request, "calibrates": calibrates})

    def _ask(self, request: dict) -> dict:
        """One job in a process of its own."""
        with tempfile.TemporaryDirectory(prefix="acmix-lite-") as folder:
            reply, asked = Path(folder) / "reply.json", Path(folder) / "request.json"
            asked.write_text(json.dumps({**request, "reply": str(reply)}), encoding="utf-8")
            # Another Python must not be led to the packages of this one (PYTHONPATH).
            isolated = [] if self.python == sys.executable else ["-I"]
            try:
                done = subprocess.run(
                    [self.python, *isolated, str(WORKER), str(asked)],
                    cwd=folder,  # what Lite drops into it goes with it
                    env=runtime.lite_environment(),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                )
            except OSError as error:
                raise LiteError(error.strerror or str(error)) from error
            log = (done.stdout + done.stderr).decode(errors="replace")
            if not reply.is_file():
                raise LiteError(_cause(log) or _how_it_ended(done.returncode))
            answer = json.loads(reply.read_text(encoding="utf-8"))
        if "error" in answer:
            raise LiteError(_cause(log) or answer["error"])
        return answer["answer"]


def _cause(log: str) -> str:
    """The first error in a log of Lite, which is the cause; those that follow only pass it on."""
    messages = re.findall(r"^\[ERROR\] .*?\.cc:\d+\] \w+\] (.+?)\s*$", log, flags=re.MULTILINE)
    return messages[0].strip('" .') if messages else ""


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"its process died of signal {-code} ({signal.Signals(-code).name})"
    return f"its process ended with status {code}"
