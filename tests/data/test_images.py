"""Files that are no plain images: what is converted, what is refused, and that no epoch ends early because of them."""

from __future__ import annotations

import functools
import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from acmix_ms.data import create_loader, images
from acmix_ms.data.imagefolder import ImageFiles
from acmix_ms.data.images import UnreadableImageError, read_image
from acmix_ms.data.loader import PADDING
from acmix_ms.deploy.prediction import find_images
from acmix_ms.errors import UserError
from scripts import infer_lite
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
    """What is made of a file with this content, (H, W, 3)."""
    (tmp_path / name).write_bytes(content)
    return read_image(tmp_path / name)


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


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "grey jpeg", "cmyk jpeg"])
def test_jpegs_have_the_pixels_that_pillow_gives(tmp_path, kind):
    """Both contain libjpeg-turbo; a deployment has Pillow alone."""
    with Image.open(io.BytesIO(CONVERTED[kind][0])) as image:
        assert np.array_equal(decoded(tmp_path, CONVERTED[kind][0]), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path, orientation):
    with Image.open(io.BytesIO(rotated(orientation))) as image:
        assert np.array_equal(decoded(tmp_path, rotated(orientation)), np.asarray(ImageOps.exif_transpose(image)))


JPEG, PNG = CONVERTED["jpeg"][0], CONVERTED["png"][0]
THUMBNAIL = with_exif(b"II*\0" + bytes([8, 0, 0, 0]) + bytes(6) + JPEG)
REFUSED = {
    "empty": (b"", "empty file"),
    "text": (b"no image at all" * 20, "no image of a known kind"),
    "zeros": (bytes(5000), "no image of a known kind"),
    "jpeg without end": (JPEG[:-200], "corrupt JPEG, "),
    "jpeg without its last two bytes": (JPEG[:-2], "corrupt JPEG, "),
    "jpeg header only": (JPEG[:100], "corrupt JPEG, "),
    "png without end": (PNG[: len(PNG) // 2], ""),
    "png with a wrong byte": (PNG[:100] + bytes([PNG[100] ^ 255]) + PNG[101:], ""),
    "truncated after a thumbnail with an end": (THUMBNAIL[:-30], "corrupt JPEG, "),
    "floating point": (encode(GREY.astype(np.float32), "TIFF"), "floating-point"),
    "huge": (PNG[:16] + b"\x00\x01\x00\x00" * 2 + PNG[24:], ""),
}


PHOTO = encode(load_sample_images().images[0][:300, :400], "JPEG", quality=90)
SCAN = PHOTO.index(b"\xff\xda") + 14  # where its pixels begin
STEPS = PHOTO.index(b"\xff\xdb") + 5  # and its first quantisation table
FRAME = PHOTO.index(b"\xff\xc0") + 5  # and its height and width


def damaged_photos():
    """(kind, content): a sound header, and pixels that are not those of the picture."""
    random = np.random.default_rng(RANDOM_SEED)
    yield "no scan", PHOTO[:SCAN] + b"\xff\xd9"
    for _ in range(5):
        noise = random.bytes(len(PHOTO) - SCAN).replace(b"\xff", b"\xff\0")
        yield "random scan", PHOTO[:SCAN] + noise + b"\xff\xd9"
    yield "zero quantisation table", PHOTO[:STEPS] + bytes(64) + PHOTO[STEPS + 64 :]
    yield "one zero step", PHOTO[: STEPS + 9] + bytes(1) + PHOTO[STEPS + 10 :]
    for share in (0.1, 0.5, 0.9, 0.99):
        yield "cut, with an end", PHOTO[: SCAN + int(share * (len(PHOTO) - SCAN))] + b"\xff\xd9"
        at = SCAN + int(share * (len(PHOTO) - SCAN - 600))
        yield "hole of zeros", PHOTO[:at] + bytes(512) + PHOTO[at + 512 :]
        yield "part missing", PHOTO[:at] + PHOTO[at + 512 :]
    for height, width in ((200, 400), (400, 400), (300, 300), (300, 500), (400, 350)):
        size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        yield f"{height} x {width}", PHOTO[:FRAME] + size + PHOTO[FRAME + 4 :]
    codes = PHOTO.index(b"\xff\xc4") + 5  # the counts of a Huffman table: more codes than there can be
    yield "impossible codes", PHOTO[:codes] + bytes([255] * 8) + PHOTO[codes + 8 :]


def test_jpegs_that_decode_to_a_wrong_picture_are_refused(tmp_path, capfd):
    read_image_of = functools.partial(decoded, tmp_path)
    assert read_image_of(PHOTO).shape == (300, 400, 3)
    passed = []
    for kind, content in damaged_photos():
        try:
            read_image_of(content)
            passed.append(kind)
        except UnreadableImageError as error:
            assert str(error).startswith("corrupt JPEG, "), kind
    assert passed == []
    assert capfd.readouterr() == ("", ""), "libjpeg says nothing by itself"


def test_damaged_pngs_are_refused(tmp_path):
    random = np.random.default_rng(RANDOM_SEED)
    start, stop = PNG.index(b"IDAT") + 4, PNG.index(b"IEND") - 8
    for at in random.integers(start, stop, 40):
        with pytest.raises(UnreadableImageError):
            decoded(tmp_path, PNG[:at] + bytes([PNG[at] ^ 1 << int(random.integers(8))]) + PNG[at + 1 :])


def test_without_the_decoder_the_way_to_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "simplejpeg", None)
    with pytest.raises(UserError, match="pip install simplejpeg"):
        decoded(tmp_path, JPEG)
    assert decoded(tmp_path, PNG).shape == PIXELS.shape


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_regular_file_is_no_image(folder, tmp_path, make):
    make(tmp_path / "x.jpg")
    with pytest.raises(UnreadableImageError, match="no regular file"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="x.jpg is no regular file"):
        find_images([tmp_path / "x.jpg"])
    make(folder / "train" / "cat" / "x.jpg")
    os.symlink(folder / "train" / "cat" / "0.png", folder / "train" / "cat" / "link.png")
    files = ImageFiles(str(folder), "train")
    assert [os.path.basename(files.name(i)) for i in range(8)] == [
        *("0.png", "1.JPEG", "2.jpg", "3.png", "4.JPEG", "5.jpg", "link.png", "0.png")
    ]
    assert len(find_images([folder / "train"])) == len(files) == 13
    with pytest.raises(infer_lite.InputError, match="is no regular file"):
        infer_lite.read_image(str(tmp_path / "x.jpg"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused(tmp_path, name):
    content, words = REFUSED[name]
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError) as raised:
        read_image(tmp_path / "x.jpg")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UnreadableImageError):
            read_image(path)


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
    assert [list(labels) for _, (labels,), _ in batches] == [[0, 0, 0, 1], [PADDING, 1, PADDING, PADDING]]
    assert {images.shape for images, *_ in batches} == {(4, 3, 16, 16)}
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
    labels, pictures = (np.concatenate(parts) for parts in zip(*[(b.targets[0], b.images) for b in batches]))
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


def test_hundreds_of_mutated_files_stop_nothing(tmp_path, capfd):
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
        assert {images.shape for images, *_ in batches} == {(16, 3, 16, 16)}
        assert all(np.isfinite(images).all() for images, *_ in batches)
        labels = np.concatenate([labels for _, (labels,), _ in batches])
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
        "acmix_ms.data.imagefolder.read_bytes", lambda path: read.append(path) or images.read_bytes(path)
    )
    list(loader.epoch(1))
    assert read
    assert not [path for path in read if path.endswith("cat/1.JPEG")]


def test_vanished_files_are_unreadable_too(folder):
    loader = create_loader(config_of(folder), "val")
    shutil.rmtree(folder / "val" / "dog")
    labels = np.concatenate([labels for _, (labels,), _ in loader.epoch(0)])
    assert sorted(labels) == [PADDING] * 5 + [0] * 3
