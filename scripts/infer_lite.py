"""Classify image files with a .ms: ``python infer_lite.py --model acmix_swin_tiny.ms photo.jpg folder/``.

For devices: copy this file, the .ms and its .ms.json, which export.py writes beside it. It needs mindspore_lite, numpy
and Pillow, and runs on Python 3.7 and newer. Here: ``.venv-lite/bin/python scripts/infer_lite.py``, after `make lite`.
"""

import argparse
import hashlib
import json
import os
import sys

os.environ.setdefault("GLOG_v", "4")  # Lite tells each failure in a dozen lines; one of our own is enough

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 128 * 2**20  # a larger size is a broken header, and decoding it would take all memory
MAX_SIDE = 2**14  # pixels of a resized picture
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # of the files in folders that are read


class InputError(Exception):
    """What was given cannot work; the message is one line."""


def printable(text):
    """The text without what moves a terminal's cursor or changes its colours, and without bytes that are no text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def read_description(path):
    """The JSON beside a model: what it takes and what its answers are called."""
    try:
        with open(path, encoding="utf-8") as file:
            description = json.load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the .json that export.py wrote beside the model") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); take the one that export.py wrote beside the model") from error
    try:
        check(description)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: missing or wrong: {error}; take the one that export.py wrote") from error
    return description


def check(description):
    """See that a description is that of a classifier, as export.py writes it; each problem is a KeyError, TypeError or
    ValueError.
    """
    preprocess, count, classes = description["preprocess"], description["num_classes"], description.get("classes")
    if description.get("task", "classification") != "classification":
        raise ValueError(f"task: {description['task']}, only classification is run here")
    for name, value in (("resize", preprocess["resize"]), ("crop", preprocess["crop"]), ("num_classes", count)):
        if type(value) is not int or not 0 < value < 2**31:
            raise ValueError(f"{name}: {value!r}")
    if not preprocess["crop"] <= preprocess["resize"] <= MAX_SIDE:
        raise ValueError("crop and resize")
    for name, least in (("mean", -1e9), ("std", 0), ("scale", 0)):
        numbers = [preprocess["scale"]] if name == "scale" else preprocess[name]
        if name != "scale" and (not isinstance(numbers, list) or len(numbers) != 3):
            raise ValueError(name)
        if not all(type(number) in (int, float) and least < number < 1e9 for number in numbers):  # nan is not
            raise ValueError(name)
    if preprocess["interpolation"] not in ("bilinear", "bicubic"):
        raise ValueError("interpolation")
    if preprocess.get("resize_method", "fast") not in ("pillow", "fast"):
        raise ValueError("resize_method")
    if classes is not None and (not isinstance(classes, list) or len(classes) != count):
        raise ValueError("classes")
    if classes is not None and not all(isinstance(name, str) for name in classes):
        raise ValueError("classes")


def check_sha256(path, expected):
    """See that a description is that of this file; an older one has no sha256."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if expected not in (None, "", digest.hexdigest()):
        raise InputError(f"{path} is not the file that the .json describes, their sha256 differ: copy both again")


def find_images(paths):
    """The files among the paths, and all images in the folders among them, whatever their depth."""
    found = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside = []
        for folder, _, names in os.walk(path):
            inside += [os.path.join(folder, name) for name in names if name.lower().endswith(ENDINGS)]
        if not inside:
            raise InputError(f"{path} has no images ({', '.join(ENDINGS)})")
        found += sorted(inside)
    return found


def read_image(path):
    """An image file as 8-bit RGB, upright."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{path} is no regular file")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
            image.load()
            return eight_bits(path, ImageOps.exif_transpose(image)).convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    # whatever malformed bytes lead Pillow's parsers to
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error


def eight_bits(path, image):
    """16-bit grey to 0..255; ``convert`` would clip it."""
    if image.mode == "F":
        raise InputError(f"{path}: pixels are floating-point numbers of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{path}: pixels are integers beyond 16 bits")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def prepare(image, preprocess):
    """What evaluation does to a picture: shorter side, middle, normalised; (3, crop, crop) float32."""
    side, crop, interpolation = preprocess["resize"], preprocess["crop"], preprocess["interpolation"]
    shorter = min(image.size)
    width, height = (side if size == shorter else int(size * side / shorter) for size in image.size)
    if preprocess.get("resize_method", "fast") == "pillow":
        image = image.resize((width, height), Image.BILINEAR if interpolation == "bilinear" else Image.BICUBIC)
        pixels = np.asarray(image)
        left, top = round((width - crop) / 2), round((height - crop) / 2)
    else:
        pixels = sample(np.asarray(image), height, width, interpolation)
        left, top = (width - crop) // 2, (height - crop) // 2
    pixels = pixels[top : top + crop, left : left + crop]
    result = np.empty((3, crop, crop), np.float32)
    for channel, (mean, std) in enumerate(zip(preprocess["mean"], preprocess["std"])):
        result[channel] = pixels[:, :, channel] * np.float32(preprocess["scale"] / std) - np.float32(mean / std)
    return result


def sample(pixels, height, width, interpolation):
    """(h, w, 3) in another size as MindSpore does it, and as files were exported before there was "resize_method": read
    at the points, without averaging what lies between them.
    """
    pixels = pixels.astype(np.float32)
    for axis, size in ((0, height), (1, width)):
        own = pixels.shape[axis]
        at = (np.arange(size) + 0.5) * own / size - 0.5
        low = np.floor(at).astype(np.int64)
        result = 0
        for tap in (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2):
            weight = kernel(np.abs(at - low - tap), interpolation).astype(np.float32)
            weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            result = result + pixels.take(np.clip(low + tap, 0, own - 1), axis) * weight
        pixels = result
    return np.clip(np.round(pixels), 0, 255)


def kernel(distance, interpolation):
    """The weight of a pixel at a distance, 0 to 2; bicubic with -0.75, as in OpenCV, which MindSpore uses."""
    if interpolation == "bilinear":
        return 1 - distance
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    return np.where(distance <= 1, near, far)


class Model:
    """A .ms on the CPU."""

    def __init__(self, path, sha256=None):
        try:
            import mindspore_lite as lite
        except ImportError as error:
            raise InputError(
                f"mindspore_lite is missing in {sys.executable} ({error}): run `make lite`, then use "
                ".venv-lite/bin/python; on a device install the vendor's release"
            ) from error
        if not os.path.isfile(path):
            raise InputError(f"{path} does not exist")
        check_sha256(path, sha256)
        context = lite.Context()
        context.target = ["cpu"]
        self.path, self._model = path, lite.Model()
        try:
            self._model.build_from_file(path, lite.ModelType.MINDIR_LITE, context)
        except RuntimeError as error:
            raise InputError(
                f"{path} cannot be loaded by MindSpore Lite {lite.__version__}: export it again"
            ) from error
        self._shape = [int(size) for size in self._model.get_inputs()[0].shape]

    def logits(self, image):
        """(3, H, W) float32 to (classes,). A file with a fixed batch gets the image as often as it asks for, one for
        images that are not square their middle.
        """
        sides = self._shape[2:]
        if len(sides) == 2 and sides[0] != sides[1] and 0 < min(sides) and max(sides) <= min(image.shape[1:]):
            top, left = ((given - own) // 2 for given, own in zip(image.shape[1:], sides))
            image = image[:, top : top + sides[0], left : left + sides[1]]
        size = max(self._shape[0], 1)
        wanted = [size, *image.shape]
        if len(self._shape) != 4 or any(own not in (-1, given) for own, given in zip(self._shape, wanted)):
            raise InputError(
                f"{self.path} takes {self._shape}, the .json prepares {wanted}: these do not belong together"
            )
        try:
            if -1 in self._shape:  # once only: Lite 2.0.0 may compute wrongly after a second resize
                self._model.resize(self._model.get_inputs(), [wanted])
                self._shape = wanted
            inputs = self._model.get_inputs()
            inputs[0].set_data_from_numpy(np.repeat(image[None], size, axis=0))
            logits = self._model.predict(inputs)[0].get_data_to_numpy()[0].astype(np.float64)
        except RuntimeError as error:
            raise InputError(f"{self.path} cannot be run by MindSpore Lite: {error}") from error
        if not np.isfinite(logits).all():
            raise InputError(f"{self.path} gives numbers that are not finite: export it again")
        return logits


def best(logits, description, count):
    """The likeliest classes, with probabilities."""
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    names = description.get("classes") or [str(number) for number in range(len(logits))]
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [{"class": int(i), "name": str(names[i]), "probability": float(probabilities[i])} for i in order]


def main(argv=None):
    """Classify each file, a line for each; 2 if some could not be read."""
    parser = argparse.ArgumentParser(prog="infer_lite.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, metavar="FILE.ms")
    parser.add_argument("--json", metavar="FILE", help="default: FILE.ms.json")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="so many classes, default 5")
    parser.add_argument("--output", metavar="FILE.json", help="write the results there as well")
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    args = parser.parse_args(argv)
    if args.top < 1:
        raise InputError(f"--top {args.top}: give at least 1")
    description = read_description(args.json or args.model + ".json")
    paths = find_images(args.images)
    model, results, bad = Model(args.model, description.get("sha256")), [], 0
    for path in paths:
        try:
            image = read_image(path)
        except InputError as error:
            tell(error)
            results.append({"file": path, "error": str(error)})
            bad += 1
            continue
        logits = model.logits(prepare(image, description["preprocess"]))
        if len(logits) != description["num_classes"]:
            raise InputError(f"{args.model} gives {len(logits)} classes, the .json names {description['num_classes']}")
        top = best(logits, description, args.top)
        line = f"{path}: " + ", ".join(f"{entry['name']} {100 * entry['probability']:.2f} %" for entry in top)
        print(printable(line), flush=True)
        results.append({"file": path, "top": top})
    if args.output:
        try:
            with open(args.output + ".partial", "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)
            os.replace(args.output + ".partial", args.output)
        except OSError as error:
            raise InputError(f"--output {args.output}: {error.strerror}") from error
    return 2 if bad else 0


def tell(error):
    """One line."""
    print("error: " + printable(" ".join(str(error).split())), file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        tell(error)
        sys.exit(2)
