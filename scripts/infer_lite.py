"""The classes or the objects in image files, by a .ms: ``python infer_lite.py --model net.ms photo.jpg folder/``.

For devices: copy this file, the .ms and its .ms.json, which export.py writes beside it (of a detector with --raw). It
needs mindspore_lite, numpy and Pillow, and runs on Python 3.7 and newer. Here:
``.venv-lite/bin/python scripts/infer_lite.py``, after `make lite`.

Where something else makes a detector's maps, of a file that export.py wrote with --raw, NumPy makes objects of them::

    description = infer_lite.read_description("net.onnx.json")
    image, size = infer_lite.on_canvas(pixels, description)  # (H, W, 3) uint8 -> (3, h, w), resized by Pillow
    maps = ...  # of image[None], by the names in the description or in their order
    boxes, scores, labels = infer_lite.find(maps, description, size)
    boxes = infer_lite.in_picture(boxes, size, pixels.shape[:2])
"""

import argparse
import hashlib
import json
import os
import sys

os.environ.setdefault("GLOG_v", "4")  # Lite tells each failure in a dozen lines; one of our own is enough

import numpy as np

try:
    from PIL import Image, ImageOps
except ImportError:
    Image = None  # who has pixels does not need it

MAX_PIXELS = 128 * 2**20  # a larger size is a broken header, and decoding it would take all memory
MAX_SIDE = 2**14  # pixels of a resized picture
NAME_WIDTH = 40  # of a path in the table of objects
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # of the files in folders that are read


class InputError(Exception):
    """What was given cannot work; the message is one line."""


def printable(text):
    """The text without what moves a terminal's cursor or changes its colours, and without bytes that are no text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# ---------------------------------------------------------------------------------------------------- the description
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
    """See that a description is one that export.py writes, of a net that is run here; each problem is a KeyError,
    TypeError or ValueError.
    """
    if not isinstance(description, dict):
        raise TypeError("no JSON object")
    check_preprocess(description["preprocess"])
    task, count = description.get("task", "classification"), description["num_classes"]
    classes = description.get("classes")
    check_count("num_classes", count)
    if classes is not None and (not isinstance(classes, list) or len(classes) != count):
        raise ValueError("classes")
    if classes is not None and not all(isinstance(name, str) for name in classes):
        raise ValueError("classes")
    if task == "detection":
        check_detector(description)
    elif task != "classification":
        raise ValueError(f"task: {task}, only classification and detection are run here")


def check_preprocess(preprocess):
    """What is done to pixels."""
    for name in ("resize", "crop"):
        check_count(name, preprocess[name])
    if not preprocess["crop"] <= preprocess["resize"] <= MAX_SIDE:
        raise ValueError("crop and resize")
    for name, least in (("mean", -1e9), ("std", 0), ("scale", 0)):
        numbers = [preprocess["scale"]] if name == "scale" else preprocess[name]
        check_numbers(name, numbers, least, 1 if name == "scale" else 3)
    if preprocess["interpolation"] not in ("bilinear", "bicubic"):
        raise ValueError("interpolation")
    if preprocess.get("resize_method", "fast") not in ("pillow", "fast"):
        raise ValueError("resize_method")


def check_detector(description):
    """What a detector has beside: its canvas, and how its maps become boxes."""
    steps, canvas, shape = description["postprocess"], description["canvas"], description["input"]["shape"]
    if steps["operation"] == "rescale_boxes":
        raise ValueError("postprocess: MindSpore Lite 2.0.0 cannot make boxes itself, export the detector with --raw")
    if steps["operation"] != "retinanet":
        raise ValueError(f"postprocess: {steps['operation']!r}, only retinanet is known here")
    check_count("short_side", canvas["short_side"])
    if canvas["max_side"] is not None:
        check_count("max_side", canvas["max_side"])
    if len(shape) != 4:
        raise ValueError("input: shape")
    for side in shape[2:]:
        check_count("input: shape", side)
        if side > MAX_SIDE:
            raise ValueError("input: shape")
    for name in ("strides", "scales", "ratios"):
        check_numbers(name, steps[name], 0, None)
    for stride in steps["strides"]:
        check_count("strides", stride)
    for name in ("per_level", "count"):
        check_count(name, steps[name])
    for name in ("score_threshold", "iou_threshold"):
        check_numbers(name, [steps[name]], -1, 1)
    check_numbers("largest_change", [steps.get("largest_change", LARGEST_CHANGE)], 0, 1)
    names = [output["name"] for output in description["outputs"]]
    if len(names) != 2 * len(steps["strides"]) or len(set(names)) != len(names):
        raise ValueError("outputs: a map of scores and one of deltas for each stride")


def check_count(name, value):
    """A whole number above 0."""
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{name}: {value!r}")


def check_numbers(name, values, least, length):
    """A list of so many numbers (None: one or more) above ``least``."""
    if not isinstance(values, list) or not values or length not in (None, len(values)):
        raise ValueError(name)
    if not all(type(number) in (int, float) and least < number < 1e9 for number in values):  # nan is not
        raise ValueError(name)


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


# ---------------------------------------------------------------------------------------------------------- pictures
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
        pixels = np.asarray(image.resize((width, height), pillow_filter(preprocess)))
        left, top = round((width - crop) / 2), round((height - crop) / 2)
    else:
        pixels = sample(np.asarray(image), height, width, interpolation)
        left, top = (width - crop) // 2, (height - crop) // 2
    return normalized(pixels[top : top + crop, left : left + crop], preprocess, (crop, crop))


def on_canvas(image, description):
    """A picture, Pillow's or (H, W, 3) uint8, as a detector takes it: (3, height, width) float32, and the (height,
    width) of what is seen of it there, at the upper left; zeros are at its right and below it.
    """
    canvas, preprocess, sides = description["canvas"], description["preprocess"], description["input"]["shape"][2:]
    given = (image.height, image.width) if hasattr(image, "height") else image.shape[:2]
    scale = canvas["short_side"] / min(given)
    if canvas["max_side"] is not None:
        scale = min(canvas["max_side"] / max(given), scale)
    scale = min(scale, min(side / own for side, own in zip(sides, given)))
    height, width = (max(1, int(side * scale + 0.5)) for side in given)
    if given != (height, width):
        if preprocess.get("resize_method", "fast") == "pillow":
            if Image is None:
                raise InputError("Pillow is missing, by which pictures are resized: pip install pillow")
            image = image if hasattr(image, "height") else Image.fromarray(image)
            image = image.resize((width, height), pillow_filter(preprocess))
        else:
            image = sample(np.asarray(image), height, width, preprocess["interpolation"])
    return normalized(np.asarray(image), preprocess, sides), (height, width)


def pillow_filter(preprocess):
    """Pillow's name of an interpolation."""
    return Image.BILINEAR if preprocess["interpolation"] == "bilinear" else Image.BICUBIC


def normalized(pixels, preprocess, sides):
    """(h, w, 3) at the upper left of (3, *sides) float32."""
    height, width = pixels.shape[:2]
    result = np.zeros((3, *sides), np.float32)
    for channel, (mean, std) in enumerate(zip(preprocess["mean"], preprocess["std"])):
        scaled = pixels[:, :, channel] * np.float32(preprocess["scale"] / std)
        result[channel, :height, :width] = scaled - np.float32(mean / std)
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


# ---------------------------------------------------------------------- from a RetinaNet's maps to objects, NumPy alone
LARGEST_CHANGE = float(abs(np.log(16 / 1000)))  # of the logarithm of a side


def find(maps, description, size):
    """The objects in one picture: boxes (n, 4) float32, x1, y1, x2, y2 in pixels of the canvas, scores (n,) float32 and
    labels (n,) int64, the best first.

    Args:
        maps: (channels, h, w) or (1, channels, h, w) of each output, by names or in the order of the description.
        size: (height, width) of the picture on its canvas.
    """
    steps = description["postprocess"]
    scores, deltas = levels_of(maps, description)
    threshold, change = np.float32(steps["score_threshold"]), steps.get("largest_change", LARGEST_CHANGE)
    found = []
    for level, (score, delta) in enumerate(zip(scores, deltas)):
        priors = anchors(steps, level, *score.shape[1:])
        with np.errstate(over="ignore"):
            shares = (1 / (1 + np.exp(-score.transpose(1, 2, 0).reshape(len(priors), -1)))).astype(np.float32)
        places, classes = np.nonzero(shares > threshold)
        values = shares[places, classes]
        best = np.argsort(-values, kind="stable")[: steps["per_level"]]
        places = places[best]
        boxes = decode(priors[places], delta.transpose(1, 2, 0).reshape(-1, 4)[places], size, change)
        found.append((boxes, values[best], classes[best]))
    boxes, values, labels = (np.concatenate(part) for part in zip(*found))
    there = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)  # the others lie beyond the picture
    boxes, values, labels = boxes[there], values[there], labels[there]
    kept = suppressed(boxes, values, labels, steps["iou_threshold"])[: steps["count"]]
    return boxes[kept], values[kept], labels[kept]


def levels_of(maps, description):
    """The maps of scores and those of deltas, the finest level first, (channels, h, w) float32 each."""
    steps, names = description["postprocess"], [output["name"] for output in description["outputs"]]
    if hasattr(maps, "keys"):
        absent = [name for name in names if name not in maps]
        if absent:
            raise InputError(f"there is no map {absent[0]}: give those that the .json names")
        maps = [maps[name] for name in names]
    if len(maps) != len(names):
        raise InputError(f"{len(maps)} maps for the {len(names)} that the .json names")
    levels, found = len(steps["strides"]), []
    per_place = len(steps["scales"]) * len(steps["ratios"])
    for number, (name, values) in enumerate(zip(names, maps)):
        values = np.asarray(values, np.float32)
        values = values[0] if values.ndim == 4 and len(values) == 1 else values
        stride = steps["strides"][number % levels]
        channels = per_place * (description["num_classes"] if number < levels else 4)
        wanted = (channels, *(-(-side // stride) for side in description["input"]["shape"][2:]))
        if values.shape != wanted:
            raise InputError(f"{name}: a map of {values.shape}, the .json speaks of {wanted}: not of the same net")
        found.append(values)
    return found[:levels], found[levels:]


def anchors(steps, level, height, width):
    """(height * width * A, 4) float32 of a map: rows, columns, ratios, scales; around the upper left of each cell."""
    stride, scales = steps["strides"][level], np.asarray(steps["scales"], np.float32)
    roots = np.sqrt(np.asarray(steps["ratios"], np.float32))[:, None]
    wide, high = (stride * (1 / roots) * scales).reshape(-1), (stride * roots * scales).reshape(-1)
    base = np.stack([-0.5 * wide, -0.5 * high, 0.5 * wide, 0.5 * high], 1).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) * stride, np.arange(height, dtype=np.float32) * stride)
    return (np.stack([x, y, x, y], -1).reshape(-1, 1, 4) + base).reshape(-1, 4)


def decode(priors, deltas, size, change):
    """(n, 4) anchors, moved and stretched by (n, 4) deltas, within the picture."""
    sides = priors[:, 2:] - priors[:, :2]
    centres = (priors[:, :2] + priors[:, 2:]) * np.float32(0.5) + sides * deltas[:, :2]
    change = np.float32(change)
    half = sides * np.exp(np.clip(deltas[:, 2:], -change, change)) * np.float32(0.5)
    boxes = np.concatenate([centres - half, centres + half], 1).astype(np.float32)
    return np.clip(boxes, 0, np.asarray([size[1], size[0]] * 2, np.float32))


def suppressed(boxes, scores, labels, threshold):
    """Which boxes stay, the best first: greedily, one goes where its IoU with a better one of its class that stays is
    above the threshold.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    # Classes need no distance here, but with it boxes are rounded as mmdetection and acmix_ms round them.
    boxes = boxes + (labels * (boxes.max() + 1)).astype(np.float32)[:, None]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    for label in np.unique(labels):
        left = np.flatnonzero(labels == label)
        left = left[np.argsort(-scores[left], kind="stable")]
        while len(left):
            best, left = left[0], left[1:]
            kept.append(best)
            low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
            sides = np.clip(high - low, 0, None)
            shared = sides[:, 0] * sides[:, 1]
            union = areas[best] + areas[left] - shared
            left = left[shared / np.maximum(union, np.float32(1e-6)) <= np.float32(threshold)]
    kept = np.sort(np.asarray(kept, np.int64))  # of equal scores the first comes first
    return kept[np.argsort(-scores[kept], kind="stable")]


def in_picture(boxes, size, picture):
    """(n, 4) float32 on the canvas to pixels of the picture.

    Args:
        size, picture: (height, width) on the canvas and of the picture itself.
    """
    return (boxes / np.array([size[1] / picture[1], size[0] / picture[0]] * 2)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ MindSpore Lite
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
        """(3, H, W) float32 to (classes,). A file for images that are not square gets their middle."""
        sides = self._shape[2:]
        if len(sides) == 2 and sides[0] != sides[1] and 0 < min(sides) and max(sides) <= min(image.shape[1:]):
            top, left = ((given - own) // 2 for given, own in zip(image.shape[1:], sides))
            image = image[:, top : top + sides[0], left : left + sides[1]]
        return next(iter(self.outputs(image).values())).astype(np.float64)

    def outputs(self, image):
        """(3, H, W) float32 to all outputs by the file's names, without the batch. A file with a fixed batch gets the
        image as often as it asks for.
        """
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
            found = {one.name: one.get_data_to_numpy()[0].copy() for one in self._model.predict(inputs)}
        except RuntimeError as error:
            raise InputError(f"{self.path} cannot be run by MindSpore Lite: {error}") from error
        if not all(np.isfinite(values).all() for values in found.values()):
            raise InputError(f"{self.path} gives numbers that are not finite: export it again")
        return found


# ------------------------------------------------------------------------------------------------------------- answers
def classified(model, image, path, description, args):
    """(what is printed, what is written as JSON) of one picture."""
    logits = model.logits(prepare(image, description["preprocess"]))
    if len(logits) != description["num_classes"]:
        raise InputError(f"{args.model} gives {len(logits)} classes, the .json names {description['num_classes']}")
    top = best(logits, description, args.top)
    line = f"{path}: " + ", ".join(f"{entry['name']} {100 * entry['probability']:.2f} %" for entry in top)
    return printable(line), {"file": path, "top": top}


def best(logits, description, count):
    """The likeliest classes, with probabilities."""
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    names = description.get("classes") or [str(number) for number in range(len(logits))]
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [{"class": int(i), "name": str(names[i]), "probability": float(probabilities[i])} for i in order]


def detected(model, image, path, description, args):
    """(what is printed, what is written as JSON) of one picture, as predict.py has both."""
    pixels, size = on_canvas(image, description)
    maps = model.outputs(pixels)
    if not {output["name"] for output in description["outputs"]} <= set(maps):  # a converter renamed them
        maps = list(maps.values())
    boxes, scores, labels = find(maps, description, size)
    sure = scores >= args.threshold
    boxes, labels = in_picture(boxes[sure], size, (image.height, image.width)), labels[sure].tolist()
    names = description.get("classes") or [f"class {number}" for number in range(description["num_classes"])]
    rows = list(zip([names[label] for label in labels], scores[sure].tolist(), boxes.tolist()))
    objects = [
        {"class": name, "score": round(score, 6), "box": [round(side, 2) for side in box]} for name, score, box in rows
    ]
    return table(path, rows), {"image": path, "height": image.height, "width": image.width, "objects": objects}


def table(path, rows):
    """A line for each (name, score, box), the first with the path: ``photo.jpg  0.975  (12, 30) to (20, 300)  cat``."""
    path = printable(path)
    names = [path if len(path) <= NAME_WIDTH else f"...{path[3 - NAME_WIDTH :]}"]
    if not rows:
        return f"{names[0]:{NAME_WIDTH}} nothing found"
    lines = []
    for file, (name, score, box) in zip(names + [""] * len(rows), rows):
        x1, y1, x2, y2 = (f"{side:.0f}" for side in box)
        place = f"({x1}, {y1}) to ({x2}, {y2})"
        lines.append(f"{file:{NAME_WIDTH}} {score:.3f}  {place:24}  {printable(name)}")
    return "\n".join(lines)


def main(argv=None):
    """Answer for each file; 2 if some could not be read."""
    parser = argparse.ArgumentParser(prog="infer_lite.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, metavar="FILE.ms")
    parser.add_argument("--json", metavar="FILE", help="default: FILE.ms.json")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="so many classes, default 5")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="SCORE", help="of objects, default 0.3")
    parser.add_argument("--output", metavar="FILE.json", help="write the results there as well; -: print them alone")
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    args = parser.parse_args(argv)
    if args.top < 1:
        raise InputError(f"--top {args.top}: give at least 1")
    if not 0 <= args.threshold <= 1:
        raise InputError(f"--threshold {args.threshold}: give a number from 0 to 1")
    if Image is None:
        raise InputError(f"Pillow, which reads image files, is missing in {sys.executable}: pip install pillow")
    description = read_description(args.json or args.model + ".json")
    answer = detected if description.get("task") == "detection" else classified
    key = "image" if answer is detected else "file"
    paths = find_images(args.images)
    model, results, bad = Model(args.model, description.get("sha256")), [], 0
    for path in paths:
        try:
            image = read_image(path)
        except InputError as error:
            tell(error)
            results.append({key: path, "error": str(error)})
            bad += 1
            continue
        lines, result = answer(model, image, path, description, args)
        results.append(result)
        if args.output != "-":
            print(lines, flush=True)
    if args.output:
        write(results, args.output)
    return 2 if bad else 0


def write(results, path):
    """The results as JSON, to a file that is whole or not there."""
    if path == "-":
        print(json.dumps(results, indent=1), flush=True)
        return
    try:
        with open(path + ".partial", "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
        os.replace(path + ".partial", path)
    except OSError as error:
        raise InputError(f"--output {path}: {error.strerror}") from error


def tell(error):
    """One line."""
    print("error: " + printable(" ".join(str(error).split())), file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        tell(error)
        sys.exit(2)
