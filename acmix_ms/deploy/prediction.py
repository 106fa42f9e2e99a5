"""The classes that a net sees in image files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acmix_ms.data.imagefolder import EXTENSIONS, is_image_name
from acmix_ms.data.preprocess import Preprocess
from acmix_ms.deploy.runner import Runner
from acmix_ms.errors import UserError, printable

NAME_WIDTH = 40  # of a path in the table


class Prediction(NamedTuple):
    """What a net says of one image: (class, probability), the most probable first; or why it cannot be read."""

    path: Path
    classes: list[tuple[str, float]]
    error: str | None = None

    def as_dict(self) -> dict:
        """For JSON."""
        if self.error:
            return {"image": str(self.path), "error": self.error}
        found = [{"class": name, "probability": round(value, 6)} for name, value in self.classes]
        return {"image": str(self.path), "classes": found}


def find_images(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The files among ``paths``, and all images in the folders among them, whatever their depth.

    Raises:
        UserError: a path that does not exist, a pipe or a device, or a folder without images.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if is_image_name(file.name) and file.is_file())
            if not inside:
                raise UserError(f"{path} has no images ({', '.join(EXTENSIONS)})")
            found += inside
        elif path.is_file():
            found.append(path)
        elif path.exists():
            raise UserError(f"image {path} is no regular file: give an image file, or a folder of such")
        else:
            raise UserError(f"image {path} does not exist")
    return found


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The lines of a text file, the name of class 0 first.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return tuple(Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {path} cannot be read as text: {error}") from error


def predict(
    answers: Runner,
    files: Sequence[Path],
    preprocess: Preprocess,
    classes: Sequence[str] | None = None,
    *,
    top: int = 5,
    batch: int = 16,
) -> Iterator[Prediction]:
    """What a net sees in each file, in their order; an unreadable one does not stop the others.

    Args:
        answers: the net.
        classes: names; ``class 0`` and so on by default.
        top: so many classes of each image.
        batch: images in memory at once.

    Raises:
        UserError: the net has another number of classes than there are names.
    """
    for start in range(0, len(files), batch):
        part, images, errors = files[start : start + batch], [], {}
        for file in part:
            try:
                images.append(preprocess.read(file))
            except UserError as error:
                errors[file] = str(error)
        logits = iter(answers(answers.middle(np.stack(images))) if images else ())
        for file in part:
            if file in errors:
                yield Prediction(file, [], errors[file])
            else:
                yield Prediction(file, _best(next(logits), classes, top, answers.path))


def _best(logits: np.ndarray, classes: Sequence[str] | None, top: int, path: Path) -> list[tuple[str, float]]:
    if classes is not None and len(classes) != len(logits):
        raise UserError(f"{len(classes)} names of classes, but {path} has {len(logits)} classes: give one for each")
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    return [(classes[i] if classes else f"class {i}", float(shares[i])) for i in order]


def table(prediction: Prediction) -> str:
    """One line for each class of an image, the first with its path."""
    if prediction.error:
        return f"error: {printable(prediction.error)}"
    return beside_path(prediction.path, share_lines(prediction.classes))


def share_lines(shares: Sequence[tuple[str, float]]) -> list[str]:
    """Names with shares of one, in percent."""
    return [f"{100 * share:6.2f} %  {printable(label)}" for label, share in shares]


def beside_path(path: Path, lines: Sequence[str]) -> str:
    """The lines of a file, one at least, its path in front of the first; a long one loses its beginning."""
    name = printable(str(path))
    names = [name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}", *[""] * (len(lines) - 1)]
    return "\n".join(f"{name:{NAME_WIDTH}} {line}" for name, line in zip(names, lines))


def json_text(found: Sequence[dict]) -> str:
    """Predictions as JSON that any terminal may show: what is not printable is escaped, as JSON does."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
