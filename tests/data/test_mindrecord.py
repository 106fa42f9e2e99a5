"""Records: the samples of the image folder in its order, and wrong folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from acmix_ms.data import create_loader, records
from acmix_ms.data.imagefolder import ImageFiles
from acmix_ms.data.images import UnreadableImageError
from acmix_ms.data.loader import PADDING
from acmix_ms.data.records import DESCRIPTION, INDEX, Records, encoded_record
from acmix_ms.errors import UserError
from tests.helpers.data import data_config
from tests.helpers.records import loader_of, same


# ---------------------------------------------------------------------------------------------------- the same samples
def test_the_folder_has_what_its_description_says(prepared):
    described = json.loads((prepared / DESCRIPTION).read_text())
    assert described["class_names"] == ["cat", "dog"]
    assert [file["images"] for file in described["train"]["files"]] == [5, 5, 5]
    assert [file["images"] for file in described["val"]["files"]] == [3, 3, 3]
    assert described["train"]["skipped"] == {}
    names = [
        f"{split}.mindrecord{number}{end}" for split in ("train", "val") for number in range(3) for end in ("", INDEX)
    ]
    assert sorted(path.name for path in prepared.iterdir()) == sorted([".lock", DESCRIPTION, *names])


def test_other_programs_can_read_the_files(prepared):
    from mindspore.mindrecord import FileReader

    assert {path.stat().st_mode & 0o777 for path in prepared.glob("*.mindrecord*")} == {0o644}
    reader = FileReader(str(prepared / "train.mindrecord0"))
    found = [(row["label"], row["image"][:2]) for row in reader.get_next()]
    reader.close()
    assert [label for label, _ in found] == [0] * 5
    assert {start for _, start in found} <= {b"\xff\xd8", b"\x89P"}


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_are_those_of_the_folder(images, prepared, split):
    for epoch, seed in ((0, 0), (3, 7)):
        folder, found = (
            loader_of(*which, split, seed=seed) for which in (("imagefolder", images), ("mindrecord", prepared))
        )
        assert (found.class_names, found.num_samples) == (folder.class_names, folder.num_samples)
        same(found.epoch(epoch), folder.epoch(epoch))


def test_strong_augmentation_is_that_of_the_folder(images, prepared):
    strong = {"auto_augment": "rand-m9-mstd0.5", "color_jitter": 0.2, "mixup": 0.8, "reprob": 0.5, "repeated_aug": 2}
    same(loader_of("mindrecord", prepared, **strong).epoch(1), loader_of("imagefolder", images, **strong).epoch(1))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_get_what_they_get_of_the_folder(images, prepared, split, size):
    seen = []
    for rank in range(size):
        options = {"rank": rank, "size": size, "batch_size": 2}
        found = list(loader_of("mindrecord", prepared, split, **options).epoch(2))
        same(found, loader_of("imagefolder", images, split, **options).epoch(2))
        seen += [label for _, (labels,), _ in found for label in labels]
    if split == "val":
        assert sorted(label for label in seen if label != PADDING) == [0] * 4 + [1] * 5


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_epoch_can_be_entered_in_its_middle(prepared, split):
    whole = list(loader_of("mindrecord", prepared, split, batch_size=2, seed=4).epoch(1))
    for start in range(len(whole)):
        same(loader_of("mindrecord", prepared, split, batch_size=2, seed=4).epoch(1, start), whole[start:])


def test_many_threads_read_what_one_reads(prepared):
    options = {"enabled": False, "batch_size": 5}
    same(
        loader_of("mindrecord", prepared, workers=4, **options).epoch(0),
        loader_of("mindrecord", prepared, workers=1, **options).epoch(0),
    )


def test_records_hold_the_files_as_they_are(images, prepared):
    files = ImageFiles(str(images), "train")
    found = Records(prepared, records.describe(str(prepared)).train.files)
    assert len(found) == len(files)
    for i in range(len(files)):
        assert found[i] == (Path(files.path(i)).read_bytes(), files.labels[i])


def test_records_of_several_pages_are_found(tmp_path):
    """MindRecord fills pages of a fixed size; an image starts a new one where it does not fit."""
    random = np.random.default_rng(0)
    samples = [(random.bytes(3_000_000 + i), i) for i in range(60)]
    file = records.write_records(tmp_path, "some.mindrecord0", samples)
    found = Records(tmp_path, [file])
    assert file.size > 2 * records.PAGE_BYTES
    assert [found[i] for i in range(60)] == samples


def test_an_image_too_large_for_a_record_is_skipped(images, monkeypatch):
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 100)
    with pytest.raises(UnreadableImageError, match="a record holds at most 100"):
        encoded_record(str(images / "train" / "cat" / "0.png"))


# ------------------------------------------------------------------------------------------------------- wrong folders
def error(folder, split="train"):
    with pytest.raises(UserError) as raised:
        list(loader_of("mindrecord", folder, split).epoch(0))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_and_truncated_files_are_named_at_once(copied):
    with pytest.raises(UserError, match="data.path is not set"):
        create_loader(data_config(name="mindrecord"), "val")
    assert "no such folder" in error(copied / "nowhere")
    path = copied / "train.mindrecord1"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert f"{path} has {len(content) - 1} bytes, not {len(content)}" in error(copied)
    path.unlink()
    assert f"{path} cannot be read (No such file or directory)" in error(copied, "val")
    path.write_bytes(content)
    index = copied / "train.mindrecord1.db"
    index.write_bytes(b"")
    assert f"{index} has 0 bytes" in error(copied)


def test_wrong_descriptions_are_named(copied):
    path = copied / DESCRIPTION
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "format_version": 9}))
    assert "has format version 9, this program reads 1: prepare the images anew" in error(copied)
    split = described["train"]
    file, *_ = split["files"]
    wrong = [
        *({"format_version": version} for version in (None, "1", True, [1], 1.0)),
        *({"train": value} for value in (None, [], 3, {**split, "files": 3}, {**split, "files": [3]})),
        *({"train": {**split, "planned": value}} for value in (True, "1", -1, None)),
        *({"train": {**split, "skipped": value}} for value in ([], 3, {"a": 3})),
        *({"train": {**split, "files": [{**file, "size": value}]}} for value in ("3", -3, True, 1e9)),
        *({"train": {**split, "files": [{**file, "name": value}]}} for value in ("../a", "/a", "..", "", 3)),
        *({"class_names": value} for value in ("abc", [1], {"a": 1}, None)),
        *({"source": []}, {"more": 1}),
    ]
    texts = [json.dumps({**described, **values}) for values in wrong]
    for text in ("", "[]", "{}", json.dumps(described)[:-20], "[" * 100_000, '{"train":' * 100_000, *texts):
        path.write_text(text)
        assert f"{path} is damaged" in error(copied), text
    path.unlink()
    assert f"holds no {DESCRIPTION}; make it by scripts/prepare_mindrecord.py --input IMAGES" in error(copied)
    path.mkdir()
    assert f"{path} cannot be read: Is a directory" in error(copied)


def test_damage_that_lengths_do_not_show_is_told_when_it_is_read(copied):
    index = copied / "val.mindrecord1.db"
    index.write_bytes(bytes(index.stat().st_size))
    told = error(copied, "val")
    assert f"{copied / 'val.mindrecord1'} or its index .db is damaged: copy the file again" in told
    path = copied / "train.mindrecord2"
    path.write_bytes(path.read_bytes()[: 2**24] + bytes(path.stat().st_size - 2**24))
    assert f"{path}, record " in (told := error(copied))
    assert "is not where the index says: copy the file again" in told


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_record_that_is_no_image_is_replaced_or_not_counted(copied, split, capsys):
    described = records.describe(str(copied)).splits[split]
    image = Records(copied, described.files)[4][0]
    path = copied / f"{split}.mindrecord{4 // described.files[0].images}"
    content = path.read_bytes()
    assert content.count(image) == 1
    path.write_bytes(content.replace(image, bytes(len(image))))
    loader = loader_of("mindrecord", copied, split, enabled=False)
    labels = np.concatenate([labels for _, (labels,), _ in loader.epoch(0)])
    assert list(loader.unreadable) == [f"{path}, record {4 % described.files[0].images}"]
    assert "1 image could not be read" in capsys.readouterr().out
    if split == "val":
        assert labels[4] == PADDING
        assert (labels == PADDING).sum() == 1 + 3
    else:
        assert (labels != PADDING).all()
