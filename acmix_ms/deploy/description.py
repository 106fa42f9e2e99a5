"""The small JSON beside every exported file: all that a deployment must know of the net in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from acmix_ms.data.preprocess import Preprocess
from acmix_ms.deploy.comparison import Difference
from acmix_ms.errors import UserError
from acmix_ms.files import write_text


@dataclass(frozen=True)
class Description:
    """What is in a file.

    Attributes:
        model: name of the architecture.
        num_classes: logits for each image.
        preprocess: how a picture becomes the input.
        classes: their names, or None where these are not known.
        format, precision: of the file; ``"fp16"`` is what the net computes in, its input and output stay float32.
        input_shape: (B, C, H, W); None where any size will do.
        verified: how far the file's answers lay from the net's, the largest over all batches; None where the format
            cannot be run here.
    """

    model: str
    num_classes: int
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    format: str = ""
    precision: str = "fp32"
    input_shape: tuple[int | None, ...] = ()
    verified: Difference | None = None

    def write(self, path: str | os.PathLike) -> None:
        """Write the JSON of the exported file at ``path``."""
        values = {
            "model": self.model,
            "format": self.format,
            "precision": self.precision,
            "num_classes": self.num_classes,
            "input": {"shape": list(self.input_shape), "dtype": "float32", "layout": "NCHW", "colors": "RGB"},
            "preprocess": asdict(self.preprocess),
            "classes": None if self.classes is None else list(self.classes),
            "verified": None if self.verified is None else self.verified._asdict(),
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
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        preprocess = Preprocess.from_dict(values["preprocess"])
        classes = values["classes"]
        return Description(
            values["model"],
            values["num_classes"],
            preprocess,
            None if classes is None else tuple(classes),
            values["format"],
            values["precision"],
            tuple(values["input"]["shape"]),
            None if values.get("verified") is None else Difference(**values["verified"]),
        )
    except OSError as error:
        raise UserError(f"{file}, which export.py writes beside the file, cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not what export.py writes: export the file again") from error
