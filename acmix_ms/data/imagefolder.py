"""Images in folders named by class, ImageNet's usual layout: ``path/train/<class>/*`` and ``path/val/<class>/*``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from acmix_ms.config import DataConfig
from acmix_ms.data.images import read_bytes
from acmix_ms.data.labelled import LabelledLoader
from acmix_ms.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # in any case; other files are not looked at


def is_image_name(name: str) -> bool:
    """Whether a file is called as images are."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def scan(path: str | None, split: str, argument: str = "data.path=") -> tuple[list[str], list[np.ndarray]]:
    """List one split: class names in order, and for each the sorted names of its images, as bytes to save memory.

    Images are regular files, or links to such: the folder tells which without a look at each file.

    ``argument`` is where messages say that the path came from.

    Raises:
        UserError: a folder is missing, there are no classes, a class has no images or no name in UTF-8, or the other
            split has others.
    """
    if not path:
        raise UserError("data.path is not set: give the folder that holds train/ and val/, as data.path=FOLDER")
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{argument}{path}: no such folder")
    classes = {}
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise UserError(
                f"{argument}{path}: holds no folder {name!r}; the layout is train/<class>/* and val/<class>/*"
            )
        classes[name] = sorted(entry.name for entry in os.scandir(root / name) if entry.is_dir())
    if not classes[split]:
        raise UserError(f"{root / split}: holds no class folders; the layout is {split}/<class>/*")
    odd = sorted(set(classes["train"]) ^ set(classes["val"]))
    if odd:
        where = "train" if odd[0] in classes["train"] else "val"
        raise UserError(f"{argument}{path}: class {odd[0]!r} is in {where}/ only ({len(odd)} such); both need the same")

    files = []
    for name in classes[split]:
        if not _is_text(name):  # it goes into checkpoints, tables and JSON
            raise UserError(f"{root / split}: the class folder {name!r} is not named in UTF-8: rename it")
        entries = os.scandir(root / split / name)
        images = sorted(os.fsencode(entry.name) for entry in entries if is_image_name(entry.name) and entry.is_file())
        if not images:
            raise UserError(f"{root / split / name}: class folder without images ({', '.join(EXTENSIONS)})")
        files.append(np.array(images))
    return classes[split], files


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class ImageFiles:
    """Which file of one split is which sample: class by class, by name.

    Attributes:
        class_names: what label i is called.
        labels: (n,) of the samples.

    Raises:
        UserError: see `scan`.
    """

    def __init__(self, path: str | None, split: str, argument: str = "data.path="):
        self.class_names, files = scan(path, split, argument)
        self.labels = np.repeat(np.arange(len(files)), [len(names) for names in files])
        self._files = np.concatenate(files)  # (n,) bytes
        self._folder = os.path.join(path, split)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, sample: int) -> str:
        """``class/file`` of a sample."""
        return os.path.join(self.class_names[self.labels[sample]], os.fsdecode(bytes(self._files[sample])))

    def path(self, sample: int) -> str:
        """The file of a sample."""
        return os.path.join(self._folder, self.name(sample))

    def checksum(self) -> str:
        """Of all names and their classes, by which one folder is told from another."""
        found = hashlib.sha256(b"\0".join(os.fsencode(name) for name in self.class_names))
        found.update(self.labels.astype("<i8").tobytes() + b"\0".join(self._files.tolist()))
        return found.hexdigest()


class ImageFolderLoader(LabelledLoader):
    """Every file is opened when its turn comes."""

    def __init__(self, config: DataConfig, split: str, *, rank: int = 0, size: int = 1, seed: int = 0):
        self.files = ImageFiles(config.path, split)
        names, count = self.files.class_names, len(self.files)
        super().__init__(config, split, class_names=names, num_samples=count, rank=rank, size=size, seed=seed)

    def read(self, sample: int) -> tuple[bytes, int]:
        """The file of a sample and its class."""
        return read_bytes(self.name(sample)), int(self.files.labels[sample])

    def name(self, sample: int) -> str:
        """The file of a sample."""
        return self.files.path(sample)

    @property
    def remedy(self) -> str:
        """Records also spare the disk and the network; see `Loader.remedy`."""
        return f"{super().remedy}, or prepare records: scripts/prepare_mindrecord.py, then data.name=mindrecord"
