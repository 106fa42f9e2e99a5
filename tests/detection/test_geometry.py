"""Anchors, matching, deltas, losses and suppression beside mmdetection's."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from acmix_ms import postprocess, runtime
from acmix_ms.ops import boxes
from models.detection import losses
from models.detection.anchors import AnchorGenerator
from models.detection.matching import Assigner
from models.detection.retinanet import ANCHORS

RPN = AnchorGenerator((4, 8, 16, 32, 64), (8.0,), (0.5, 1.0, 2.0))
ASSIGNERS = {
    "retina": Assigner(0.5, 0.4),
    "rpn": Assigner(0.7, 0.3, 0.3),
    "rcnn_low": Assigner(0.5, 0.5, 0.5),
    "rcnn": Assigner(0.5, 0.5, 0.5, low_quality=False),
    "cascade1": Assigner(0.6, 0.6, 0.6, low_quality=False),
    "cascade2": Assigner(0.7, 0.7, 0.7, low_quality=False),
    "ignore": Assigner(0.5, 0.4, ignored_share=0.5),
}


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("name", "generator"), [("retina", ANCHORS), ("rpn", RPN)])
def test_anchors(vectors, name, generator):
    file = vectors("dense/anchors")
    for level in range(5):
        assert np.array_equal(generator.base(level), file[f"{name}_base_{level}"])
    for case in (0, 1):
        sizes = tuple(map(tuple, file[f"{name}_{case}_featmaps"].tolist()))
        assert generator.sizes(*file[f"{name}_{case}_canvas"].tolist()) == sizes
        assert np.array_equal(generator.all(sizes), file[f"{name}_{case}_anchors"])
        inside = generator.inside(sizes, *file[f"{name}_{case}_pad_shape"].tolist())
        assert np.array_equal(np.packbits(inside), file[f"{name}_{case}_valid_packbits"])
    for size in (800, 1344), (576, 576):
        count = len(generator.all(generator.sizes(*size)))
        assert count in file[f"total_{size[0]}x{size[1]}"]


@pytest.mark.parametrize("name", ASSIGNERS)
@pytest.mark.parametrize("objects", ["", "_far", "_empty"])
def test_matching(vectors, name, objects):
    """Low-quality matches included, and an object that touches no prior, which takes all that it does not touch."""
    file = vectors("dense/assign")
    given = {"": file["gt"], "_far": file["gt_far"], "_empty": np.zeros((0, 4), np.float32)}[objects]
    found = ASSIGNERS[name](file["priors"], given, file["ignore"] if name == "ignore" else None)
    assert np.array_equal(found.objects, file[f"{name}{objects}_gt_inds"])
    assert np.array_equal(found.overlaps, file[f"{name}{objects}_max_overlaps"])


@pytest.mark.parametrize("number", range(4))
def test_deltas(vectors, number):
    """As tensors and in NumPy, with gradients; size changes and borders are limits."""
    runtime.start("CPU", "graph")
    file = vectors("dense/coder")
    stds, size = tuple(file[f"stds_{number}"].tolist()), tuple(file["max_shape"].tolist())
    rois, objects, deltas = (Tensor(file[key]) for key in ("rois", "gts", "deltas"))
    limits, weight = Tensor([size], ms.float32), Tensor(file["grad_output"])
    assert relative(boxes.encode(rois, objects, stds).asnumpy(), file[f"encode_{number}"]) < 1e-5
    assert relative(boxes.decode(rois, deltas, stds).asnumpy(), file[f"decode_{number}"]) < 1e-5
    assert relative(postprocess.encode(file["rois"], file["gts"], stds), file[f"encode_{number}"]) < 1e-5
    assert relative(postprocess.decode(file["rois"], file["deltas"], size, stds), file[f"decode_clip_{number}"]) < 1e-5

    def total(deltas):
        return (boxes.clip(boxes.decode(rois, deltas, stds).expand_dims(0), limits)[0] * weight).sum()

    assert relative(ms.grad(total)(deltas).asnumpy(), file[f"decode_clip_grad_{number}"]) < 1e-5


def test_boxes_of_no_area_give_no_nan():
    empty = Tensor(np.zeros((2, 4), np.float32))
    some = Tensor(np.array([[0, 0, 4, 4], [2, 2, 2, 9]], np.float32))
    for value in (boxes.encode(empty, empty), boxes.encode(some, empty), boxes.iou(empty, some)):
        assert np.isfinite(value.asnumpy()).all()
    assert np.isfinite(boxes.giou_loss(empty, some).asnumpy()).all()


def cases(file):
    """Of each loss: the prediction, and the loss of it as a function."""
    labels, weights = Tensor(file["cls_labels"]), Tensor(file["cls_weights"])
    targets, shares, factor = file["reg_target"], Tensor(file["reg_weights"]), float(file["avg_factor"]) + losses.SMALL
    fifth = np.float32(0.2)

    def focal(x):
        return losses.sigmoid_focal(x, labels) * weights.expand_dims(-1) / factor

    yield "focal", file["cls_pred"], focal
    yield "focal_extreme", file["cls_pred_extreme"], focal
    yield "l1", file["reg_pred"], lambda x: losses.l1(x, Tensor(targets)) * shares / factor
    yield "smooth_l1", file["reg_pred"] * fifth, lambda x: (
        losses.smooth_l1(x, Tensor(targets * fifth), 1 / 9) * shares / factor
    )


def test_losses(vectors):
    runtime.start("CPU", "pynative")
    file = vectors("dense/losses")
    for name, given, loss in cases(file):
        value, gradient = ms.value_and_grad(lambda x, loss=loss: loss(x).sum())(Tensor(given))
        assert float(value.asnumpy()) == pytest.approx(float(file[f"{name}_loss@f64"]), rel=1e-6), name
        assert relative(gradient.asnumpy(), file[f"{name}_grad"]) < 1e-5, name
    found = boxes.giou_loss(Tensor(file["giou_pred"]), Tensor(file["giou_target"])).asnumpy()
    assert np.abs(found - file["giou_each"]).max() < 1e-6


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression(vectors, threshold):
    file = vectors("dense/nms")
    kept = postprocess.batched_nms(file["boxes"], file["scores"], file["classes"], threshold)
    assert np.array_equal(kept, file[f"batched_{threshold}_keep"])
    assert np.array_equal(postprocess.nms(file["boxes"], file["scores"], threshold), file[f"agnostic_{threshold}_keep"])
    assert not len(postprocess.batched_nms(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0), threshold))


def test_detections_of_maps(vectors):
    """With boxes that the image's border leaves empty."""
    file = vectors("dense/head_post")

    def drawn(seed, *shape):
        return np.random.RandomState(int(seed)).standard_normal(shape).astype(np.float32)

    sizes = list(map(tuple, file["retina_featmaps"].tolist()))
    scores = [
        drawn(seed, 2, 720, *size) * np.float32(1.5) - np.float32(4)
        for seed, size in zip(file["retina_seeds_cls"], sizes)
    ]
    deltas = [drawn(seed, 2, 36, *size) * np.float32(0.3) for seed, size in zip(file["retina_seeds_reg"], sizes)]
    for i in range(2):
        maps = [[level[i] for level in levels] for levels in (scores, deltas)]
        found = postprocess.dense_detections(*maps, ANCHORS.levels(sizes), tuple(file["img_shape"][i]))
        assert np.array_equal(found.labels, file[f"retina_det_{i}_labels"])
        assert np.abs(found.boxes - file[f"retina_det_{i}_bboxes"]).max() < 1e-4
        assert np.abs(found.scores - file[f"retina_det_{i}_scores"]).max() < 1e-6
