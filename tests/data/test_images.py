"""Files that are no plain images: what is converted, what is refused, and that no epoch ends early because of them."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from acmix_ms.data import create_loader, images
from acmix_ms.data.images import UnreadableImageError, is_plain_jpeg, is_plain_png, read_encoded
from acmix_ms.data.loader import PADDING
from acmix_ms.errors import UserError
from tests.helpers.data import data_config
from tests.helpers.tiny import make_images

RANDOM_SEED = 20220301  # of the mutations
SMOOTH = np.stack(np.meshgrid(np.linspace(20, 230, 48), np.linspace(10, 200, 40)), -1)  # survives JPEG well
PIXELS = np.concatenate([SMOOTH, SMOOTH[..., :1] / 2 + 60], -1).astype(np.uint8)  # (40, 48, 3)


def encode(image, kind, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def decoded(tmp_path, content, name="some.jpg"):
    """What MindSpore makes of a file after `read_encoded`, (H, W, 3)."""
    from mindspore.dataset import vision

    (tmp_path / name).write_bytes(content)
    return vision.Decode()(read_encoded(str(tmp_path / name)))


def rotated(orientation) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PIXELS, "JPEG", quality=95, exif=exif)


def with_exif(block) -> bytes:
    whole = encode(PIXELS, "JPEG", quality=95)
    return whole[:2] + b"\xff\xe1" + (len(block) + 8).to_bytes(2, "big") + b"Exif\0\0" + block + whole[2:]


GREY = PIXELS[..., 0]
ALPHA = np.concatenate([PIXELS, np.full((40, 48, 1), 99, np.uint8)], -1)
CONVERTED = {
    "jpeg": (encode(PIXELS, "JPEG", quality=95), PIXELS),
    "progressive": (encode(PIXELS, "JPEG", quality=95, progressive=True), PIXELS),
    "grey jpeg": (encode(GREY, "JPEG", quality=95), GREY[..., None].repeat(3, 2)),
    "cmyk jpeg": (encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95), PIXELS),
    "upright by exif": (rotated(1), PIXELS),
    "turned by exif": (rotated(6), np.rot90(PIXELS, -1)),
    "mirrored by exif": (rotated(2), PIXELS[:, ::-1]),
    "malformed exif": (with_exif(b"II*\0" + bytes([8, 0, 0, 0, 255, 255]) + bytes(range(200))), PIXELS),
    "no exif in exif": (with_exif(b"nothing of that kind"), PIXELS),
    "png": (encode(PIXELS, "PNG"), PIXELS),
    "grey png": (encode(GREY, "PNG"), GREY[..., None].repeat(3, 2)),
    "16-bit png": (encode(GREY.astype(np.uint16) * 257, "PNG"), GREY[..., None].repeat(3, 2)),
    "16-bit tiff": (encode(GREY.astype(np.uint16) * 257, "TIFF"), GREY[..., None].repeat(3, 2)),
    "alpha png": (encode(ALPHA, "PNG"), PIXELS),
    "grey alpha png": (encode(Image.fromarray(ALPHA).convert("LA"), "PNG"), None),
    "palette png": (encode(Image.fromarray(PIXELS).quantize(256), "PNG"), PIXELS),
    "palette gif named jpg": (encode(Image.fromarray(PIXELS).quantize(256), "GIF"), PIXELS),
    "webp": (encode(PIXELS, "WEBP", lossless=True), PIXELS),
    "bilevel tiff": (encode(Image.fromarray(GREY > 128), "TIFF"), (GREY > 128)[..., None].repeat(3, 2) * 255),
    "jpeg with bytes after its end": (encode(PIXELS, "JPEG", quality=95) + b"\0" * 100, PIXELS),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_can_be_converted_is(tmp_path, name):
    content, wanted = CONVERTED[name]
    got = decoded(tmp_path, content).astype(int)
    assert got.dtype.kind == "i"
    if wanted is not None:
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).mean() < 4, "the same picture, up to compression and 256 colours"


def test_plain_files_go_to_mindspore_untouched(tmp_path):
    for name in ("jpeg", "progressive", "grey jpeg", "upright by exif", "png", "jpeg with bytes after its end"):
        content = CONVERTED[name][0]
        assert is_plain_jpeg(content) or is_plain_png(content), name
        (tmp_path / "x").write_bytes(content)
        assert read_encoded(str(tmp_path / "x")).tobytes() == content
    for name in ("cmyk jpeg", "turned by exif", "grey png", "16-bit png", "alpha png", "palette png", "webp"):
        assert not (is_plain_jpeg(CONVERTED[name][0]) or is_plain_png(CONVERTED[name][0])), name


JPEG, PNG = CONVERTED["jpeg"][0], CONVERTED["png"][0]
THUMBNAIL = with_exif(b"II*\0" + bytes([8, 0, 0, 0]) + bytes(6) + JPEG)
REFUSED = {
    "empty": (b"", "empty file"),
    "text": (b"no image at all" * 20, "no image of a known kind"),
    "zeros": (bytes(5000), "no image of a known kind"),
    "jpeg without end": (JPEG[:-200], "truncated JPEG"),
    "jpeg without its last two bytes": (JPEG[:-2], "truncated JPEG"),
    "jpeg header only": (JPEG[:100], "it has no pixels"),
    "png without end": (PNG[: len(PNG) // 2], ""),
    "png with a wrong byte": (PNG[:100] + bytes([PNG[100] ^ 255]) + PNG[101:], ""),
    "truncated after a thumbnail with an end": (THUMBNAIL[:-30], "truncated JPEG"),
    "floating point": (encode(GREY.astype(np.float32), "TIFF"), "floating-point"),
    "huge": (PNG[:16] + b"\x00\x01\x00\x00" * 2 + PNG[24:], ""),
}


def test_what_would_kill_mindspore_is_refused(tmp_path):
    """A sound header, and pixels that libjpeg gives up on: MindSpore 2.8.0 dies of it."""
    start = JPEG.index(b"\xff\xc4") + 5  # the counts of a Huffman table: more codes than there can be
    (tmp_path / "x.jpg").write_bytes(JPEG[:start] + bytes([255] * 8) + JPEG[start + 8 :])
    with pytest.raises(UnreadableImageError, match="corrupt JPEG"):
        read_encoded(str(tmp_path / "x.jpg"))
    assert read_encoded(str(tmp_path / "x.jpg"), known=True).size == len(JPEG), "looked at once"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused(tmp_path, name):
    content, words = REFUSED[name]
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError) as raised:
        read_encoded(str(tmp_path / "x.jpg"))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UnreadableImageError):
            read_encoded(str(path))


def config_of(folder, **changes):
    return data_config(
        **{"name": "imagefolder", "path": str(folder), "batch_size": 4, "image_size": 16, "workers": 2, **changes}
    )


@pytest.fixture
def folder(tmp_path):
    return make_images(tmp_path / "images")


BAD = {"empty": b"", "text": b"no image at all" * 20, "truncated": JPEG[:-300]}


@pytest.mark.parametrize("kind", BAD)
def test_evaluation_does_not_count_what_it_cannot_read(folder, capsys, kind):
    broken = folder / "val" / "dog" / "1.JPEG"
    broken.write_bytes(BAD[kind])
    loader = create_loader(config_of(folder), "val")
    batches = list(loader.epoch(0))
    assert [list(labels) for _, labels in batches] == [[0, 0, 0, 1], [PADDING, 1, PADDING, PADDING]]
    assert {images.shape for images, _ in batches} == {(4, 3, 16, 16)}
    told = capsys.readouterr().out
    assert "1 image could not be read, not counted: " in told
    assert str(broken) in told
    assert list(loader.unreadable) == [str(broken)]
    list(loader.epoch(0))
    assert capsys.readouterr().out == "1 image could not be read, not counted\n", "files are listed once"


@pytest.mark.parametrize("kind", BAD)
def test_training_takes_a_neighbour_instead(folder, capsys, kind):
    for name in ("cat/5.jpg", "dog/0.png"):
        (folder / "train" / name).write_bytes(BAD[kind])
    loader = create_loader(config_of(folder, enabled=False), "train")
    order = loader.indices(0).ravel()
    batches = list(loader.epoch(0))
    labels, pictures = (np.concatenate(parts) for parts in zip(*[(b[1], b[0]) for b in batches]))
    stands_in = np.where((order == 5) | (order == 6), 7, order)  # the first that can be read after both
    assert list(labels) == list(loader.files.labels[stands_in])
    assert np.array_equal(pictures[list(order).index(5)], pictures[list(order).index(7)])
    told = capsys.readouterr().out
    assert "2 images could not be read, replaced by neighbours: " in told
    assert "cat/5.jpg" in told
    list(loader.epoch(1))
    assert capsys.readouterr().out == ""


def test_failing_is_a_choice(folder):
    broken = folder / "train" / "dog" / "1.JPEG"
    broken.write_bytes(b"")
    with pytest.raises(UserError, match=r"dog/1.JPEG cannot be read \(empty file\): replace or remove it"):
        list(create_loader(config_of(folder, on_error="fail"), "train").epoch(0))


def test_a_folder_without_any_image_is_named(folder):
    for file in (folder / "train").glob("*/*"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="12 training images in a row cannot be read, such as .*check data.path"):
        list(create_loader(config_of(folder), "train").epoch(0))


def test_file_that_only_mindspore_refuses_is_found(folder, monkeypatch, capsys):
    """Whatever the checks let through: the epoch goes on, and its other images stay in their places."""
    (folder / "train" / "dog" / "3.png").write_bytes(b"no image at all" * 20)
    clean = create_loader(config_of(folder, workers=1), "train")
    wanted = list(clean.epoch(0))
    monkeypatch.setattr("acmix_ms.data.imagefolder.read_encoded", lambda path, **_: np.fromfile(path, np.uint8))
    loader = create_loader(config_of(folder, workers=1), "train")
    got = list(loader.epoch(0))
    assert "MindSpore cannot decode it" in capsys.readouterr().out
    for (images_, labels), (images2, labels2) in zip(wanted, got):
        assert np.array_equal(images_, images2)
        assert np.array_equal(labels, labels2)


def mutated(content, random):
    """One of the ways in which files break."""
    data = bytearray(content)
    kind = random.integers(6)
    if kind == 0:  # cut
        del data[random.integers(len(data)) :]
    elif kind == 1:  # single bytes
        for _ in range(random.integers(1, 20)):
            data[random.integers(len(data))] = random.integers(256)
    elif kind == 2:  # the header
        for _ in range(random.integers(1, 6)):
            data[random.integers(min(64, len(data)))] = random.integers(256)
    elif kind == 3:  # a hole of zeros, as after a crash of the file system
        start = random.integers(len(data))
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    elif kind == 4:  # a part twice or missing
        start, stop = sorted(random.integers(len(data), size=2))
        data[start:stop] = data[start:stop] * 2 if random.random() < 0.5 else b""
    else:  # another file's end
        data[random.integers(len(data)) :] = random.bytes(300)
    return bytes(data)


def test_hundreds_of_mutated_files_stop_nothing(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore leaves the image it could not decode in the working directory
    random, sources = np.random.default_rng(RANDOM_SEED), [content for content, _ in CONVERTED.values()]
    for split, count in (("train", 240), ("val", 240)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
        for i in range(count):
            content = sources[i % len(sources)]
            content = content if i % 6 == 0 else mutated(content, random)
            (tmp_path / split / "ab"[i % 2] / f"{i:03}.jpg").write_bytes(content)
    for split in ("train", "val"):
        loader = create_loader(config_of(tmp_path, batch_size=16), split)
        batches = list(loader.epoch(0))
        assert len(batches) == len(loader) == 15
        assert {images.shape for images, _ in batches} == {(16, 3, 16, 16)}
        assert all(np.isfinite(images).all() for images, _ in batches)
        labels = np.concatenate([labels for _, labels in batches])
        unreadable = len(loader.unreadable)
        assert 40 < unreadable < 200, "some mutations are harmless, whole files are read"
        assert (labels == PADDING).sum() == (0 if split == "train" else unreadable)
        assert f"{unreadable} images could not be read" in capfd.readouterr().out


def test_unreadable_files_are_not_read_again(folder, monkeypatch):
    (folder / "train" / "cat" / "1.JPEG").write_bytes(b"")
    loader = create_loader(config_of(folder), "train")
    list(loader.epoch(0))
    read = []
    monkeypatch.setattr(
        "acmix_ms.data.imagefolder.read_encoded", lambda path, **_: read.append(path) or images.read_encoded(path)
    )
    list(loader.epoch(1))
    assert read
    assert not [path for path in read if path.endswith("cat/1.JPEG")]


def test_vanished_files_are_unreadable_too(folder):
    loader = create_loader(config_of(folder), "val")
    shutil.rmtree(folder / "val" / "dog")
    labels = np.concatenate([labels for _, labels in loader.epoch(0)])
    assert sorted(labels) == [PADDING] * 5 + [0] * 3
