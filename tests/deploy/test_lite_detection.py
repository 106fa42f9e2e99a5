"""scripts/infer_lite.py for detectors: without the package it prepares, decides and tells what the package does."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from acmix_ms.data.canvas import Canvas, CanvasReader
from acmix_ms.data.preprocess import Preprocess
from acmix_ms.deploy import detection
from acmix_ms.deploy.description import Description, Output
from acmix_ms.postprocess import dense_detections
from models import exports
from models.detection.anchors import AnchorGenerator
from scripts import infer_lite
from tests.conftest import ROOT

GENERATOR = AnchorGenerator((8, 16, 32), (4.0, 4 * 2 ** (1 / 3)), (0.5, 1.0, 2.0))
HEIGHT, WIDTH, CLASSES = 64, 96, 4
STEPS = {
    "operation": "retinanet", "strides": [8, 16, 32], "scales": list(GENERATOR.scales), "ratios": [0.5, 1.0, 2.0],
    "largest_change": float(abs(np.log(16 / 1000))), "score_threshold": 0.05, "per_level": 1000, "iou_threshold": 0.5,
    "count": 100,
}  # fmt: skip
NAMES = [f"{kind}_{stride}" for kind in ("cls_score", "bbox_pred") for stride in GENERATOR.strides]


def described(**changes):
    """A description as it stands in a file."""
    values = {
        "task": "detection", "num_classes": CLASSES, "classes": None, "input": {"shape": [1, 3, HEIGHT, WIDTH]},
        "preprocess": {"resize": 64, "crop": 64, "interpolation": "bilinear", "scale": 1 / 255, "mean": [0.5, 0.4, 0.3],
                       "std": [0.2, 0.3, 0.1], "resize_method": "pillow"},
        "canvas": {"short_side": 48, "max_side": 80}, "postprocess": copy.deepcopy(STEPS),
        "outputs": [{"name": name, "meaning": "", "shape": []} for name in NAMES],
    }  # fmt: skip
    return {**values, **changes}


def some_maps(seed=0, mean=-4.0, spread=2.0):
    """Of a picture, by names: logits around ``mean``, and deltas, some of them larger than any that count."""
    random, places = np.random.default_rng(seed), GENERATOR.per_place
    sizes = GENERATOR.sizes(HEIGHT, WIDTH)
    scores = [mean + spread * random.standard_normal((places * CLASSES, *size)) for size in sizes]
    deltas = [random.standard_normal((places * 4, *size)) * 1.5 for size in sizes]
    return {name: values.astype(np.float32) for name, values in zip(NAMES, scores + deltas)}


def judged(maps, size, steps=STEPS):
    """What `dense_detections` makes of them."""
    values = list(maps.values())
    options = {"threshold": steps["score_threshold"], "iou_threshold": steps["iou_threshold"]}
    options.update(per_level=steps["per_level"], count=steps["count"])
    levels = GENERATOR.levels(GENERATOR.sizes(HEIGHT, WIDTH))
    return dense_detections(values[:3], values[3:], levels, size, **options)


EQUAL = {name: np.round(values) for name, values in some_maps(4, mean=-3.0).items()}  # scores


# --------------------------------------------------------------------------------------------------- maps to objects
@pytest.mark.parametrize(
    "maps, size, changes, least",
    [
        (some_maps(), (64, 96), {}, 100),
        (some_maps(1, mean=1.0), (50.0, 61.0), {"per_level": 90}, 30),
        (some_maps(2, mean=0.0), (64, 96), {"count": 10_000, "iou_threshold": 0.3}, 200),
        (some_maps(3, mean=-5.0, spread=1.0), (64, 96), {"score_threshold": 0.02}, 5),
        (EQUAL, (64, 96), {}, 100),
        (EQUAL, (64, 96), {"score_threshold": 0.5}, 30),  # the sigmoid of 0
        (some_maps(5, mean=-90.0), (64, 96), {}, None),
    ],
    ids=["usual", "crowded", "all", "few", "equal", "not above", "nothing"],
)
def test_objects_are_bitwise_those_of_the_package(maps, size, changes, least):
    steps = {**STEPS, **changes}
    expected = judged(maps, size, steps)
    for given in (maps, [values[None] for values in maps.values()]):
        found = infer_lite.find(given, described(postprocess=steps), size)
        for one, other in zip(found, expected):
            assert one.dtype == other.dtype and np.array_equal(one, other)
    assert len(found[0]) >= least if least else not len(found[0])


def test_maps_of_another_net_are_told():
    maps = some_maps()
    for name, wrong in (("cls_score_16", maps["cls_score_8"]), ("bbox_pred_32", maps["bbox_pred_32"][:-1])):
        with pytest.raises(infer_lite.InputError, match=f"{name}: a map of .*not of the same net"):
            infer_lite.find({**maps, name: wrong}, described(), (64, 96))
    with pytest.raises(infer_lite.InputError, match="there is no map bbox_pred_8"):
        infer_lite.find({name: maps[name] for name in NAMES if name != "bbox_pred_8"}, described(), (64, 96))
    with pytest.raises(infer_lite.InputError, match="5 maps for the 6"):
        infer_lite.find(list(maps.values())[1:], described(), (64, 96))


def test_numpy_is_enough_for_pixels_and_maps(tmp_path):
    (tmp_path / "net.json").write_text(json.dumps(described()))
    np.savez(tmp_path / "maps.npz", **some_maps())
    code = (
        "import sys; sys.modules['PIL'] = sys.modules['mindspore_lite'] = None\n"
        "import infer_lite, json, numpy as np\n"
        "about, maps = infer_lite.read_description('net.json'), dict(np.load('maps.npz'))\n"
        "image, size = infer_lite.on_canvas(np.zeros((48, 64, 3), np.uint8), about)\n"
        "print(image.shape, size, len(infer_lite.find(maps, about, size)[0]), 'acmix_ms' in sys.modules)\n"
        "infer_lite.on_canvas(np.zeros((49, 64, 3), np.uint8), about)"
    )
    paths = {"PYTHONPATH": str(ROOT / "scripts"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=paths, capture_output=True, text=True)
    assert done.stdout == f"(3, 64, 96) (48, 64) {len(judged(some_maps(), (48, 64)).scores)} False\n", done.stderr
    assert "Pillow is missing" in done.stderr, "to resize"


# ----------------------------------------------------------------------------------------------------------- pictures
@pytest.mark.parametrize("size", [(40, 60), (48, 64), (200, 30), (31, 300), (64, 96), (1, 1)])
@pytest.mark.parametrize("method", ["pillow", "fast"])
@pytest.mark.parametrize("max_side", [80, None])
def test_pictures_lie_on_the_canvas_as_the_evaluation_puts_them(size, method, max_side):
    about = described(canvas={"short_side": 48, "max_side": max_side})
    about["preprocess"]["resize_method"] = method
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    reader = CanvasReader(Canvas(HEIGHT, WIDTH, (48,), max_side=max_side, turns=False), preprocess_in(about))
    expected, place = reader.placed(pixels)
    for picture in (pixels, Image.fromarray(pixels)):
        found, seen = infer_lite.on_canvas(picture, about)
        assert list(seen) == place[:2].tolist() and found.dtype == np.float32
        if method == "pillow":
            assert np.array_equal(found, expected)
        else:  # MindSpore rounds in between
            np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 0.1)


def preprocess_in(about):
    return Preprocess.from_dict(json.loads(json.dumps(about["preprocess"])))


# ---------------------------------------------------------------------------------------------------------- the script
class Maps:
    """Stands for the net in a file, here and in the package: the maps follow from the picture's first pixel."""

    path = "net.ms"

    def __init__(self, path, sha256=None):
        pass

    def outputs(self, images):
        maps = some_maps(int(abs(images.reshape(-1)[0]) * 1000))
        return maps if images.ndim == 3 else {name: values[None] for name, values in maps.items()}


@pytest.fixture
def pictures(tmp_path):
    """Three, and one that is none."""
    random = np.random.default_rng(1)
    for number, size in enumerate([(40, 60), (100, 30), (48, 64)]):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{number}\x1b.png")
    (tmp_path / "2broken.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("names", [None, ["cat", "dog\x1b", "bird", "fish"]])
def test_the_script_tells_what_predict_tells(pictures, names, monkeypatch, capsys):
    about = described(classes=names)
    (pictures / "net.json").write_text(json.dumps(about))
    monkeypatch.setattr(infer_lite, "Model", Maps)
    args = ["--model", "net.ms", "--json", str(pictures / "net.json"), str(pictures), "--threshold", "0.6"]
    assert infer_lite.main([*args, "--output", str(pictures / "found.json")]) == 2
    printed, found = capsys.readouterr(), json.loads((pictures / "found.json").read_text())
    assert infer_lite.main([*args, "--output", "-"]) == 2
    assert json.loads(capsys.readouterr().out) == found

    given = {"model": "net", "num_classes": CLASSES, "preprocess": preprocess_in(about), "task": "detection"}
    given.update(outputs=tuple(Output(name, "") for name in NAMES), postprocess=STEPS, canvas=about["canvas"])
    package = Description(**given, input_shape=(1, 3, HEIGHT, WIDTH))
    files = sorted(pictures.glob("*.png"))
    find, read = exports.finder_of(Maps("net.ms"), package), exports.reader_of(package)
    expected = list(detection.predict(find, files, read, names, threshold=0.6))
    good = [each for each in expected if not each.error]
    assert [each for each in found if "error" not in each] == [each.as_dict() for each in good]
    assert sum(len(each["objects"]) for each in found if "objects" in each) > 20
    assert printed.out == "".join(f"{detection.table(each)}\n" for each in good)
    assert [each["image"] for each in found if "error" in each] == [str(pictures / "2broken.png")]
    assert printed.err.startswith("error: ") and len(printed.err.splitlines()) == 1


def test_nothing_found_and_a_wrong_threshold(pictures, monkeypatch, capsys):
    (pictures / "net.json").write_text(json.dumps(described()))
    monkeypatch.setattr(infer_lite, "Model", Maps)
    args = ["--model", "net.ms", "--json", str(pictures / "net.json"), str(pictures / "0\x1b.png"), "--threshold"]
    assert infer_lite.main([*args, "1"]) == 0 and capsys.readouterr().out.endswith("nothing found\n")
    with pytest.raises(infer_lite.InputError, match="--threshold 1.5: give a number from 0 to 1"):
        infer_lite.main([*args, "1.5"])


# ------------------------------------------------------------------------------------------------------- descriptions
def test_a_description_is_looked_at(tmp_path):
    infer_lite.check(described())
    infer_lite.check(described(postprocess={name: STEPS[name] for name in STEPS if name != "largest_change"}))
    wrong = [
        {"task": "segmentation"}, {"num_classes": 0}, {"classes": ["a"]}, {"canvas": None}, {"canvas": {}},
        {"canvas": {"short_side": 48.5, "max_side": None}}, {"canvas": {"short_side": 48, "max_side": 0}},
        {"input": {"shape": [1, 3, None, 96]}}, {"input": {"shape": [3, 64, 96]}},
        {"input": {"shape": [1, 3, 64, 10**6]}},
        {"outputs": [{"name": name} for name in NAMES[:-1]]}, {"outputs": [{"name": "x"}] * 6}, {"outputs": 6},
        {"postprocess": None}, {"postprocess": {"operation": "softmax"}},
    ]  # fmt: skip
    changes = {
        "strides": [8, 16.5, 32], "scales": [], "ratios": [0, 1], "per_level": -1, "count": "100",
        "score_threshold": None, "iou_threshold": float("nan"), "largest_change": 0,
    }  # fmt: skip
    for key, value in changes.items():
        wrong.append({"postprocess": {**STEPS, key: value}})
    for changes in wrong:
        (tmp_path / "net.json").write_text(json.dumps(described(**changes)))
        with pytest.raises(infer_lite.InputError, match="missing or wrong") as raised:
            infer_lite.read_description(str(tmp_path / "net.json"))
        assert "\n" not in str(raised.value), changes
    with pytest.raises(ValueError, match="--raw"):
        infer_lite.check(described(postprocess={"operation": "rescale_boxes"}))
