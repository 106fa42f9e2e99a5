"""Whole nets of two and four stages beside mmdetection's: maps, RoIs, targets, losses, gradients, detections."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from acmix_ms import runtime
from acmix_ms.objects import Objects
from models import create_model
from models.detection import roi_losses, rpn, sampling
from models.detection.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from models.pretrained import load_torch_state, torch_name
from tests.helpers.official import official_input, official_state

CLASSES = 80
BOUND = 1e-4
# Of gradients behind a ReLU whose input is zero but for rounding, see test_retinanet.py; the file's own float32 run is
# 8e-4 away from its float64 one there.
BOUND_BEHIND_RELUS = 2e-3


def part(file, name, value):
    """What a file has of a tensor, and the same part of ``value``."""
    if name in file:
        return file[name], value
    return file[f"{name}@sample"], value.reshape(-1)[:: int(file[f"{name}@step"])]


def check(file, name, value):
    expected, found = part(file, name, value.asnumpy() if isinstance(value, Tensor) else value)
    bound = max(BOUND, 5 * float(file.get(f"{name}@rel_f64", 0)))
    assert np.abs(found - expected).max() < bound * np.abs(expected).max(), name


def bits_of(file, name):
    shape = tuple(file[f"{name}_shape"])
    return np.unpackbits(file[f"{name}_packbits"])[: np.prod(shape)].reshape(shape)


def anchors_of(file):
    """The file's sampled anchors as targets; they must be among those that we would allow, and as many."""
    canvas = tuple(map(int, file["input_shape"][2:]))
    cascade = "s0_pos_rois" in file
    allowed = rpn.allowed(canvas, canvas, 0 if cascade else -1)
    assert allowed.sum() == file["rpn_allowed_anchors"]
    anchors = rpn.ANCHORS.all(rpn.ANCHORS.sizes(*canvas))
    positive, negative = file["rpn_sampled_pos"], file["rpn_sampled_neg"]
    objects = np.zeros(len(anchors), np.int32)
    objects[allowed] = rpn.ASSIGNER(anchors[allowed], file["gt_bboxes"]).objects
    assert np.array_equal(objects[positive], file["rpn_sampled_gt"] + 1)
    assert allowed[negative].all() and not objects[negative].any()
    return rpn.targets_of(anchors, positive, negative, file["gt_bboxes"][file["rpn_sampled_gt"]], 256)


def stage_of(file, prefix):
    """The file's sampled RoIs of a stage as `TwoStage.stage_losses` takes them, and their masks."""
    of_object = file[f"{prefix}pos_gt"]
    positive, negative = file[f"{prefix}pos_rois"], file[f"{prefix}neg_rois"]
    boxes = np.concatenate([positive, negative])[None]
    labels = np.full(boxes.shape[1], CLASSES, np.int32)
    labels[: len(positive)] = file["gt_labels"][of_object]
    wanted = np.zeros_like(boxes)
    wanted[0, : len(positive)] = file["gt_bboxes"][of_object]
    bits = np.packbits(bits_of(file, "gt_masks"), 2)[None]
    numbers = (of_object[None] + 1).astype(np.int32)
    width = int(file["gt_masks_shape"][2])
    masks = sampling.mask_targets(Tensor(bits), width, Tensor(positive[None]), Tensor(numbers)).asnumpy()
    name = "mask_targets" if prefix == "sampled_" else f"{prefix}mask_targets"
    assert np.array_equal(masks[0], bits_of(file, name))
    return tuple(map(Tensor, (boxes, labels[None], wanted, np.ones((1, boxes.shape[1]), bool), masks)))


@pytest.mark.slow
@pytest.mark.parametrize(("build", "name"), [(MaskRCNN, "mask_rcnn"), (CascadeMaskRCNN, "cascade_mask_rcnn")])
def test_a_net_is_mmdetections(vectors, build, name):
    runtime.start("CPU", "graph")
    file = vectors(f"dense/{name}_swin_tiny")
    cascade = build is CascadeMaskRCNN
    net = build(create_model("swin_tiny", features_only=True), CLASSES, samples=0).set_train(False)
    parameters = list(net.trainable_params())
    assert sum(value.size for value in parameters) == int(file["params"])
    load_torch_state(net, official_state(file))
    images = Tensor(official_input(file))
    size = tuple(map(int, file["input_shape"][2:]))
    rois = Tensor(np.pad(file["fixed_rois"], ((0, 0), (1, 0))))
    anchors = [Tensor(value[None]) for value in anchors_of(file)]
    stages = [stage_of(file, f"s{i}_" if cascade else "sampled_") for i in range(net.num_stages)]

    def loss(images):
        maps = net.maps(images)
        proposed = net.rpn_head(maps)
        terms = rpn.sampled_losses(*proposed, *anchors, net.rpn_beta)
        answers = ()
        for i in range(net.num_stages):
            found, logits, deltas = net.stage_losses(i, maps, *stages[i])
            terms += found
            answers += ((logits, deltas),)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        boxes, masks = net.boxes_by_stage(maps, rois), net.masks_by_stage(maps, rois)
        return total, (terms, maps, proposed, answers, boxes, masks)

    (_, outputs), gradients = ms.value_and_grad(loss, None, parameters, has_aux=True)(images)
    terms, maps, proposed, answers, boxes, masks = outputs
    for i in range(5):
        check(file, f"fpn_{i}", maps[i])
        check(file, f"rpn_cls_{i}", proposed[0][i])
        check(file, f"rpn_bbox_{i}", proposed[1][i])
    for i, (logits, deltas) in enumerate(boxes):
        check(file, f"stage{i}_cls" if cascade else "fixed_cls", logits)
        check(file, f"stage{i}_reg" if cascade else "fixed_reg", deltas)
    check(file, "fixed_mask_logits_stage2" if cascade else "fixed_mask_logits", masks[-1])
    for term, value in zip(net.terms, terms):
        assert float(value.asnumpy()) == pytest.approx(float(file[f"{term}@f64"]), rel=1e-5), term
    names = [torch_name(value.name).replace("backbone.norms.", "backbone.norm") for value in parameters]
    norms = dict(zip(names, (np.linalg.norm(value.asnumpy().astype(np.float64)) for value in gradients)))
    expected = dict(zip(map(str, file["grad_names"]), file["grad_l2_f64"]))
    assert set(expected) == set(norms)
    least = 1e-4 * max(expected.values())
    for key, value in expected.items():
        assert abs(norms[key] - value) < BOUND_BEHIND_RELUS * max(value, least), (key, norms[key], value)

    for i in range(net.num_stages - 1):
        labels = stages[i][1].reshape(-1)
        moved = roi_losses.refined(stages[i][0], *answers[i], labels, Tensor([size], ms.float32), net.stds[i])
        kept = np.concatenate([file[f"s{i}_pos_is_gt"] == 0, np.ones(len(file[f"s{i}_neg_rois"]), bool)])
        check(file, f"s{i}_refined", moved.asnumpy()[0][kept])

    found = net.proposals(proposed, [size])[0]
    order, wanted = np.lexsort(found.T), np.lexsort(file["proposals_bboxes"].T)
    assert np.abs(found[order] - file["proposals_bboxes"][wanted]).max() < 1e-2
    net.num_proposals = len(file["fixed_rois"])
    for threshold, key in ((0.05, "det"), (0.0, "det_thr0")):
        result = net.boxes_found(maps, [file["fixed_rois"]], [size], threshold)[0]
        assert np.array_equal(result.labels, file[f"{key}_labels"])
        assert np.abs(result.scores - file[f"{key}_scores"]).max(initial=0) < 1e-5
        assert np.abs(result.boxes - file[f"{key}_bboxes"]).max(initial=0) < 1e-2
    if cascade:
        shares = sum(1 / (1 + np.exp(-logits.asnumpy())) for logits in masks) / 3
        check(file, "fixed_mask_mean_sigmoid", shares)


# --------------------------------------------------------------------------------------------------------- small ones
CANVAS, SIZE = (64, 96), (56, 90)
SMALL = {
    "channels": 8, "hidden": 16, "mask_channels": 8, "num_proposals": 24, "num_candidates": (32, 32),
    "num_anchors": 32, "num_sampled": 16, "max_objects": 4,
}  # fmt: skip


def small(build, **further):
    backbone = create_model("resnet_digits", features_only=True, channels=4)
    backbone.feature_strides = (4, 8, 16, 32)
    if build is CascadeMaskRCNN:
        further = {"box_channels": 8, **further}
    return build(backbone, 3, **{**SMALL, **further})
