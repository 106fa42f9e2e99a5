"""The folder of data.name=mindrecord: MindRecord files of encoded images, and a description that makes them a data set.

``train.mindrecord*`` and ``val.mindrecord*``, each with an index ``*.db`` beside it, can be read by any MindSpore
program; they have the columns ``image`` (the file as it was) and ``label``. `DESCRIPTION` is written last, so that a
folder that has it is whole. `scripts/prepare_mindrecord.py` writes all of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from acmix_ms.data.images import UnreadableImageError, decode, read_bytes
from acmix_ms.errors import UserError
from acmix_ms.files import read_json, sync, write_text

FORMAT_VERSION = 1
DESCRIPTION = "mindrecord.json"
UNFINISHED = "unfinished.json"  # the description as far as it goes while the files are written
PARTIAL = "partial"  # a file that is being written is in this folder: MindSpore reads none that was renamed
INDEX = ".db"  # what MindSpore appends to the name of a file for the index beside it
PAGE_BYTES = 2**26  # of MindRecord's pages; a record must fit into one
MAX_RECORD_BYTES = PAGE_BYTES - 2**20
RECORDS_AT_ONCE = 64
COLUMNS = {"image": {"type": "bytes"}, "label": {"type": "int32"}}
AGAIN = "scripts/prepare_mindrecord.py"
REMEDY = f"copy the file again, or prepare the images anew with {AGAIN}"
LENGTH_BYTES = 8  # a number of bytes stands before the header and before each image
MAX_HEADER_BYTES = 2**24  # which MindRecord reserves for it
WHERE = "SELECT PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END, label_0 FROM INDEXES ORDER BY ROW_ID"


@dataclass(frozen=True)
class RecordFile:
    """One file; ``size`` and ``index_size`` in bytes tell whether it and its index are whole."""

    name: str
    images: int
    size: int
    index_size: int


@dataclass
class Split:
    """The files of one split in the order of their samples.

    Attributes:
        planned: how many files the whole split has.
        files: those that are finished.
        skipped: images that could not be read, and why.
    """

    planned: int
    files: list[RecordFile] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """In the finished files."""
        return sum(file.images for file in self.files)


@dataclass
class Description:
    """What a folder holds.

    Attributes:
        class_names: what label i is called.
        source: a checksum over the names of the images, by which one data set is told from another.
        train, val: the splits.
        format_version: of the folder.
    """

    class_names: list[str]
    source: str
    train: Split
    val: Split
    format_version: int = FORMAT_VERSION

    @property
    def splits(self) -> dict[str, Split]:
        """By name."""
        return {"train": self.train, "val": self.val}

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all; raises `UserError`."""
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Description:
        """Read what `write` has written.

        Raises:
            UserError: the file cannot be read, is damaged, or of another format version.
        """
        values = read_json(path)
        version = values.get("format_version")
        if type(version) is int and version != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {version}, this program reads {FORMAT_VERSION}: prepare the images anew "
                f"with {AGAIN}"
            )
        try:
            found = cls(**{**values, "train": _split(values["train"]), "val": _split(values["val"])})
            whole = type(version) is int and type(found.class_names) is list and _are_texts(*found.class_names)
            if not whole or not _are_texts(found.source):
                raise ValueError(f"wrong types in {path}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: copy it again, or prepare the images anew with {AGAIN}") from error
        return found


def _split(values: dict) -> Split:
    """A split as JSON has it; whatever is wrong in it raises."""
    split = Split(**{**values, "files": [RecordFile(**file) for file in values["files"]]})
    numbers = [split.planned, *(n for file in split.files for n in (file.images, file.size, file.index_size))]
    names = [file.name for file in split.files]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("no number of images, files or bytes")
    if not _are_texts(*names, *split.skipped, *split.skipped.values()):
        raise ValueError("no name")
    if not all(re.fullmatch(r"\w+\.mindrecord\d*", name) for name in names):  # no path: they lie in the folder itself
        raise ValueError("no name of a file in the folder")
    return split


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def describe(path: str | None) -> Description:
    """Read the description of a folder, and see that its files are there and as long as they were.

    Raises:
        UserError: no such folder, no or another description, missing or truncated files.
    """
    if not path:
        raise UserError(f"data.path is not set: give a folder that {AGAIN} has written, as data.path=FOLDER")
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"data.path={path}: no such folder")
    if not (folder / DESCRIPTION).exists():
        state = "its preparation has not ended, go on with" if (folder / UNFINISHED).exists() else "make it by"
        raise UserError(f"data.path={path}: holds no {DESCRIPTION}; {state} {AGAIN} --input IMAGES --output {path}")
    found = Description.read(folder / DESCRIPTION)
    for file in (*found.train.files, *found.val.files):
        wrong = flaw(folder, file)
        if wrong:
            raise UserError(f"{wrong}: copy it again, or prepare the images anew with {AGAIN}")
    return found


def flaw(folder: Path, file: RecordFile) -> str | None:
    """What is wrong with a file or its index, as far as their lengths tell; None if nothing is."""
    for path, wanted in ((folder / file.name, file.size), (folder / (file.name + INDEX), file.index_size)):
        try:
            size = path.stat().st_size
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        if size != wanted:
            return f"{path} has {size} bytes, not {wanted} as when it was written"
    return None


class Records:
    """The records of one split, in any order. Many threads may read.

    The index of a MindRecord file is an SQLite table that tells where each image lies, so that reading one is a single
    call of the system. MindSpore's own reader takes as long as decoding the image.
    """

    def __init__(self, folder: str | os.PathLike, files: list[RecordFile]):
        self._paths = [Path(folder) / file.name for file in files]
        self._starts = np.cumsum([0, *(file.images for file in files)])
        self._places = [_places(path, file.images) for path, file in zip(self._paths, files)]
        self._opened = [open(path, "rb") for path in self._paths]  # for as long as this object lives

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, sample: int) -> tuple[bytes, int]:
        """(encoded image, label).

        Raises:
            UserError: the file cannot be read there.
        """
        number, record = self._place(sample)
        offset, size, label = self._places[number][record].tolist()
        try:
            found = os.pread(self._opened[number].fileno(), size, offset)
        except OSError as error:
            raise UserError(f"{self.name(sample)}, cannot be read ({error.strerror}): {REMEDY}") from error
        if len(found) != size or int.from_bytes(found[:LENGTH_BYTES], "little") != size - LENGTH_BYTES:
            raise UserError(f"{self.name(sample)}, is not where the index says: {REMEDY}")
        return found[LENGTH_BYTES:], label

    def name(self, sample: int) -> str:
        """What messages call a sample."""
        number, record = self._place(sample)
        return f"{self._paths[number]}, record {record}"

    def _place(self, sample: int) -> tuple[int, int]:
        """Which file a sample is in, and which of its records it is."""
        number = int(np.searchsorted(self._starts, sample, "right")) - 1
        return number, sample - int(self._starts[number])


def _places(path: Path, images: int) -> np.ndarray:
    """(offset, bytes, label) of each record of a file, int64; the bytes begin with their own number.

    Raises:
        UserError: the file or its index is damaged.
    """
    if not images:  # MindSpore then writes no index either
        return np.zeros((0, 3), np.int64)
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(LENGTH_BYTES), "little")
            header = json.loads(file.read(min(size, MAX_HEADER_BYTES)))
        start, page = int(header["header_size"]), int(header["page_size"])
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}{INDEX}?mode=ro", uri=True)) as index:
            rows = np.array(index.execute(WHERE).fetchall(), np.int64).reshape(-1, 4)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from error
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} or its index {INDEX} is damaged: {REMEDY}") from error
    if len(rows) != images:
        raise UserError(f"{path}{INDEX} knows {len(rows)} records, not {images}: {REMEDY}")
    pages, offsets, ends, labels = rows.T
    return np.stack([start + pages * page + offsets, ends - offsets, labels], axis=1)


def encoded_record(path: str) -> bytes:
    """What a record holds of an image file: its content.

    Raises:
        UnreadableImageError: no image, or one that does not fit into a record.
    """
    data = read_bytes(path)
    decode(data)
    if len(data) > MAX_RECORD_BYTES:
        raise UnreadableImageError(f"{len(data)} bytes, a record holds at most {MAX_RECORD_BYTES}")
    return data


def write_records(folder: Path, name: str, samples: Iterable[tuple[bytes, int]]) -> RecordFile:
    """Write (encoded image, label) pairs as one file of ``folder`` and its index, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        images, last = _write(partial / name, samples)
        paths = (partial / name, partial / (name + INDEX))
        for path in paths:
            path.chmod(0o644)  # MindSpore lets nobody but the owner read
            sync(path)
        file = RecordFile(name, images, *(path.stat().st_size for path in paths))
        if images and not _holds(partial, file, *last):
            raise OSError(errno.EIO, "what was written is not what is read back")
        for path in paths:
            os.replace(path, folder / path.name)
        sync(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return file


def _write(path: Path, samples: Iterable[tuple[bytes, int]]) -> tuple[int, tuple[bytes, int] | None]:
    """Write all; returns how many there were, and the last."""
    from mindspore.mindrecord import FileWriter

    count, last, samples = 0, None, iter(samples)
    try:
        writer = FileWriter(str(path))
        writer.set_page_size(PAGE_BYTES)
        writer.add_schema(COLUMNS, "encoded images and their classes")
        writer.add_index(["label"])
        while some := list(itertools.islice(samples, RECORDS_AT_ONCE)):
            writer.write_raw_data([{"image": image, "label": label} for image, label in some])
            count, last = count + len(some), some[-1]
        writer.commit()
    except RuntimeError as error:  # all that MindSpore tells of a full disk
        raise OSError(errno.EIO, _reason(error)) from error
    return count, last


def _holds(folder: Path, file: RecordFile, image: bytes, label: int) -> bool:
    """Whether the last record is this one."""
    try:
        found, its_label = Records(folder, [file])[file.images - 1]
    except UserError:
        return False
    return found == image and its_label == label


def _reason(error: RuntimeError) -> str:
    """The line among MindSpore's many that says what is wrong."""
    lines = str(error).splitlines() or [type(error).__name__]
    told = next((line for line in lines if "ERROR]" in line), lines[0])
    return told.rpartition("ERROR]")[2].strip().rstrip(".,")
