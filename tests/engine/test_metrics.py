"""Scores over all and by class, on confusions that are made up, and the throughput of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from acmix_ms import runtime
from acmix_ms.config import DataConfig
from acmix_ms.data import create_loader
from acmix_ms.engine.evaluation import evaluate
from acmix_ms.engine.metrics import Accuracy, by_class, class_table
from tests.helpers.tiny import TinyNet

NAMES = ["ant", "bee", "cat", "dodo"]
# How many images of each class (row) are taken for each class (column). Nobody has seen a dodo.
CONFUSION = np.array([[5, 2, 1, 0], [0, 4, 0, 0], [3, 3, 1, 0], [0, 0, 0, 0]])
EXPECTED = [
    {"name": "ant", "images": 8, "top1": 62.5, "top5": 100.0, "confusions": [["bee", 2], ["cat", 1]]},
    {"name": "bee", "images": 4, "top1": 100.0, "top5": 100.0, "confusions": []},
    {"name": "cat", "images": 7, "top1": 100 / 7, "top5": 100.0, "confusions": [["ant", 3], ["bee", 3]]},
    {"name": "dodo", "images": 0, "top1": None, "top5": None, "confusions": []},
]


def outcomes(confusion, padding=2, seed=0):
    """Of two batches with such a confusion, in any order, of which the second is padded."""
    labels, given = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
    order = np.random.default_rng(seed).permutation(len(labels))
    labels = np.concatenate([labels[order], [-1] * padding])
    logits = np.concatenate([np.eye(len(confusion))[given[order]], np.zeros((padding, len(confusion)))])
    accuracy = Accuracy()
    for part in (slice(None, 7), slice(7, None)):
        accuracy.update(logits[part], labels[part])
    return accuracy.outcomes()


def test_scores_by_class_are_those_of_the_confusion():
    assert by_class(outcomes(CONFUSION), NAMES) == EXPECTED


def test_parts_of_several_processes_stand_side_by_side():
    first = np.triu(CONFUSION)
    parts = [outcomes(first, padding=1), outcomes(CONFUSION - first, padding=9, seed=1)]
    assert by_class(np.concatenate(parts, axis=1), NAMES) == EXPECTED


def test_a_class_keeps_its_most_frequent_confusions():
    confusion = np.zeros((6, 6), int)
    confusion[0] = [1, 2, 5, 3, 4, 1]
    first = by_class(outcomes(confusion), list("abcdef"))[0]
    assert first["confusions"] == [["c", 5], ["e", 4], ["d", 3]]
    assert first["top1"] == pytest.approx(100 / 16)


def test_a_broken_net_is_taken_for_no_class_and_a_constant_one_for_another():
    accuracy = Accuracy()
    accuracy.update(np.array([[np.nan, 1.0, 0.0], [1.0, 1.0, 1.0]]), np.array([0, 0]))
    first, *others = by_class(accuracy.outcomes(), NAMES[:3])
    assert [other["confusions"] for other in others] == [[], []]
    assert (first["images"], first["top1"], first["confusions"]) == (2, 0.0, [["bee", 1]])


def test_nothing_was_counted():
    assert Accuracy().outcomes().shape == (3, 0)
    assert by_class(Accuracy().outcomes(), NAMES)[0]["images"] == 0


def test_the_table_has_a_line_for_each_class():
    lines = class_table(EXPECTED).splitlines()
    assert lines[0].split() == "class images top-1 % top-5 % most often taken for".split()
    assert lines[1].split() == "ant 8 62.50 100.00 bee (2), cat (1)".split()
    assert lines[4].split() == "dodo 0 - -".split()
    assert len(lines) == 5


@pytest.mark.parametrize(("batch_size", "measured"), [(128, True), (512, False)])
def test_evaluation_gives_classes_and_the_speed_after_the_first_batch(batch_size, measured):
    runtime.start("CPU", "graph")
    scores = evaluate(TinyNet(), create_loader(DataConfig(batch_size=batch_size), "val"))
    assert [found["name"] for found in scores["classes"]] == list("0123456789")
    assert sum(found["images"] for found in scores["classes"]) == scores["count"] == 355
    right = sum(found["images"] * found["top1"] for found in scores["classes"])
    assert right / 355 == pytest.approx(scores["top1"])
    assert (scores["img_per_s"] is not None) == measured
    assert not measured or scores["img_per_s"] > 0
