"""Whole segmentors beside mmsegmentation's: maps, logits, losses, gradients, BatchNorms in training."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from acmix_ms import runtime
from acmix_ms.ops import kernels
from acmix_ms.ops.resizing import resize_bilinear
from models import create_model
from models.pretrained import load_torch_state, torch_name
from models.segmentation.losses import cross_entropy
from tests.helpers.official import official_input, official_state, stored_part

NAMES = ("semantic_fpn_pvt_tiny", "upernet_swin_tiny", "upernet_acmix_swin_tiny")
BOUND = 1e-4
# A ReLU whose input is zero but for rounding may let a gradient pass here and not there.
BOUND_BEHIND_RELUS = 1e-3


def close(file, name, value):
    expected, found = stored_part(file, name, np.asarray(value))
    bound = max(BOUND, 5 * float(file.get(f"{name}@rel_f64", 0)))
    assert np.abs(found - expected).max() < bound * np.abs(expected).max(), name
    if f"{name}@l2_f64" in file:
        assert np.linalg.norm(np.asarray(value, np.float64)) == pytest.approx(float(file[f"{name}@l2_f64"]), rel=bound)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_segmentor_is_mmsegmentations(vectors, name):
    runtime.start("CPU", "pynative")
    file = vectors(f"dense/{name}")
    net = create_model(name).set_train(False)
    parameters = list(net.trainable_params())
    assert sum(value.size for value in parameters) == int(file["params"])
    load_torch_state(net, official_state(file))
    images, labels = Tensor(official_input(file)), Tensor(file["label"][None].astype(np.int32))

    def loss(images):
        maps = net.backbone(images)
        found = net.all_logits(maps, True)
        terms = net.losses(found, labels)
        return sum(terms), (maps, found, terms)

    run = ms.value_and_grad(loss, None, parameters, has_aux=True)
    (total, (maps, (logits, *others), terms)), gradients = run(images)
    for i, found in enumerate(maps):
        close(file, f"backbone_{i}", found.asnumpy())
    close(file, "logits", logits.asnumpy())
    upsampled = resize_bilinear(logits, *images.shape[2:]).asnumpy()
    close(file, "logits_upsampled", upsampled)
    assert np.array_equal(upsampled[0].argmax(0), file["pred_argmax"])
    for found in others:
        close(file, "aux_logits", found.asnumpy())
    assert len(terms) == len(net.terms)
    for term, value in zip(net.terms, terms):
        assert float(value.asnumpy()) == pytest.approx(float(file[f"{term}@f64"]), rel=1e-5), term
    assert float(total.asnumpy()) == pytest.approx(float(file["loss_total@f64"]), rel=1e-5)

    norms = {torch_name(p.name): np.linalg.norm(g.asnumpy().astype(np.float64)) for p, g in zip(parameters, gradients)}
    norms = {official(key): value for key, value in norms.items()}
    expected = dict(zip(map(str, file["grad_names"]), file["grad_l2_f64"]))
    assert set(expected) == set(norms)
    least = 1e-4 * max(expected.values())
    for key, value in expected.items():
        assert abs(norms[key] - value) < BOUND_BEHIND_RELUS * max(value, least), key
    by_name = {official(torch_name(p.name)): g.asnumpy() for p, g in zip(parameters, gradients)}
    sampled = {key.partition("@")[0] for key in file if key.startswith("grad/")}
    assert sampled
    for key in sampled:
        want, found = stored_part(file, key, by_name[key.removeprefix("grad/")])
        bound = max(BOUND_BEHIND_RELUS, 5 * float(file[f"{key}@rel_f64"]))
        assert np.abs(found - want).max() < bound * np.abs(want).max(), key

    given = net.neck(maps) if hasattr(net, "neck") else maps
    normalised_in_training(file, net, given, file["label"])


def official(name):
    """Swin's code for detection has no dot in the norms of its maps."""
    return name.replace("backbone.norms.", "backbone.norm")


def normalised_in_training(file, net, maps, label):
    """The head on a batch of two, the maps and their mirror images, with the statistics of the batch."""
    both = tuple(Tensor(np.concatenate([m.asnumpy(), m.asnumpy()[..., ::-1]])) for m in maps)
    labels = Tensor(np.stack([label, label[:, ::-1]]).astype(np.int32))
    head = net.decode_head.set_train(True)
    head.dropout.rate = 0.0
    logits = head(both)
    close(file, "bn_train_logits", logits.asnumpy())
    loss = float(cross_entropy(logits, labels).asnumpy())
    assert loss == pytest.approx(float(file["bn_train_loss_ce@f64"]), rel=1e-5)
    state = {torch_name(p.name): p.asnumpy() for p in net.get_parameters()}
    after = {key.partition("@")[0] for key in file if key.startswith("bn_train_after/")}
    assert len(after) == 2
    for key in after:
        close(file, key, state[key.removeprefix("bn_train_after/")])


def test_the_loss_counts_ignored_pixels_in_its_mean_alone():
    logits = Tensor(np.random.default_rng(0).standard_normal((2, 5, 3, 4)).astype(np.float32))
    labels = np.random.default_rng(1).integers(0, 5, (2, 6, 9))
    labels[0, :, :4] = 255

    def loss(logits):
        return cross_entropy(logits, Tensor(labels.astype(np.int32)))

    value, gradient = ms.value_and_grad(loss)(logits)
    enlarged = resize_bilinear(logits, 6, 9).asnumpy().astype(np.float64)
    shares = np.exp(enlarged) / np.exp(enlarged).sum(1, keepdims=True)
    known = labels != 255
    taken = np.take_along_axis(shares, np.where(known, labels, 0)[:, None], 1)[:, 0]
    assert float(value.asnumpy()) == pytest.approx(-(np.log(taken) * known).sum() / labels.size, rel=1e-5)
    assert np.isfinite(gradient.asnumpy()).all()
    nothing = ms.value_and_grad(lambda x: cross_entropy(x, Tensor(np.full((2, 6, 9), 255, np.int32))))(logits)
    assert float(nothing[0].asnumpy()) == 0 and not nothing[1].asnumpy().any()


@pytest.mark.parametrize(("given", "wanted"), [((3, 5), (7, 4)), ((1, 6), (6, 6)), ((4, 4), (8, 8))])
def test_resizing_is_the_operators_in_either_form(given, wanted):
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, *given)).astype(np.float32))
    plain = resize_bilinear(x, *wanted).asnumpy()
    with kernels.native(onnx=True):
        products = resize_bilinear(x, *wanted).asnumpy()
    assert np.allclose(plain, products, atol=1e-6)
    assert np.allclose(plain, ops.interpolate(x, size=wanted, mode="bilinear").asnumpy(), atol=1e-6)
