"""Whole nets of two and four stages beside mmdetection's: maps, RoIs, targets, losses, gradients, detections."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from acmix_ms import runtime
from acmix_ms.objects import Objects
from models import create_model
from models.detection import detect, roi_losses, rpn, sampling
from models.detection.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from models.pretrained import load_torch_state, torch_name
from models.resnet import ResNet
from tests.helpers.official import official_input, official_state, stored_part

CLASSES = 80
BOUND = 1e-4
# Of gradients behind a ReLU whose input is zero but for rounding, see test_retinanet.py; the file's own float32 run is
# 8e-4 away from its float64 one there.
BOUND_BEHIND_RELUS = 2e-3


def check(file, name, value):
    expected, found = stored_part(file, name, value.asnumpy() if isinstance(value, Tensor) else value)
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
    file = vectors(f"dense/{name}_swin_tiny")
    cascade = build is CascadeMaskRCNN
    net = build(create_model("swin_tiny", features_only=True), CLASSES, samples=0).set_train(False)
    whole = not cascade  # its backbone is the same, and takes most of the time
    parameters = list(net.trainable_params())
    assert sum(value.size for value in parameters) == int(file["params"])
    load_torch_state(net, official_state(file))
    images = Tensor(official_input(file))
    size = tuple(map(int, file["input_shape"][2:]))
    anchors = [Tensor(value[None]) for value in anchors_of(file)]
    stages = [stage_of(file, f"s{i}_" if cascade else "sampled_") for i in range(net.num_stages)]

    def loss(*inputs):
        maps = net.maps(inputs[0]) if whole else net.neck(inputs)
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
        return total, (terms, maps, proposed, answers)

    given = (images,) if whole else net.backbone(images)
    if not whole:
        parameters = [value for value in parameters if not value.name.startswith("backbone.")]
    runtime.start("CPU", "graph")
    (_, outputs), gradients = ms.value_and_grad(loss, None, parameters, has_aux=True)(*given)
    runtime.start("CPU", "pynative")
    terms, maps, proposed, answers = outputs
    for i in range(5):
        check(file, f"fpn_{i}", maps[i])
        check(file, f"rpn_cls_{i}", proposed[0][i])
        check(file, f"rpn_bbox_{i}", proposed[1][i])
    for term, value in zip(net.terms, terms):
        assert float(value.asnumpy()) == pytest.approx(float(file[f"{term}@f64"]), rel=1e-5), term
    names = [torch_name(value.name).replace("backbone.norms.", "backbone.norm") for value in parameters]
    norms = dict(zip(names, (np.linalg.norm(value.asnumpy().astype(np.float64)) for value in gradients)))
    expected = dict(zip(map(str, file["grad_names"]), file["grad_l2_f64"]))
    assert set(norms) == {name for name in expected if whole or not name.startswith("backbone.")}
    least = 1e-4 * max(expected.values())
    for key, value in norms.items():
        assert abs(value - expected[key]) < BOUND_BEHIND_RELUS * max(expected[key], least), key

    for i in range(net.num_stages - 1):
        labels = stages[i][1].reshape(-1)
        moved = roi_losses.refined(stages[i][0], *answers[i], labels, Tensor([size], ms.float32), net.stds[i])
        kept = np.concatenate([file[f"s{i}_pos_is_gt"] == 0, np.ones(len(file[f"s{i}_neg_rois"]), bool)])
        check(file, f"s{i}_refined", moved.asnumpy()[0][kept])
    rois = Tensor(np.pad(file["fixed_rois"], ((0, 0), (1, 0))))
    for i in range(net.num_stages):
        of_stage = Tensor(np.pad(file[f"stage{i}_rois"], ((0, 0), (1, 0)))) if i else rois
        logits, deltas = net.boxes_by_stage(maps, of_stage)[i]
        check(file, f"stage{i}_cls" if cascade else "fixed_cls", logits)
        check(file, f"stage{i}_reg" if cascade else "fixed_reg", deltas)
    masks = net.masks_by_stage(maps, rois)
    check(file, "fixed_mask_logits_stage2" if cascade else "fixed_mask_logits", masks[-1])
    if cascade:
        shares = sum(1 / (1 + np.exp(-logits.asnumpy())) for logits in masks) / 3
        check(file, "fixed_mask_mean_sigmoid", shares)

    found = net.proposals(proposed, [size])[0]
    order, wanted = np.lexsort(found.T), np.lexsort(file["proposals_bboxes"].T)
    assert np.abs(found[order] - file["proposals_bboxes"][wanted]).max() < 1e-2
    net.num_proposals = len(file["fixed_rois"])
    for threshold, key in ((0.05, "det"), (0.0, "det_thr0")):
        result = net.boxes_found(maps, [file["fixed_rois"]], [size], threshold)[0]
        assert np.array_equal(result.labels, file[f"{key}_labels"])
        assert np.abs(result.scores - file[f"{key}_scores"]).max(initial=0) < 1e-5
        assert np.abs(result.boxes - file[f"{key}_bboxes"]).max(initial=0) < 1e-2


# --------------------------------------------------------------------------------------------------------- small ones
CANVAS, SIZE = (64, 96), (56, 90)
SMALL = {
    "channels": 8, "hidden": 16, "mask_channels": 8, "num_proposals": 24, "num_candidates": (32, 32),
    "num_anchors": 32, "num_sampled": 16, "max_objects": 4,
}  # fmt: skip


KINDS = [MaskRCNN, CascadeMaskRCNN]


def small(build, **further):
    backbone = ResNet((1, 1, 1, 1), features_only=True, widths=(4, 4, 8, 8))
    if build is CascadeMaskRCNN:
        further = {"box_channels": 8, **further}
    return build(backbone, 3, **{**SMALL, **further})


def scene(random, count):
    """An image of noise with bright rectangles, and these."""
    image = random.standard_normal((3, *CANVAS)).astype(np.float32) * 0.1
    boxes, masks = np.zeros((count, 4), np.float32), np.zeros((count, *CANVAS), np.uint8)
    labels = random.integers(0, 3, count).astype(np.int32)
    for i in range(count):
        x, y = random.integers(0, SIZE[1] - 30), random.integers(0, SIZE[0] - 30)
        boxes[i] = x, y, x + random.integers(15, 30), y + random.integers(15, 30)
        left, top, right, bottom = boxes[i].astype(int)
        masks[i, top:bottom, left:right] = 1
        image[labels[i], top:bottom, left:right] += 2
    return image, Objects(boxes, labels, np.zeros((0, 4), np.float32), masks)


def batch(net, counts, seed=0):
    """Images with so many objects, and their targets, in one list."""
    random = np.random.default_rng(seed)
    scenes = [scene(random, count) for count in counts]
    targets = [net.prepare(objects, CANVAS, SIZE, np.random.default_rng(seed)) for _, objects in scenes]
    return [Tensor(np.stack(part)) for part in ([image for image, _ in scenes], *zip(*targets))]


@pytest.mark.slow
def test_steps_lower_the_loss():
    """Of the cascade, which has all that Mask R-CNN has; with images without objects as well."""
    runtime.start("CPU", "graph", seed=3)
    net = small(CascadeMaskRCNN).set_train()
    parameters = net.trainable_params()
    optimizer = ms.nn.Adam(parameters, 3e-3)

    def loss(images, *targets):  # a list of them would be compiled anew at each call
        terms = net(images, *targets)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total, terms

    step = ms.value_and_grad(loss, None, parameters, has_aux=True)
    some, none, other = batch(net, (2, 6)), batch(net, (0, 0)), batch(net, (2, 6), seed=1)
    (_, empty), gradients = step(*none)
    terms = dict(zip(net.terms, (float(term.asnumpy()) for term in empty)))
    assert len(terms) == len(empty)
    assert all(np.isfinite(value.asnumpy()).all() for value in gradients)
    for name, value in terms.items():
        assert value == 0 if name.endswith(("bbox", "mask")) else 0 < value < 10, name

    losses = []
    for i in range(8):
        (total, terms), gradients = step(*some)
        assert all(np.isfinite(value.asnumpy()).all() for value in gradients)
        losses.append(float(total.asnumpy()))
        if not i:
            assert all(float(term.asnumpy()) > 0 for term in terms), dict(zip(net.terms, terms))
            untouched = [p.name for p, g in zip(parameters, gradients) if not np.abs(g.asnumpy()).max()]
            # All that is chosen may lie in one level.
            assert not [name for name in untouched if not name.startswith("neck.fpn_convs.")]
        optimizer(gradients)
    assert losses[-1] < 0.8 * losses[0]
    again = [[float(term.asnumpy()) for term in step(*some)[0][1]] for _ in range(2)]
    assert again[0] == pytest.approx(again[1], rel=1e-5)
    assert float(step(*other)[0][0].asnumpy()) != pytest.approx(sum(again[0]), rel=1e-5)


def test_targets_are_those_of_the_image_and_its_random_numbers():
    net = small(MaskRCNN)
    _, objects = scene(np.random.default_rng(0), 6)
    made = [net.prepare(objects, CANVAS, SIZE, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(made[0], made[1]))
    assert not np.array_equal(made[0][0], made[2][0]) and not np.array_equal(made[0][-1], made[2][-1])
    anchors, labels, _, boxes, classes, masks, size, order = made[0]
    assert boxes.shape == (4, 4) and np.array_equal(boxes, objects.boxes[:4])  # at most four
    assert np.array_equal(classes, objects.labels[:4]) and size.tolist() == list(SIZE)
    assert np.array_equal(np.unpackbits(masks, axis=2), objects.masks[:4])
    assert sorted(order) == list(range(4 + SMALL["num_proposals"]))
    assert (labels == rpn.OBJECT).sum() <= 16 and (labels != rpn.UNUSED).sum() == 32
    assert len(set(anchors)) == 32
    none = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), objects.ignored, objects.masks[:0])
    assert (net.prepare(none, CANVAS, SIZE, np.random.default_rng(0))[1] == rpn.NOTHING).all()
    with pytest.raises(ValueError, match="masks"):
        net.prepare(objects._replace(masks=None), CANVAS, SIZE, np.random.default_rng(0))


@pytest.mark.parametrize("build", KINDS)
def test_what_is_found_lies_in_its_image(build):
    runtime.start("CPU", "pynative", seed=0)
    net = small(build)
    images = batch(net, (2, 3))[0]
    found = detect(net, images, [SIZE, (40, 50)])
    assert len(found) == 2
    for of_image, (height, width) in zip(found, [SIZE, (40, 50)]):
        assert 0 < len(of_image.scores) <= 100 and of_image.masks.shape == (len(of_image.scores), 28, 28)
        assert (of_image.boxes >= 0).all() and (of_image.boxes <= [width, height, width, height]).all()
        assert (np.diff(of_image.scores) <= 0).all() and (of_image.labels < 3).all()
        assert 0 < of_image.masks.min() and of_image.masks.max() < 1
    scores, deltas = net(images)
    assert [level.shape[2:] for level in scores] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert scores[0].shape == (2, 3, 16, 24) and deltas[0].shape == (2, 12, 16, 24)
    rois = Tensor(np.array([[0, 1, 1, 30, 30], [1, 5, 5, 9, 50], [1, 0, 0, 40, 40]], np.float32))
    boxes, masks = net.rois(images, rois), net.masks(images, rois)
    if build is CascadeMaskRCNN:
        assert len(boxes) == len(masks) == 3
        boxes, masks = boxes[0], masks[0]
    assert [part.shape for part in boxes] == [(3, 4), (3, 12)] and masks.shape == (3, 3, 28, 28)
