"""Detections made in the graph are those that are made on the host."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import postprocess, runtime
from acmix_ms.deploy import comparison
from acmix_ms.ops.fuse import randomise
from models import create_model
from models.detection import detect
from models.detection.end_to_end import EndToEnd, end_to_end
from models.detection.retinanet import ANCHORS, RetinaHead

CANVAS, CLASSES = (128, 160), 5


class Maps(nn.Cell):
    """Stands for a net: gives the maps that it is given."""

    def __init__(self):
        super().__init__()
        self.bbox_head = RetinaHead(CLASSES, 8, 8, 1)

    def construct(self, maps):
        return maps


def test_the_graph_finds_what_the_host_finds():
    runtime.start("CPU", "graph")
    random, sizes = np.random.default_rng(0), ANCHORS.sizes(*CANVAS)
    scores = [random.standard_normal((2, 9 * CLASSES, *size)).astype(np.float32) * 1.5 - 4 for size in sizes]
    deltas = [random.standard_normal((2, 36, *size)).astype(np.float32) * 0.3 for size in sizes]
    for level in scores:
        level[1] -= 4  # few detections, empty places
    net = EndToEnd(Maps(), CANVAS).set_train(False)
    found = net(tuple(tuple(Tensor(level) for level in levels) for levels in (scores, deltas)))
    boxes, shares, labels = (values.asnumpy() for values in found)
    assert labels.dtype == np.int32 and found[0].dtype == ms.float32
    counts = []
    for i in range(2):
        anchors = ANCHORS.levels(sizes)
        wanted = postprocess.dense_detections([x[i] for x in scores], [x[i] for x in deltas], anchors, CANVAS)
        count = len(wanted.scores)
        assert np.array_equal(labels[i, :count], wanted.labels)
        assert np.abs(boxes[i, :count] - wanted.boxes).max() < 1e-3
        assert np.abs(shares[i, :count] - wanted.scores).max() < 1e-5
        assert (labels[i, count:] == -1).all() and not shares[i, count:].any() and not boxes[i, count:].any()
        counts.append(count)
    assert counts[0] == 100 and 0 < counts[1] < 100


@pytest.mark.slow
def test_the_graph_finds_the_regions_that_the_host_finds():
    """Of the cascade, in which boxes move twice and all stages draw."""
    runtime.start("CPU", "graph")
    size, classes = (64, 96), 3
    net = randomise(create_model("cascade_mask_rcnn_acmix_shapes", num_classes=classes))
    for head in net.roi_head.bbox_head:  # else nothing is sure enough
        runtime.assign(head.fc_cls.weight, 20 * head.fc_cls.weight.asnumpy())
    images = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    expected = detect(net, Tensor(images), [size] * 2)
    assert min(len(one.scores) for one in expected) > 10
    detect(net, Tensor(images[::-1].copy()), [size] * 2)
    assert len(net.neck.compile_cache) == 1, "maps of other images are no other constants"
    values = [output.asnumpy() for output in end_to_end(net, size).set_train(False)(Tensor(images))]
    found = dict(zip(("boxes", "scores", "labels", "masks"), values))
    wanted = {name: np.zeros_like(array) for name, array in found.items()}
    wanted["labels"] -= 1
    for i, one in enumerate(expected):
        for name in wanted:
            wanted[name][i, : len(one.scores)] = getattr(one, name)
    difference = comparison.compare_outputs(found, wanted)
    assert difference.outputs["labels"].images > 20 and difference.within(1e-4), difference
    empty = found["labels"] < 0
    assert not found["masks"][empty].any() and not found["boxes"][empty].any()
