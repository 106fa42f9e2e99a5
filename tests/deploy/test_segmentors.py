"""Segmentors in files, up to logits and up to labels: every pixel gets the class that the checkpoint gives it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import eval as eval_script
import export as export_script
import predict as predict_script
from acmix_ms import config, runtime
from acmix_ms.analysis.segments import palette
from acmix_ms.data.images import decode_values
from acmix_ms.data.shapes import ShapesSet, make
from acmix_ms.deploy import VerificationError, comparison, description, exporter
from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError
from acmix_ms.ops.fuse import randomise
from models import create_model, exports
from tests.helpers.refusals import refusal

NAMES = ["rectangle", "circle", "triangle"]
NAME, SMALL = "semantic_fpn_shapes", {"channels": 16, "head_channels": 16}
CANVAS = {"height": 64, "width": 64, "short_sides": [64]}
FILES = {  # what each is made with; they take pictures of other sizes than those that are there, and are padded
    "labels.mindir": ("--labels",), "net.onnx": (), "half.onnx": ("--precision", "fp16", "--labels"),
    "labels.ms": ("--labels",),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a segmentor that gives all classes, shapes, a picture that is not square, and files."""
    folder = tmp_path_factory.mktemp("segmentors")
    make(folder / "data", ShapesSet(images=2, val_images=3, size=64))
    runtime.start("CPU", "graph", 3)
    net = randomise(create_model(NAME, num_classes=3, **SMALL))
    runtime.assign(net.decode_head.conv_seg.weight, 30 * net.decode_head.conv_seg.weight.asnumpy())
    cfg = config.from_dict(
        {"task": "segmentation", "model": {"name": NAME, "kwargs": SMALL},
         "data": {"name": "shapes", "path": str(folder / "data"), "batch_size": 2, "canvas": CANVAS}}
    )  # fmt: skip
    meta = {"model": NAME, "num_classes": 3, "class_names": NAMES, "config": config.to_yaml(cfg)}
    checkpoint.save(folder / "net.ckpt", net.parameters_dict(), meta=meta)
    photo = np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    (folder / "photos").mkdir()
    Image.fromarray(photo).resize((91, 63), Image.Resampling.BICUBIC).save(folder / "photos" / "noise.png")
    for name, options in FILES.items():
        format = name.rpartition(".")[2]
        if not exporter.unavailable(format):
            args = ("--format", format, "--output", folder / name, "--image-size", "64x96", *options)
            assert export(folder / "net.ckpt", *args) == 0
    return folder


def export(file, *args):
    return export_script.main([str(arg) for arg in ("--checkpoint", file, *args)])


def needs(file):
    """Skip where it could not be made."""
    if not file.exists():
        pytest.skip(exporter.unavailable(file.suffix[1:]))
    return file


def predicted(file, folder):
    """What predict.py says, and the labels that it writes, for pictures of two sizes."""
    drawn = folder / f"drawn-{file.name}"
    args = ["--checkpoint", file, folder / "data" / "val", folder / "photos", "--draw", drawn]
    assert predict_script.main([str(arg) for arg in [*args, "--output", folder / "found.json"]]) == 0
    labels = [decode_values(path.read_bytes()) for path in sorted(drawn.glob("*-labels.png"))]
    return json.loads((folder / "found.json").read_text()), labels


@pytest.fixture(scope="module")
def expected(folder):
    """Of the checkpoint."""
    return predicted(folder / "net.ckpt", folder)


@pytest.mark.slow
def test_labels_are_written_with_a_palette_and_told_in_shares(folder, expected):
    told, labels = expected
    assert [each.shape for each in labels] == [(64, 64)] * 3 + [(63, 91)]
    for one, found in zip(told, labels):
        counts = np.bincount(found.ravel(), minlength=3)
        shares = {each["class"]: each["share"] for each in one["classes"]}
        assert shares == {NAMES[i]: pytest.approx(counts[i] / found.size, abs=1e-6) for i in np.flatnonzero(counts)}
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert (one["height"], one["width"]) == found.shape
    assert len({name for one in told for name in (each["class"] for each in one["classes"])}) > 1
    drawn = sorted((folder / "drawn-net.ckpt").iterdir())
    assert [path.name for path in drawn[-2:]] == ["0004-noise-labels.png", "0004-noise.png"]
    with Image.open(drawn[-2]) as image, Image.open(drawn[-1]) as overlay:
        assert image.mode == "P" and image.size == (91, 63)
        assert np.array_equal(np.asarray(image.convert("RGB")), palette()[labels[3]])
        assert overlay.width > 91


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_each_pixel_the_class_that_its_checkpoint_gives(folder, expected, name):
    about, (told, labels) = description.read(needs(folder / name)), predicted(folder / name, folder)
    same = [float((one == other).mean()) for one, other in zip(labels, expected[1])]
    # The picture fills the input; labels are put back into its size pixel by pixel, so that borders are moved.
    assert same[3] >= {"net.onnx": 0.9999, "half.onnx": 0.98}.get(name, 0.99)
    assert min(same[:3]) >= 0.9, "where it does not, the padding reaches some places"
    assert labels[3].shape == (63, 91) and len(told) == 4
    assert about.task == "segmentation" and about.classes == tuple(NAMES)
    assert about.canvas == {"short_side": 64, "max_side": None, "multiple": 32}
    (output,) = about.outputs
    assert output.shape == ((1, 3, 16, 24) if name.startswith("net") else (1, 64, 96))
    assert about.verified.outputs[output.name].agreeing >= 0.999 * about.verified.outputs[output.name].images


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.ckpt", "labels.mindir", "net.onnx"])
def test_a_file_scores_what_its_answers_come_to(folder, name):
    # As predict.py looks at pictures; the recipe, which a file is evaluated with, has mirror images as well.
    output, data = folder / "scores.json", ["data.name=shapes", f"data.path={folder / 'data'}"]
    data.append("data.segments.test_flip=false")
    eval_script.main(["--checkpoint", str(folder / name), "--output", str(output), *data])
    scores, right, total = json.loads(output.read_text()), 0, 0
    for path, labels in zip(sorted((folder / "data/semantic/val").iterdir()), predicted(folder / name, folder)[1]):
        truth = decode_values(path.read_bytes())  # from 1 on, 0 where there is none
        right, total = right + int((labels + 1 == truth).sum()), total + int((truth > 0).sum())
    assert scores["count"] == 3 and scores["aAcc"] == pytest.approx(100 * right / total) and right > 0


@pytest.mark.slow
def test_labels_have_no_means(folder):
    data = ["data.name=shapes", f"data.path={folder / 'data'}", "data.segments.test_flip=true"]
    labels, logits = (["--checkpoint", str(folder / name), *data] for name in ("labels.mindir", "net.onnx"))
    said = refusal(eval_script.main, labels)
    assert "labels.mindir gives labels, of which there are no means: set inference=whole" in said
    eval_script.main(logits)


class File:
    """An exported file that answers with the means of 4x4 pixels, or with the class of each pixel."""

    path = "net.onnx"
    input_shape = (1, 3, 64, 96)

    def __init__(self, labels):
        self.labels = labels

    def outputs(self, images):
        assert images.shape == self.input_shape
        logits = images.reshape(1, 3, 16, 4, 24, 4).mean((3, 5))
        return {"labels": images.argmax(1)} if self.labels else {"logits": logits}


@pytest.mark.parametrize("labels", [False, True])
def test_pictures_are_padded_and_put_back_into_their_size(labels):
    operation = {"operation": "resize_labels" if labels else "segment"}
    about = description.Description(
        NAME, 3, exports.preprocess_of(config.DataConfig()), task="segmentation", postprocess=operation,
        canvas={"short_side": 64, "max_side": None, "multiple": 32}, input_shape=(1, 3, 64, 96),
    )  # fmt: skip
    read, find = exports.whole_reader_of(about), exports.segmenter_of(File(labels), about)
    picture = np.zeros((90, 60, 3), np.uint8)  # higher than wide: 43 pixels of its 64 rows' width, rounded up to 64
    picture[:45, :, 1] = picture[45:, :, 2] = 255
    pixels, place = read.placed(picture)
    assert pixels.shape == (3, 64, 64) and place.tolist() == [64, 64, 90, 60]
    (found,) = find(pixels[None], [(90, 60)])
    assert found.shape == (90, 60) and (found[:43] == 1).all() and (found[47:] == 2).all()
    assert read.size((300, 900)) == (32, 96), "scaled down where it would not fit"
    with pytest.raises(UserError, match="takes images up to 64x96, not 128x64: .* with --image-size 128x96"):
        find(np.zeros((1, 3, 128, 64), np.float32), [(128, 64)])


@pytest.mark.slow
def test_what_cannot_be_exported_is_told(folder, tmp_path):
    def said(*args):
        return refusal(export_script.main, [*map(str, args), "--output", str(tmp_path / "net.mindir")])

    net = ("--checkpoint", folder / "net.ckpt", "--format", "mindir")
    assert "--image-size 100x100: give multiples of 32" in said(*net, "--image-size", 100)
    assert "--image-size and --batch: maps of a segmentor" in said(*net, "--image-size", "dynamic")
    assert "--raw: semantic_fpn_shapes is a segmentor" in said(*net, "--raw")
    classifier = ("--model", "resnet_digits", "--format", "mindir")
    assert "--labels: resnet_digits gives no classes of pixels" in said(*classifier, "--labels")


def test_ties_pass_and_other_classes_do_not():
    expected = np.zeros((1, 100, 100), np.int32)
    for wrong, passes in ((10, True), (11, False)):
        given = expected.copy()
        given[0, 0, :wrong] = 1
        found = comparison.compare_outputs({"labels": given}, {"labels": expected}, (100, 100))
        assert found.within(1e-4) == passes and found.within(2e-2)
    assert str(found) == "9989 of 10000 labels the same" and found.allowed(1e-4) == "0.1% of the labels"
    logits = np.zeros((1, 2, 25, 25), np.float32)
    logits[:, 0] = 1e-6
    logits[:, 1, :10] = 1
    turned = logits.copy()
    turned[:, 0, -1] = -1e-6  # far within the tolerance of numbers, but the last rows get another class
    found = comparison.compare_outputs({"logits": turned}, {"logits": logits}, (100, 100))
    assert found.relative < 1e-5 and not found.within(1e-4)
    assert found.worst.agreeing == pytest.approx(9700, abs=100)
    assert comparison.compare_outputs({"logits": logits}, {"logits": logits}, (100, 100)).within(0)
    with pytest.raises(VerificationError, match="gives shape"):
        comparison.compare_outputs({"logits": logits[..., :8]}, {"logits": logits}, (100, 100))
