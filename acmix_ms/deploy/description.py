"""The small JSON beside every exported file: all that a deployment must know of the net in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from acmix_ms.data.preprocess import Preprocess
from acmix_ms.deploy.comparison import TOLERANCES, Difference, Differences
from acmix_ms.deploy.runner import LOGITS
from acmix_ms.errors import UserError
from acmix_ms.files import read_json, sha256, write_text

TASKS = ("classification", "detection", "segmentation")
FORMATS = ("mindir", "onnx", "ms", "air")
PRECISIONS = (*TOLERANCES, "int8")
INPUT = {"dtype": "float32", "layout": "NCHW", "colors": "RGB"}  # of every file
LARGEST = 2**31  # of sizes and counts


class Output(NamedTuple):
    """One of the things that a net answers: ``shape`` (B, ...), None where any size will do."""

    name: str
    meaning: str
    shape: tuple[int | None, ...] = ()


CLASSIFIER = (Output(LOGITS, "one number for each class; softmax makes probabilities of them"),)
DETECTOR = (
    Output("boxes", "x1, y1, x2, y2 in pixels of the input, the surest first; divide by the scale of the picture"),
    Output("scores", "0 to 1; 0 where there is nothing"),
    Output("labels", "the class; -1 where there is nothing"),
)
SEGMENTOR = Output(
    LOGITS,
    "one number for each class and place of a grid over the input; enlarged to the input and then to the picture, the "
    "largest is the class of a pixel",
)
LABELS = Output("labels", "the class of each pixel of the input; the picture's pixels get that of the nearest")
MASKS = Output("masks", "0 to 1, of the parts of each box: is it the object?; from 0.5 on, once stretched over the box")
SOFTMAX = {"operation": "softmax", "output": LOGITS, "axis": 1}


@dataclass(frozen=True)
class Description:
    """What is in a file.

    Attributes:
        model: name of the architecture.
        num_classes: that it tells apart.
        preprocess: how a picture becomes the input.
        classes: their names, or None where these are not known.
        format, precision: of the file; ``"fp16"`` is what the net computes in, its input and output stay float32.
        input_shape: (B, C, H, W); None where any size will do. Where H and W differ, the middle of the crop.
        verified: how far the file's answers lay from the net's, the largest over all batches; None where the format
            cannot be run here.
        task: one of `TASKS`.
        outputs: what the net answers, in its order.
        postprocess: what makes the answer to the task of the outputs; ``"operation"`` names it.
        sha256: of the file, in hexadecimal digits; "" where an earlier version wrote the description.
        canvas: of a detector how a picture of any size becomes the input: scaled so that its shorter side is
            ``short_side`` and its longer one at most ``max_side`` (where that is no null) and it fits the input, then
            padded with zeros at the right and below. ``resize`` and ``crop`` of ``preprocess`` mean nothing then. Of a
            segmentor the same, but the sides of the scaled picture are rounded up to the next ``multiple``, which it
            is stretched to fill.
    """

    model: str
    num_classes: int
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    format: str = ""
    precision: str = "fp32"
    input_shape: tuple[int | None, ...] = ()
    verified: Differences | None = None
    task: str = "classification"
    outputs: tuple[Output, ...] = CLASSIFIER
    postprocess: dict | None = None
    sha256: str = ""
    canvas: dict | None = None

    def write(self, path: str | os.PathLike) -> None:
        """Write the JSON of the exported file at ``path``."""
        found = None if self.verified is None else self.verified.outputs.items()
        postprocess = SOFTMAX if self.postprocess is None and self.task == "classification" else self.postprocess
        values = {
            "model": self.model,
            "task": self.task,
            "format": self.format,
            "precision": self.precision,
            "num_classes": self.num_classes,
            "input": {"shape": list(self.input_shape), **INPUT},
            "preprocess": asdict(self.preprocess),
            **({} if self.canvas is None else {"canvas": self.canvas}),
            "outputs": [output._asdict() for output in self.outputs],
            "postprocess": postprocess,
            "classes": None if self.classes is None else list(self.classes),
            "verified": None if found is None else {name: difference._asdict() for name, difference in found},
            "sha256": self.sha256,
        }
        write_text(beside(path), json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def beside(path: str | os.PathLike) -> Path:
    """Where the description of an exported file lies: ``net.onnx`` -> ``net.onnx.json``."""
    path = Path(path)
    return path.with_name(f"{path.name}.json")


def read(path: str | os.PathLike) -> Description:
    """The description of the exported file at ``path``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = beside(path)
    if not file.is_file():
        raise UserError(f"{file}, which export.py writes beside the file, is not there: copy both, or export it again")
    values = read_json(file, "description")
    try:
        return from_dict(values)
    except ValueError as error:
        raise UserError(f"{file} is not what export.py writes ({error}): export the file again") from error


def read_if_there(path: str | os.PathLike) -> Description | None:
    """The description beside a file, after comparing its sha256 with that of the file; None if there is none.

    Raises:
        UserError: it is damaged, or that of another file.
    """
    if not beside(path).exists():
        return None
    about = read(path)
    if about.sha256 and sha256(path) != about.sha256:
        raise UserError(
            f"{path} is not the file that {beside(path)} describes, their sha256 differ: it is damaged, or one of the "
            "two was replaced; copy both again, or export it again"
        )
    return about


# --------------------------------------------------------------------------------------------------------- the schema
def from_dict(values: dict) -> Description:
    """The description in a JSON object, every value of it looked at.

    Raises:
        ValueError: one sentence that names the key.
    """
    checked = _object("description", values, _SCHEMA)
    given = checked.pop("input")
    checked["input_shape"] = given["shape"]
    if checked["verified"] is not None:
        checked["verified"] = Differences(checked["verified"])
    about = Description(**checked)
    if about.classes is not None and len(about.classes) != about.num_classes:
        raise ValueError(f"classes: {len(about.classes)} names for num_classes={about.num_classes}")
    if about.task == "classification":
        shapes = [output.shape for output in about.outputs]
        if len(shapes) != 1 or (shapes[0] and shapes[0][1:] != (about.num_classes,)):
            raise ValueError(f"outputs: a classifier has one, of batch x {about.num_classes}")
    if about.task == "segmentation" and len(about.outputs) != 1:
        raise ValueError("outputs: a segmentor has one")
    return about


class _Key(NamedTuple):
    """Of an object: what looks at its value and gives what it stands for; ``default`` where it may be missing."""

    check: Callable
    default: object = ...


def _object(name: str, value, keys: dict[str, _Key]) -> dict:
    """Of a JSON object all that ``keys`` has, looked at; others are refused."""
    if not isinstance(value, dict):
        raise ValueError(f"{name}: no JSON object")
    for key in value:
        if key not in keys:
            raise ValueError(f"{name}: unknown key {key!r}")
    found = {}
    for key, (check, default) in keys.items():
        if key in value:
            found[key] = check(key, value[key])
        elif default is ...:
            raise ValueError(f"{name}: {key} is missing")
        else:
            found[key] = default
    return found


def _text(name: str, value) -> str:
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError) as error:  # half a pair of UTF-16 is no text
        raise ValueError(f"{name}={value!r} is no text") from error
    return value


def _one_of(*choices) -> Callable:
    def check(name: str, value):
        if value not in choices or not isinstance(value, str):
            raise ValueError(f"{name}={value!r} is none of {', '.join(choices)}")
        return value

    return check


def _count(name: str, value) -> int:
    if type(value) is not int or not 1 <= value <= LARGEST:
        raise ValueError(f"{name}={value!r} is no count")
    return value


def _number(name: str, value) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{name}={value!r} is no number")
    return value


def _list(check: Callable, least: int = 0, most: int = LARGEST) -> Callable:
    def check_all(name: str, value) -> tuple:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError(f"{name}: no list" + (f" of {least}" if least == most else ""))
        return tuple(check(name, part) for part in value)

    return check_all


def _or_null(check: Callable) -> Callable:
    return lambda name, value: None if value is None else check(name, value)


def _outputs(name: str, value) -> tuple[Output, ...]:
    keys = {"name": _Key(_text), "meaning": _Key(_text), "shape": _Key(_list(_or_null(_count)))}
    found = _list(lambda part, one: Output(**_object(part, one, keys)), least=1)(name, value)
    if len({output.name for output in found}) < len(found) or not all(output.name for output in found):
        raise ValueError(f"{name}: two have the same name, or one has none")
    return found


def _verified(name: str, value) -> dict[str, Difference]:
    keys = {"absolute": _Key(_number), "relative": _Key(_number)}
    keys.update(agreeing=_Key(_or_null(_number)), images=_Key(_number))
    if isinstance(value, dict) and "absolute" in value:  # as it was written when there were logits only
        value = {LOGITS: value}
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{name}: no JSON object")
    return {output: Difference(**_object(f"{name} {output}", one, keys)) for output, one in value.items()}


def _postprocess(name: str, value) -> dict:
    if not isinstance(value, dict) or not isinstance(value.get("operation"), str):
        raise ValueError(f"{name}: names no operation")
    return value


def _canvas(name: str, value) -> dict:
    keys = {"short_side": _Key(_count), "max_side": _Key(_or_null(_count)), "multiple": _Key(_count, None)}
    return {key: part for key, part in _object(name, value, keys).items() if (key, part) != ("multiple", None)}


def _sha256(name: str, value) -> str:
    if not isinstance(value, str) or not re.fullmatch("([0-9a-f]{64})?", value):
        raise ValueError(f"{name}={value!r} is no sha256")
    return value


_SCHEMA = {
    "model": _Key(_text),
    "task": _Key(_one_of(*TASKS), TASKS[0]),
    "format": _Key(_one_of(*FORMATS)),
    "precision": _Key(_one_of(*PRECISIONS)),
    "num_classes": _Key(_count),
    "input": _Key(
        lambda name, value: _object(
            name,
            value,
            {"shape": _Key(_list(_or_null(_count), 4, 4)), **{key: _Key(_one_of(one)) for key, one in INPUT.items()}},
        )
    ),
    "preprocess": _Key(lambda name, value: Preprocess.from_dict(value)),
    "outputs": _Key(_outputs, CLASSIFIER),
    "postprocess": _Key(_or_null(_postprocess), None),
    "classes": _Key(_or_null(_list(_text))),
    "verified": _Key(_or_null(_verified), None),
    "sha256": _Key(_sha256, ""),
    "canvas": _Key(_canvas, None),
}
