"""RoIAlign, mask targets, proposals and the choice of RoIs beside mmdetection's."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from acmix_ms import postprocess, runtime
from acmix_ms.ops import boxes as geometry
from models.detection import roi_align, rpn, sampling


def drawn(seed, shape):
    return np.random.RandomState(int(seed)).standard_normal(tuple(map(int, shape))).astype(np.float32)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


FORMS = {"points": roi_align.align_points, "any": roi_align.align_any}


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(("form", "samples"), [("align", 2), ("points", 2), ("any", 2), ("any", 0)])
def test_roi_align(vectors, form, samples, size):
    """With boxes outside of the map and across its border, small and large ones; and its gradient."""
    runtime.start("CPU", "graph")
    file = vectors("dense/roi_align")
    stride = int(1 / file["spatial_scale"])
    expected = file[f"out_{size}_sr{samples}"]
    weight, rois = Tensor(drawn(file[f"grad_output_seed_{size}"], expected.shape)), Tensor(file["rois"])
    first = ops.zeros((len(file["rois"]),), ms.int32)

    def total(x):
        if form == "align":
            found = roi_align.align(x, rois, stride, size, samples)
        else:
            found = FORMS[form]((x,), rois, first, (stride,), size, samples)
        return (found * weight).sum(), found

    (_, found), gradient = ms.value_and_grad(total, has_aux=True)(Tensor(file["feat"]))
    assert relative(found.asnumpy(), expected) < 1e-5
    assert relative(gradient.asnumpy(), file[f"grad_feat_{size}_sr{samples}"]) < 1e-5


def test_roi_align_of_a_pyramid(vectors):
    runtime.start("CPU", "graph")
    file = vectors("dense/roi_align")
    maps = tuple(Tensor(drawn(seed, shape)) for seed, shape in zip(file["ml_feat_seeds"], file["ml_feat_shapes"]))
    rois = Tensor(file["ml_rois"])
    assert np.array_equal(roi_align.levels_of(rois, 4).asnumpy(), file["ml_levels"])
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


def masks_of(file):
    height, width = file["image_hw"]
    count = file["bitmaps_packbits"].size * 8 // (height * width)
    return np.unpackbits(file["bitmaps_packbits"])[: count * height * width].reshape(count, height, width)


def test_mask_targets(vectors):
    """The width is no multiple of eight, as the masks are packed; and a box may be used for images in a batch."""
    runtime.start("CPU", "graph")
    file = vectors("dense/mask_targets")
    masks = masks_of(file)
    bits = np.stack([np.packbits(masks, 2), np.packbits(masks[::-1], 2)])
    numbers = np.stack([file["gt_inds"], len(masks) - 1 - file["gt_inds"]]) + 1
    rois = np.stack([file["rois"]] * 2)
    found = sampling.mask_targets(
        Tensor(bits), masks.shape[2], Tensor(rois), Tensor(numbers.astype(np.int32))
    ).asnumpy()
    assert np.array_equal(found[0], file["from_bitmaps"])
    assert np.array_equal(found[1], file["from_bitmaps"])


@pytest.mark.parametrize(("name", "positive", "low_quality"), [
    ("rcnn", 0.5, False), ("rcnn_low", 0.5, True), ("cascade1", 0.6, False), ("cascade2", 0.7, False),
])  # fmt: skip
@pytest.mark.parametrize("objects", ["", "_far", "_empty"])
def test_assigning_in_a_graph(vectors, name, positive, low_quality, objects):
    file = vectors("dense/assign")
    given = {"": file["gt"], "_far": file["gt_far"], "_empty": np.zeros((0, 4), np.float32)}[objects]
    padded, present = np.zeros((1, 20, 4), np.float32), np.zeros((1, 20), bool)
    padded[0, : len(given)], present[0, : len(given)] = given, True
    priors = np.concatenate([file["priors"], np.zeros((5, 4), np.float32)])[None]
    there = np.arange(priors.shape[1])[None] < len(file["priors"])
    found = sampling.assign(*map(Tensor, (priors, there, padded, present)), positive, low_quality).asnumpy()[0]
    assert np.array_equal(found[:-5], file[f"{name}{objects}_gt_inds"])
    assert (found[-5:] == -1).all()


@pytest.mark.parametrize(("positives", "negatives", "expected"), [
    (10, 30, (4, 12)),  # more than enough of both
    (2, 30, (2, 14)),  # background takes the place of positives
    (10, 3, (4, 3)),  # the slots are not all filled
    (0, 0, (0, 0)),
])  # fmt: skip
def test_sampling(positives, negatives, expected):
    """Positives first, at most a quarter; the order decides; objects are added; what is left does not count."""
    missing, slots = 5, 16
    found = np.array([[1] * positives + [0] * negatives + [-1] * missing], np.int32)
    boxes = np.arange(found.size * 4, dtype=np.float32).reshape(1, -1, 4) + 100
    objects, present = np.zeros((1, 3, 4), np.float32) + [[[1], [2], [3]]], np.zeros((1, 3), bool)
    random = np.random.default_rng(3)
    order = random.permutation(3 + found.size).astype(np.int32)[None]
    given = [boxes, found, objects.astype(np.float32), present, order]
    chosen, numbers, counts, _ = (part.asnumpy()[0] for part in sampling.sample(*map(Tensor, given), slots, 4))
    assert counts.tolist() == [True] * sum(expected) + [False] * (slots - sum(expected))
    assert numbers[: sum(expected)].tolist() == [1] * expected[0] + [0] * expected[1]
    row = (chosen[:, 0] - 100) // 4
    rank = order[0, 3:]
    for kind, first, count in ((1, 0, expected[0]), (0, expected[0], expected[1])):
        ranked = sorted(np.flatnonzero(found[0] == kind), key=lambda i: -rank[i])[:count]
        assert row[first : first + count].tolist() == ranked
    if sum(expected):
        assert set(row[sum(expected) :]) <= set(row[: sum(expected)])

    given[3] = np.array([[True, True, False]])
    chosen, numbers, counts, own = (part.asnumpy()[0] for part in sampling.sample(*map(Tensor, given), slots, 100))
    assert sorted(chosen[own & counts][:, 0].tolist()) == [1, 2]
    assert sorted(numbers[own & counts].tolist()) == [1, 2]
    assert int(((numbers > 0) & counts).sum()) == min(positives + 2, slots)
