"""The metric beside mmsegmentation's, its parts over ranks, and the answers that it is given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from acmix_ms.data.loader import PADDING
from acmix_ms.engine.metrics import Segmentation
from acmix_ms.errors import UserError
from acmix_ms.maps import classes_of, enlarged, label_map, softmax, windows


def evaluator(file, samples):
    found = Segmentation(lambda sample: file[f"label_{sample}"], [f"c{i}" for i in range(int(file["num_classes"]))])
    for sample in samples:
        found.update([file[f"pred_{sample}"], None], (), np.array([sample, PADDING]))
    return found


def test_scores_are_mmsegmentations(vectors):
    file = vectors("dense/seg_eval")
    found = evaluator(file, range(6))
    scores = found.result()
    assert [scores[name] / 100 for name in ("mIoU", "mAcc", "aAcc")] == pytest.approx(
        file["mIoU_mAcc_aAcc"].tolist(), rel=1e-6
    )
    assert [round(scores[name], 2) for name in ("mIoU", "mAcc", "aAcc")] == pytest.approx(
        file["mIoU_mAcc_aAcc_percent_rounded2"].tolist(), abs=1e-9
    )
    for name in ("IoU", "Acc"):
        values = np.array([np.nan if c[name] is None else c[name] / 100 for c in scores["classes"]])
        assert np.allclose(values, file[name], rtol=1e-6, equal_nan=True), name
    assert np.array_equal([c["pixels"] for c in scores["classes"]], file["area_label"])
    assert np.array_equal(found.confusion[:, :-1].sum(0), file["area_pred"])
    json.dumps(scores, allow_nan=False)
    assert scores["count"] == 6


def test_ranks_have_one_matrix(vectors):
    file = vectors("dense/seg_eval")
    parts = [evaluator(file, samples) for samples in ((0, 3), (1, 4, 5), (2,))]
    parts[1].merge([part.state() for part in parts])
    assert parts[1].result() == evaluator(file, range(6)).result()


def test_what_is_told():
    found = Segmentation(lambda _: np.array([[0, 1, 255, 1]]), ["sky", "sea", "sand"])
    found.update([np.array([[0, 0, 2, 1]])], (), np.array([0]))
    scores = found.result()
    assert (found.primary.name, found.told(scores)) == ("mIoU", "mIoU 50.00 %  mAcc 75.00 %  aAcc 66.67 %")
    assert found.details(scores).splitlines()[3].split() == ["sand", "0", "-", "-"]
    assert found.tables(scores)[0]["rows"][0] == ["sky", 1, "50.00", "100.00"]


def test_a_net_without_numbers_is_wrong_and_nothing_to_score_is_told():
    found = Segmentation(lambda _: np.array([[0, 1]]), ["a", "b"])
    scores = np.zeros((2, 1, 2), np.float32)
    scores[0, 0, 0] = np.nan
    found.update([classes_of(scores)], (), np.array([0]))
    assert found.result()["aAcc"] == 0
    empty = Segmentation(lambda _: np.full((2, 2), 255), ["a"])
    empty.update([np.zeros((2, 2))], (), np.array([0]))
    with pytest.raises(UserError, match="none of the pixels of 1 validation images has a class: .*zero_ignored"):
        empty.result()
    with pytest.raises(ValueError, match=r"answers \(1, 2\): must be of the size of the labels, \(2, 2\)"):
        empty.update([np.zeros((1, 2))], (), np.array([0]))


def test_scores_are_enlarged_step_by_step_and_in_strips(monkeypatch):
    scores = np.random.default_rng(0).standard_normal((7, 5, 6)).astype(np.float32)
    twice = enlarged(enlarged(scores, [(20, 24)]), [(33, 19)])
    assert np.allclose(enlarged(scores, [(20, 24), (33, 19)]), twice, atol=1e-5)
    whole = label_map(scores, [(20, 24), (33, 19)])
    assert np.array_equal(whole, twice.argmax(0)) and whole.dtype == np.int32
    monkeypatch.setattr("acmix_ms.maps.ROWS", 7 * 19 * 4)
    assert np.array_equal(label_map(scores, [(20, 24), (33, 19)]), whole)
    assert np.allclose(softmax(twice).sum(0), 1, atol=1e-6)


def test_windows_are_mmsegmentations():
    assert windows((512, 683), (512, 512), (341, 341)) == [(0, 0), (0, 171)]
    assert windows((600, 512), (512, 512), (341, 341)) == [(0, 0), (88, 0)]
    assert windows((10, 25), (10, 10), (5, 5)) == [(0, 0), (0, 5), (0, 10), (0, 15)]
    assert windows((300, 400), (512, 512), (341, 341)) == [(0, 0)]
