"""Answers for whole images: at once, in windows, mirrored and in other sizes, beside what is written out here."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from acmix_ms import config, runtime
from acmix_ms.maps import UNKNOWN, bilinear_weights
from acmix_ms.ops.resizing import resize_bilinear
from models import create_model, tasks
from models.segmentation import Inference, segment, segment_with
from models.segmentation.inference import logits_of

SIZES = [(50, 41), (0, 0), (64, 96)]


def means(images):
    """A net whose logits at stride 4 are means of 4x4 pixels: windows change nothing where they lie on multiples."""
    batch, channels, height, width = images.shape
    return images.reshape(batch, channels, height // 4, 4, width // 4, 4).mean((3, 5))


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((3, 3, 64, 96)).astype(np.float32)


def by_hand(logits, *sizes):
    for height, width in sizes:
        logits = np.einsum("ih,chw,jw->cij", bilinear_weights(height, logits.shape[1]), logits,
                           bilinear_weights(width, logits.shape[2]))  # fmt: skip
    return logits


def test_scores_are_enlarged_to_the_image_and_then_to_its_original(images):
    found = segment_with(means, images, SIZES)
    assert [each.shape for each in found] == SIZES
    for i in (0, 2):
        expected = by_hand(means(images)[i], (64, 96), SIZES[i])
        assert np.array_equal(found[i], expected.argmax(0))
    images[2, 1] = np.nan
    assert (segment_with(means, images, SIZES)[2] == UNKNOWN).all()


def test_windows_are_means_of_what_each_sees(images):
    seen = []

    def run(part):
        assert part.flags["C_CONTIGUOUS"]
        seen.append(part.shape[2:])
        return means(part)

    found = logits_of(run, images, Inference(window=(32, 32), stride=(20, 20)))
    assert set(seen) == {(32, 32)} and len(seen) == 3 * 5
    total, count = np.zeros((3, 64, 96)), np.zeros((64, 96))
    for top in (0, 20, 32):
        for left in (0, 20, 40, 60, 64):
            part = images[:1, :, top : top + 32, left : left + 32]
            total[:, top : top + 32, left : left + 32] += by_hand(means(part)[0], (32, 32))
            count[top : top + 32, left : left + 32] += 1
    assert np.allclose(found[0], total / count, atol=1e-5)


def test_an_image_smaller_than_the_window_is_padded(images):
    found = logits_of(means, images, Inference(window=(128, 96)))
    padded = np.pad(images, ((0, 0), (0, 0), (0, 64), (0, 0)))
    assert np.allclose(found[1], by_hand(means(padded)[1], (128, 96))[:, :64], atol=1e-5)
    one = segment_with(means, images, SIZES, Inference(window=(128, 128)))
    assert [each.shape for each in one] == SIZES


def test_mirror_images_and_other_sizes_share_their_probabilities(images):
    def run(part):  # a net that sees left and right differently
        return means(part) * np.linspace(0, 2, part.shape[3] // 4, dtype=np.float32)

    def softmax(scores):
        shares = np.exp(scores - scores.max(0))
        return shares / shares.sum(0)

    found = segment_with(run, images, SIZES, Inference(scales=(1.0, 1.5), flip=True))
    larger = np.stack([by_hand(image, (96, 128)) for image in images])  # 144 is 4.5 times 32, to the even number
    total = 0
    for varied in (images, larger):
        size = varied.shape[2:]
        total = total + softmax(by_hand(run(varied)[0], size, SIZES[0]))
        total = total + softmax(by_hand(run(varied[..., ::-1])[0][..., ::-1], size, SIZES[0]))
    assert (found[0] == total.argmax(0)).mean() > 0.999


def test_a_net_answers_as_its_logits_say(images):
    runtime.start("CPU", "pynative")
    net = create_model("semantic_fpn_shapes", num_classes=3).set_train(True)
    found = segment(net, Tensor(images), [(64, 96)] * 3)
    assert not net.training
    logits = resize_bilinear(net(Tensor(images)), 64, 96).asnumpy()
    assert np.array_equal(np.stack(found), logits.argmax(1)) and found[0].dtype == np.int32


def test_keys_say_how_images_are_looked_at():
    keys = ["task=segmentation", "data.name=pairs", "data.canvas.height=64", "data.canvas.width=96"]
    assert tasks.inference_of(config.from_overrides(keys)) == Inference()
    keys += ["data.segments.inference=slide", "data.segments.stride=32", "data.segments.test_flip=true"]
    wanted = Inference((64, 96), (32, 32), (0.75, 1.0), True)
    assert tasks.inference_of(config.from_overrides([*keys, "data.segments.test_scales=[0.75,1.0]"])) == wanted
