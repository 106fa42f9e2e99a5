"""RoIAlign, mask targets, proposals and the choice of RoIs beside mmdetection's."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from acmix_ms import postprocess, runtime
from acmix_ms.ops import boxes as geometry
from models.detection import roi_align, rpn


def drawn(seed, shape):
    return np.random.RandomState(int(seed)).standard_normal(tuple(map(int, shape))).astype(np.float32)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(("form", "samples"), [("align", 2), ("align_any", 2), ("align_any", 0)])
def test_roi_align(vectors, form, samples, size):
    """With boxes outside of the map and across its border, small and large ones; and its gradient."""
    runtime.start("CPU", "graph")
    file = vectors("dense/roi_align")
    align, stride = getattr(roi_align, form), int(1 / file["spatial_scale"])
    expected = file[f"out_{size}_sr{samples}"]
    weight, rois = Tensor(drawn(file[f"grad_output_seed_{size}"], expected.shape)), Tensor(file["rois"])

    def total(x):
        found = align(x, rois, stride, size, samples)
        return (found * weight).sum(), found

    (_, found), gradient = ms.value_and_grad(total, has_aux=True)(Tensor(file["feat"]))
    assert relative(found.asnumpy(), expected) < 1e-5
    assert relative(gradient.asnumpy(), file[f"grad_feat_{size}_sr{samples}"]) < 1e-5


def test_roi_align_of_a_pyramid(vectors):
    runtime.start("CPU", "graph")
    file = vectors("dense/roi_align")
    maps = tuple(Tensor(drawn(seed, shape)) for seed, shape in zip(file["ml_feat_seeds"], file["ml_feat_shapes"]))
    rois = Tensor(file["ml_rois"])
    assert np.array_equal(roi_align.levels_of(rois[:, 1:], 4).asnumpy(), file["ml_levels"])
    found = roi_align.RoIExtractor((4, 8, 16, 32), 7, 0)(maps, rois).asnumpy()
    assert relative(found, file["ml_out"]) < 1e-4


def test_proposals(vectors):
    """On the host as mmdetection's; in a graph the same boxes."""
    runtime.start("CPU", "graph")
    file = vectors("dense/head_post")
    sizes = list(map(tuple, file["rpn_featmaps"].tolist()))
    scores = [drawn(seed, (1, 3, *size)) for seed, size in zip(file["rpn_seeds_cls"], sizes)]
    deltas = [drawn(seed, (1, 12, *size)) * np.float32(0.3) for seed, size in zip(file["rpn_seeds_reg"], sizes)]
    size = tuple(map(int, file["img_shape"][0]))
    of_image = [[level[0] for level in levels] for levels in (scores, deltas)]
    boxes, values = postprocess.proposals(*of_image, rpn.ANCHORS.levels(sizes), size)
    expected = file["rpn_det_bboxes"]
    assert np.abs(values - file["rpn_det_scores"]).max() < 1e-6
    # Neighbours whose scores differ by the last bit may change places.
    order, wanted = np.lexsort(boxes.T), np.lexsort(expected.T)
    assert np.abs(boxes[order] - expected[wanted]).max() < 1e-4

    class Proposals(ms.nn.Cell):
        def construct(self, scores, deltas, sizes):
            return rpn.proposals(scores, deltas, sizes, 1000, 1000)

    inputs = [tuple(map(Tensor, levels)) for levels in (scores, deltas)]
    found, there = Proposals()(*inputs, Tensor([size], ms.float32))
    assert there.asnumpy().all()
    found = found.asnumpy()[0]
    assert np.abs(found[np.lexsort(found.T)] - expected[wanted]).max() < 1e-3


def test_too_few_proposals_are_filled_up():
    runtime.start("CPU", "graph")
    scores = (Tensor(np.array([[[[3.0]], [[2.0]], [[1.0]]]], np.float32)),)
    deltas = (ops.zeros((1, 12, 1, 1), ms.float32),)

    class Proposals(ms.nn.Cell):
        def construct(self, scores, deltas, sizes):
            return rpn.proposals(scores, deltas, sizes, 2000, 10)

    boxes, there = Proposals()(scores, deltas, Tensor([[0.0, 9.0]], ms.float32))  # an image without height
    assert boxes.shape == (1, 10, 4) and not there.asnumpy().any()
    boxes, there = Proposals()(scores, deltas, Tensor([[9.0, 9.0]], ms.float32))
    assert there.asnumpy().tolist() == [[True] + [False] * 9]  # all three are the whole image
    assert boxes.asnumpy()[0, 0].tolist() == [0, 0, 9, 9]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_by_rounds_is_the_greedy_one(vectors, threshold):
    runtime.start("CPU", "graph")
    random = np.random.default_rng(7)
    given = []
    for case in range(40):  # from scattered boxes to heaps
        corner = random.uniform(0, (400, 40, 8, 150)[case % 4], (300, 2))
        given.append(np.concatenate([corner, corner + random.uniform(5, (60, 30, 25, 100)[case % 4], (300, 2))], 1))
    file = vectors("dense/nms")
    given.append(file["boxes"][np.argsort(-file["scores"], kind="stable")])
    given = np.stack(given).astype(np.float32)

    class Kept(ms.nn.Cell):
        def construct(self, boxes):
            return geometry.cluster_nms(boxes, threshold)

    found = Kept()(Tensor(given)).asnumpy()
    for boxes, kept in zip(given, found):
        greedy = postprocess.nms(boxes, -np.arange(len(boxes)), threshold)
        assert np.array_equal(np.flatnonzero(kept), np.sort(greedy))
    assert np.array_equal(Kept()(Tensor(given[0])).asnumpy(), found[0])


@pytest.mark.parametrize("classes", ["shared", "per_class"])
def test_detections_of_regions(vectors, classes):
    file = vectors("dense/nms")
    boxes, scores = file["multi_boxes"], file["multi_scores"]
    if classes == "per_class":
        boxes = file["multi_boxes_per_class"].reshape(len(boxes), -1, 4)
    else:
        boxes = np.repeat(boxes[:, None], scores.shape[1] - 1, 1)
    found = postprocess.region_detections(boxes, scores, threshold=0.05, iou_threshold=0.5)
    expected = file[f"multiclass_{classes}_dets"]
    assert np.array_equal(found.labels, file[f"multiclass_{classes}_labels"])
    assert np.array_equal(found.boxes, expected[:, :4]) and np.array_equal(found.scores, expected[:, 4])
