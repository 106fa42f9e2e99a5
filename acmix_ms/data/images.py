"""Image files as they come: what MindSpore decodes rightly passes untouched, the rest is converted or refused.

MindSpore's decoder knows 8-bit RGB and greyscale. It reads a JPEG whose end is missing without a word, turns nothing
by EXIF, fails in the middle of an epoch on much else, and some corrupt JPEGs kill the whole process (segmentation
fault, 2.8.0). So each file's headers are walked through, which takes microseconds; the few that are not plain are
decoded by Pillow and handed on as a bitmap. Of a plain JPEG Pillow reads all the data once, at an eighth of the size,
which takes a third of the time of decoding it.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")  # not all of Pillow's: EPS would start a program
MAX_PIXELS = 128 * 2**20  # a larger size is a broken header, and decoding it would take all memory
ORIENTATION = 0x0112  # the EXIF tag

# Whatever malformed bytes lead Pillow's parsers to.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(Exception):
    """No image can be made of a file; the message says why."""


def read_encoded(path: str, *, known: bool = False) -> np.ndarray:
    """The file's content, or what stands for it, such that MindSpore decodes it to 8-bit RGB, upright.

    CMYK, palettes, 16 bits and greyscale are converted, transparency is dropped, EXIF's orientation is applied.

    Args:
        known: the file was read before and is sound: only its headers and its end are looked at.

    Returns:
        encoded bytes (n,) uint8: the file as it is, or a bitmap.

    Raises:
        UnreadableImageError: missing, empty, truncated or corrupt file, or no image.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    if not data:
        raise UnreadableImageError("empty file")
    if is_plain_jpeg(data):
        if not known:
            _check_pixels(data)
    elif not is_plain_png(data):
        data = to_bitmap(data)
    return np.frombuffer(data, np.uint8)


def is_bitmap(encoded: np.ndarray) -> bool:
    """Whether this stands for a file that was converted."""
    return encoded[:2].tobytes() == b"BM"


def _check_pixels(data: bytes) -> None:
    """Raise UnreadableImageError unless all data of a JPEG can be decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            image.draft("L", (1, 1))
            image.load()
    except _PILLOW_ERRORS as error:
        raise UnreadableImageError(f"corrupt JPEG, {' '.join(str(error).split())}") from error


def is_plain_jpeg(data: bytes) -> bool:
    """Whether these are the bytes of a whole JPEG, 8-bit YCbCr or grey, upright. False also if it is no JPEG.

    Raises:
        UnreadableImageError: a JPEG without its end.
    """
    if data[:3] != b"\xff\xd8\xff":
        return False
    at, plain = 2, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive; other kinds of frames are not plain
            if len(body) < 6:
                return False
            bits, height, width, components = struct.unpack(">BHHB", body[:6])
            plain = bits == 8 and components in (1, 3) and 0 < height * width <= MAX_PIXELS
        elif marker == 0xE1 and body[:6] == b"Exif\0\0" and exif_orientation(body[6:]) != 1:
            return False
        elif marker == 0xDA:  # the pixels; in them FF is never followed by D9, so that the end can be looked for
            if data.rfind(b"\xff\xd9", at) < 0:
                raise UnreadableImageError("truncated JPEG, its end is missing")
            return plain
        at += 2 + length
    raise UnreadableImageError("truncated or corrupt JPEG, it has no pixels")


def exif_orientation(tiff: bytes) -> int:
    """The orientation 1 (upright) to 8 that a block of EXIF tells; 0 if the block is malformed."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 0
    (offset,) = struct.unpack(order + "I", tiff[4:8])
    if offset + 2 > len(tiff):
        return 0
    (count,) = struct.unpack(order + "H", tiff[offset : offset + 2])
    for entry in range(offset + 2, min(offset + 2 + 12 * count, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack(order + "HHIH", tiff[entry : entry + 10])
        if tag == ORIENTATION:
            return value
    return 1


def is_plain_png(data: bytes) -> bool:
    """Whether these are the bytes of a whole PNG, 8-bit RGB without transparency and EXIF, with right checksums."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or data[24:26] != b"\x08\x02":
        return False
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= MAX_PIXELS:
        return False
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end, kind = at + 8 + length, data[at + 4 : at + 8]
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if kind == b"IEND":
            return True
        if kind in (b"tRNS", b"eXIf", b"acTL"):
            return False
        at = end + 4
    return False


def to_bitmap(data: bytes) -> bytes:
    """Decode an image of any kind with Pillow and give it as an uncompressed bitmap (BMP), 8-bit RGB, upright.

    Raises:
        UnreadableImageError: Pillow cannot read it, or nothing is known of the range of its values.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
            image.load()
            bitmap = io.BytesIO()
            _eight_bits(_upright(image)).convert("RGB").save(bitmap, "BMP")
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("no image of a known kind") from error
    except _PILLOW_ERRORS as error:
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error
    return bitmap.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _PILLOW_ERRORS:  # malformed EXIF beside a sound image is no reason to lose it
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring 16-bit grey to 0..255: ``convert`` would clip it, so that nearly everything becomes white."""
    if image.mode == "F":
        raise UnreadableImageError("pixels are floating-point numbers of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError("pixels are integers beyond 16 bits")
    return Image.fromarray((values / 257).round().astype(np.uint8))
