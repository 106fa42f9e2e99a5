"""Masks in their pictures beside mmdetection's, their run lengths, and boxes back in the original."""

from __future__ import annotations

import numpy as np
import pytest

from acmix_ms import masks as run_lengths
from acmix_ms.data.canvas import boxes_in_image
from acmix_ms.postprocess import paste_masks, sigmoid

RAMP = np.tile((np.arange(28, dtype=np.float32) + 0.5) / 28, (28, 1))  # from 0 at the left to 1 at the right


def test_pasted_masks_are_mmdetections(vectors):
    file = vectors("dense/mask_targets")
    height, width = file["image_hw"].tolist()
    masks, boxes = sigmoid(file["paste_logits"][:, 0]), file["paste_boxes"]
    expected = np.unpackbits(file["paste_binary_packbits"])[: len(boxes) * height * width]
    found = paste_masks(masks, boxes, height, width)
    assert found.dtype == bool and np.array_equal(found, expected.reshape(-1, height, width))
    for threshold in (0.05, 0.25, 0.75):  # below .5 the edge of a mask reaches beyond its box
        probabilities = file["paste_prob"].astype(np.float32)
        unsure = np.abs(probabilities - threshold) < 1e-3  # they are kept in 16 bits
        difference = paste_masks(masks, boxes, height, width, threshold) != (probabilities >= threshold)
        assert not (difference & ~unsure).any() and unsure.mean() < 0.01
    assert (boxes[:, 2] > width).any() or (boxes[:, :2] < 0).any(), "no box goes beyond its picture"


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 9, 5, 5), (-50, -50, -10, -10), (90, 90, 120, 120)])
def test_boxes_without_pixels_have_no_mask(box):
    assert not paste_masks(np.ones((1, 28, 28), np.float32), np.float32([box]), 60, 70).any()


def test_a_pixel_belongs_to_what_holds_its_middle():
    full = np.ones((2, 28, 28), np.float32)
    found = paste_masks(full, np.float32([[3.0, 2.0, 8.0, 5.0], [3.6, 2.4, 7.6, 4.4]]), 10, 12)
    for mask, (top, bottom, left, right) in zip(found, [(2, 5, 3, 8), (2, 4, 4, 8)]):
        expected = np.zeros((10, 12), bool)
        expected[top:bottom, left:right] = True
        assert np.array_equal(mask, expected)
    half = paste_masks(RAMP[None], np.float32([[2, 0, 58, 40]]), 40, 60)[0]
    assert np.array_equal(np.flatnonzero(half[20]), np.arange(30, 58))


def test_no_masks():
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), 4, 5).shape == (0, 4, 5)
    assert run_lengths.encode_pasted(np.zeros((0, 28, 28)), np.zeros((0, 4)), 4, 5) == []


def test_run_lengths_hold_the_mask():
    random = np.random.default_rng(0)
    masks = random.random((4, 28, 28)).astype(np.float32)
    boxes = np.float32([[0, 0, 31, 23], [3.3, 4.4, 20.2, 11.1], [-5, 10, 50, 40], [28.2, 0, 31, 3]])
    pasted = paste_masks(masks, boxes, 23, 31)
    for mask, counts in zip(pasted, run_lengths.encode_pasted(masks, boxes, 23, 31)):
        segmentation = run_lengths.run_lengths((23, 31), counts)
        assert mask.any() and np.array_equal(run_lengths.decode(segmentation), mask)
        assert run_lengths.encode(mask) == counts and isinstance(segmentation["counts"], str)
    plain = {"size": [2, 3], "counts": [1, 2, 3]}  # column after column
    assert np.array_equal(run_lengths.decode(plain), [[False, True, False], [True, False, False]])


def test_boxes_go_back_by_the_scale_of_each_side():
    found = boxes_in_image(np.float32([[10, 20, 100, 200]]), (400, 300, 800, 150))
    assert found.dtype == np.float32 and np.array_equal(found, [[5, 40, 50, 400]])
    assert boxes_in_image(np.zeros((0, 4)), (4, 3, 8, 1)).shape == (0, 4)
