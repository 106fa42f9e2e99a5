"""Image files to pixels: libjpeg-turbo decodes JPEGs, Pillow the rest; what is damaged is refused.

libjpeg goes on where a JPEG is damaged, gives a picture that is partly or wholly wrong, and warns on stderr.
`simplejpeg`, its thinnest binding, raises instead. What no decoder can notice is a bit that makes one valid code of
another (seven in ten flipped bits; README has the numbers), or height and width exchanged.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps

from acmix_ms.errors import UserError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None  # said when the first JPEG comes

FORMATS = ("PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")  # beside JPEG; not all of Pillow's: EPS would start a program
MAX_PIXELS = 128 * 2**20  # a larger size is a broken header, and decoding it would take all memory
ORIENTATION = 0x0112  # the EXIF tag
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # what files begin with

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

# Pillow's remarks on odd metadata and on sizes below MAX_PIXELS do not name the file and help nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImageError(Exception):
    """No image can be made of a file; the message says why."""


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The image in a file, (H, W, 3) uint8 RGB, upright.

    Raises:
        UnreadableImageError: missing, empty or damaged file, or no image.
    """
    return decode(read_bytes(path))


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a regular file.

    Raises:
        UnreadableImageError: it cannot be read, or is a pipe or a device, which might never end.
    """
    try:
        # Without O_NONBLOCK already the opening of a pipe would wait for somebody who writes into it.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableImageError("no regular file")
            return file.read()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error


def decode(data: bytes) -> np.ndarray:
    """The image that a file's content encodes, (H, W, 3) uint8 RGB, upright.

    CMYK, palettes, 16 bits and greyscale are converted, transparency is dropped, EXIF's orientation is applied.

    Raises:
        UnreadableImageError: nothing, damaged or no image.
    """
    if not data:
        raise UnreadableImageError("empty file")
    return _decode_jpeg(data) if data[: len(JPEG)] == JPEG else _decode_other(data)


def _decode_jpeg(data: bytes) -> np.ndarray:
    if simplejpeg is None:
        raise UserError("JPEGs are decoded by the package simplejpeg, which is missing here: pip install simplejpeg")
    orientation = 1
    for marker, body in _segments(data):
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = exif_orientation(body[6:])
        elif marker == 0xDB and _has_zero_step(body):  # libjpeg decodes it to a grey area without a warning
            raise UnreadableImageError("corrupt JPEG, a quantisation table holds zeros")
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_PIXELS:
            raise UnreadableImageError(f"{width} x {height} pixels, at most {MAX_PIXELS} are read")
        wanted = "CMYK" if colours in ("CMYK", "YCCK") else "RGB"
        pixels = simplejpeg.decode_jpeg(data, colorspace=wanted, strict=True)
    except ValueError as error:
        reason = " ".join(str(error).split()).replace("Corrupt JPEG data: ", "")
        raise UnreadableImageError(f"corrupt JPEG, {reason}") from error
    if wanted == "CMYK":  # stored as Adobe does it, by all who write such files: 255 is no ink
        pixels = np.asarray(Image.frombytes("CMYK", (width, height), (255 - pixels).tobytes()).convert("RGB"))
    return turned_upright(pixels, orientation)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (marker, content) of a JPEG's headers, up to its first pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        if marker == 0xDA:  # the pixels
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length


def _has_zero_step(tables: bytes) -> bool:
    """Whether a quantisation step of a JPEG's DQT segment is 0, by which nothing can be divided."""
    at = 0
    while at < len(tables):
        size = 2 if tables[at] >> 4 else 1
        table = np.frombuffer(tables[at + 1 : at + 1 + 64 * size], ">u2" if size == 2 else np.uint8)
        if not table.all():
            return True
        at += 1 + 64 * size
    return False


def exif_orientation(tiff: bytes) -> int:
    """The orientation 1 (upright) to 8 that a block of EXIF tells; 1 if the block is malformed."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (offset,) = struct.unpack(order + "I", tiff[4:8])
    if offset + 2 > len(tiff):
        return 1
    (count,) = struct.unpack(order + "H", tiff[offset : offset + 2])
    for entry in range(offset + 2, min(offset + 2 + 12 * count, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack(order + "HHIH", tiff[entry : entry + 10])
        if tag == ORIENTATION:
            return value
    return 1


def turned_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, 3) as EXIF's orientation 1 to 8 wants it shown; an unknown one turns nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _check_png(data: bytes) -> None:
    """Raise UnreadableImageError where a checksum is wrong of what the pixels need; Pillow skips that of the pixels."""
    at = len(PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        needed = data[at + 4 : at + 5].isupper()  # by which PNG tells it from remarks
        if needed and zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise UnreadableImageError("corrupt PNG, a checksum is wrong")
        at = end + 4


def _decode_other(data: bytes) -> np.ndarray:
    return _decode_by_pillow(data, lambda image: _eight_bits(_upright(image)).convert("RGB"))


def _decode_by_pillow(data: bytes, wanted: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    if data[: len(PNG)] == PNG:
        _check_png(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
            image.load()
            return np.array(wanted(image))
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("no image of a known kind" if data else "empty file") from error
    except _PILLOW_ERRORS as error:
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error


def decode_values(data: bytes) -> np.ndarray:
    """The numbers that an image file stores, such as classes of pixels: (H, W), or (H, W, C) of a coloured one.

    Those of a palette are indices; nothing is scaled or turned.

    Raises:
        UnreadableImageError: nothing, damaged or no image.
    """
    return _decode_by_pillow(data, lambda image: image)


def stored_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """(height, width) that the header of an image file tells; None where there is none."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except _PILLOW_ERRORS:
        return None


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
