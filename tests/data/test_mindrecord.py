"""Records: the samples of the image folder in its order, a preparation that may be killed, and wrong folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acmix_ms.data import create_loader, records
from acmix_ms.data.imagefolder import ImageFiles
from acmix_ms.data.images import UnreadableImageError
from acmix_ms.data.loader import PADDING
from acmix_ms.data.records import DESCRIPTION, INDEX, PARTIAL, UNFINISHED, Records, encoded_record
from acmix_ms.errors import UserError
from scripts import prepare_mindrecord
from tests.helpers.data import data_config
from tests.helpers.tiny import make_images

ROOT = Path(__file__).resolve().parents[2]
# The real command, but it stops for good, with a file half written, when it comes to the image that ends so.
HANGING = """
import sys, time
from acmix_ms.data import records
from acmix_ms.errors import run_cli
from scripts import prepare_mindrecord as script
real, records.RECORDS_AT_ONCE = script.encoded_record, 1
def encoded(path):
    while path.endswith("train/dog/2.jpg"):
        time.sleep(1)
    return real(path)
script.encoded_record = encoded
run_cli(script.main)
"""
# The real command with no room for any file of more than 10 MB.
LIMITED = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000)); from acmix_ms.errors import run_cli; "
    "from scripts import prepare_mindrecord; run_cli(prepare_mindrecord.main)"
)


def prepare(images, output, *args):
    prepare_mindrecord.main(["--input", str(images), "--output", str(output), *map(str, args)])
    return output


def loader_of(kind, path, split="train", *, rank=0, size=1, seed=0, **changes):
    options = {"batch_size": 4, "image_size": 32, "workers": 1, **changes}
    return create_loader(data_config(name=kind, path=str(path), **options), split, rank=rank, size=size, seed=seed)


def same(one, two):
    one, two = list(one), list(two)
    assert len(one) == len(two) > 0
    for (images, (labels,), _), (images2, (labels2,), _) in zip(one, two):
        assert np.array_equal(images, images2)
        assert np.array_equal(labels, labels2)


def add_odd_images(folder):
    """Some that are converted, in either split."""
    for split in ("train", "val"):
        pixels = np.random.default_rng(1).integers(0, 255, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("CMYK").save(folder / split / "cat" / "cmyk.jpg", quality=95)
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / split / "dog" / "16-bit.png")
        Image.fromarray(pixels).quantize(64).save(folder / split / "dog" / "palette.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = make_images(tmp_path_factory.mktemp("images"))
    add_odd_images(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory):
    return prepare(images, tmp_path_factory.mktemp("records"), "--shards", 3)


@pytest.fixture
def copied(prepared, tmp_path):
    """Records that a test may damage."""
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


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


# ---------------------------------------------------------------------------------------------------------- preparation
def test_unreadable_images_are_left_out_and_named(tmp_path, capsys):
    images = make_images(tmp_path / "images")
    (images / "train" / "cat" / "1.JPEG").write_bytes(b"")
    (images / "val" / "dog" / "2.jpg").write_bytes(b"no image at all")
    folder = prepare(images, tmp_path / "records", "--shards", 2)
    told = capsys.readouterr().out
    assert "11 images of train in 2 file(s), 1 skipped" in told
    assert "skipped train/cat/1.JPEG: empty file" in told
    described = json.loads((folder / DESCRIPTION).read_text())
    assert described["train"]["skipped"] == {"cat/1.JPEG": "empty file"}
    assert described["val"]["skipped"] == {"dog/2.jpg": "no image of a known kind"}
    labels = np.concatenate([labels for _, (labels,), _ in loader_of("mindrecord", folder, "val").epoch(0)])
    assert list(labels) == [0, 0, 0, 1, 1, PADDING, PADDING, PADDING]
    assert capsys.readouterr().out == "", "nothing is unreadable any more"


def test_a_file_without_any_image_is_no_harm(tmp_path):
    images = make_images(tmp_path / "images")
    for name in ("3.png", "4.JPEG", "5.jpg"):
        (images / "train" / "cat" / name).write_bytes(b"")
    folder = prepare(images, tmp_path / "records", "--shards", 4)
    assert [file["images"] for file in json.loads((folder / DESCRIPTION).read_text())["train"]["files"]] == [3, 0, 3, 3]
    batch = next(loader_of("mindrecord", folder, batch_size=9, enabled=False).epoch(0))
    assert sorted(batch.targets[0]) == [0] * 3 + [1] * 6


def test_failing_is_a_choice(tmp_path):
    images = make_images(tmp_path / "images")
    (images / "train" / "cat" / "1.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"cat/1.JPEG cannot be read \(empty file\): replace or remove it"):
        prepare(images, tmp_path / "records", "--on-error", "fail")
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [".lock", UNFINISHED]


def test_a_split_without_any_image_is_named(tmp_path):
    images = make_images(tmp_path / "images")
    for path in (images / "val").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no image of val can be read, such as cat/0.png \(empty file\)"):
        prepare(images, tmp_path / "records")
    assert not (tmp_path / "records" / DESCRIPTION).exists()


def test_progress_and_a_second_call(images, tmp_path, capsys):
    prepare(images, tmp_path)
    told = capsys.readouterr().out
    assert "val, file 1 of 1  24/24 images" in told
    assert "ETA 0:00:00" in told
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    prepare(images, tmp_path)
    assert "holds these images already; nothing is done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before | {
        tmp_path / ".lock": (tmp_path / ".lock").stat().st_mtime_ns
    }


def test_a_finished_folder_is_mended_by_the_same_command(images, copied, capsys):
    (copied / "train.mindrecord1").write_bytes(b"cut")
    kept = (copied / "train.mindrecord0").stat().st_mtime_ns
    prepare(images, copied)
    assert "train.mindrecord1 has 3 bytes" in capsys.readouterr().out
    assert (copied / "train.mindrecord0").stat().st_mtime_ns == kept
    same(loader_of("mindrecord", copied).epoch(0), loader_of("imagefolder", images).epoch(0))


def test_another_data_set_is_never_overwritten(images, copied, tmp_path_factory):
    other = make_images(tmp_path_factory.mktemp("other"), classes=("cat", "owl"))
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(UserError, match="holds the records of other images; give another folder"):
        prepare(other, copied)
    os.rename(copied / DESCRIPTION, copied / UNFINISHED)
    with pytest.raises(UserError, match="unfinished preparation of other images"):
        prepare(other, copied)
    with pytest.raises(UserError, match="--shards 2: .*was begun with 3 files of train"):
        prepare(images, copied, "--shards", 2)
    os.rename(copied / UNFINISHED, copied / "elsewhere")
    with pytest.raises(UserError, match=r"holds train.mindrecord0, which is not of this preparation"):
        prepare(images, copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()}.items() >= {
        name: data for name, data in before.items() if name not in (DESCRIPTION, ".lock")
    }.items()


def kill_in_the_middle(images, folder, console):
    """Prepare in a real process, and kill it while it writes the fourth file of five."""
    command = [sys.executable, "-c", HANGING, "--input", str(images), "--output", str(folder), "--shards", "5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(console, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)
    half, deadline = folder / PARTIAL / "train.mindrecord3", time.monotonic() + 60
    try:
        while not (half.exists() and half.stat().st_size):
            assert process.poll() is None, console.read_text()
            assert time.monotonic() < deadline, console.read_text()
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"--output .*is in use by process {process.pid}"):
            prepare(images, folder)
    finally:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code == -signal.SIGKILL
    assert half.exists()


@pytest.mark.slow  # three processes that load MindSpore
def test_killed_in_the_middle_it_goes_on(images, tmp_path, run_cli):
    folder = tmp_path / "records"
    kill_in_the_middle(images, folder, tmp_path / "console")

    with pytest.raises(UserError, match="its preparation has not ended, go on with scripts/prepare_mindrecord.py"):
        loader_of("mindrecord", folder)
    finished = sorted(path for path in folder.glob("train.mindrecord*"))
    assert [path.name for path in finished] == [f"train.mindrecord{i}{end}" for i in range(3) for end in ("", INDEX)]
    kept = {path: path.stat().st_mtime_ns for path in finished}

    done = run_cli("scripts/prepare_mindrecord.py", "--input", images, "--output", folder)
    assert done.code == 0, done.stderr
    assert "going on: 9 images are in finished files" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == kept
    assert not list(folder.glob(f"{PARTIAL}*")) and not (folder / UNFINISHED).exists()
    for split in ("train", "val"):
        same(loader_of("mindrecord", folder, split).epoch(0), loader_of("imagefolder", images, split).epoch(0))


@pytest.mark.slow  # two processes that load MindSpore
def test_a_full_disk_is_one_line_and_a_second_call_goes_on(images, tmp_path, run_cli):
    command = [sys.executable, "-c", LIMITED, "--input", str(images), "--output", str(tmp_path / "records")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert full.returncode == 2, full.stderr
    assert full.stderr.count("\n") == 1
    assert "records cannot be written (" in full.stderr
    assert "GB are free): make room" in full.stderr
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [".lock", UNFINISHED]
    done = run_cli("scripts/prepare_mindrecord.py", "--input", images, "--output", tmp_path / "records")
    assert done.code == 0, done.stderr
    assert len(loader_of("mindrecord", tmp_path / "records", "val")) == 3


def test_what_is_not_read_back_is_not_kept(images, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_holds", lambda *args: False)
    with pytest.raises(UserError, match="cannot be written.*not what is read back"):
        prepare(images, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", UNFINISHED]


def test_wrong_arguments_are_one_line(images, tmp_path, run_cli):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output=.*file: cannot write there"):
        prepare(images, tmp_path / "file")
    with pytest.raises(UserError, match="--input .*nowhere: no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "records")
    with pytest.raises(UserError, match="--shards 1000: give at most 256"):
        prepare(images, tmp_path / "records", "--shards", 1000)
    done = run_cli("scripts/prepare_mindrecord.py", "--input", images, "--output", tmp_path / "o", "--shards", "0")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


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
