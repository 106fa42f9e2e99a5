"""Pictures of the classes of pixels: colours, label images, overlays and legends."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from acmix_ms.analysis.segments import Example, overlaid, palette, plot_examples, plot_segments, write_labels
from acmix_ms.data.images import decode_values
from acmix_ms.maps import IGNORED, UNKNOWN, example_labels


def test_every_class_has_a_colour_of_its_own():
    colours = palette()
    assert colours.shape == (256, 3) and not colours[IGNORED].any()
    assert len(np.unique(colours[:150], axis=0)) == 150


def test_only_pixels_with_a_class_are_tinted():
    pixels = np.full((2, 2, 3), 100, np.uint8)
    picture = overlaid(pixels, np.array([[0, 1], [UNKNOWN, IGNORED]], np.int32)) * 255
    assert np.allclose(picture[1], 100, atol=1e-3)
    assert np.allclose(picture[0], 0.4 * 100 + 0.6 * palette()[:2], atol=1e-3)


def test_a_label_image_holds_labels(tmp_path):
    labels = np.array([[0, 149, UNKNOWN]], np.int32)
    write_labels(labels, tmp_path / "new" / "labels.png")
    assert decode_values((tmp_path / "new" / "labels.png").read_bytes()).tolist() == [[0, 149, IGNORED]]


def test_overlays_keep_their_pixels_beside_a_legend():
    pixels, target = np.zeros((40, 50, 3), np.uint8), io.BytesIO()
    labels = np.zeros((40, 50), np.int32)
    labels[:, 25:] = 2
    plot_segments(pixels, labels, ["road", "$sky", "a name that is far too long for a legend"], target)
    drawn = np.asarray(Image.open(target).convert("RGB")).astype(int)
    assert np.abs(drawn[:40, :50] - 255 * overlaid(pixels, labels)).max() <= 1
    beside = drawn[:, 60:].reshape(-1, 3).tolist()
    assert all(palette()[label].tolist() in beside for label in (0, 2)) and palette()[1].tolist() not in beside


def test_truth_and_answers_stand_side_by_side():
    labels, target = example_labels(1, 32, 48, 3)[0], io.BytesIO()
    assert set(np.unique(labels)) == {0, 1, 2, IGNORED}
    plot_examples([Example(np.zeros((32, 48, 3), np.uint8), labels, np.where(labels == 0, UNKNOWN, 1))],
                  ["a", "b", "c"], target)  # fmt: skip
    assert Image.open(target).width > 900
    with pytest.raises(ValueError, match="examples: none"):
        plot_examples([], [], target)
