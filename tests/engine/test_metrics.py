"""Scores over all and by class, on confusions that are made up, and the throughput of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from acmix_ms import runtime
from acmix_ms.config import DataConfig
from acmix_ms.data import create_loader
from acmix_ms.data.loader import PADDING
from acmix_ms.engine.evaluation import evaluate
from acmix_ms.engine.metrics import Accuracy, Metric
from acmix_ms.engine.metrics.classification import by_class, class_table
from tests.helpers.tiny import TinyNet

NAMES = ["ant", "bee", "cat", "dodo"]
# How many images of each class (row) are taken for each class (column). Nobody has seen a dodo.
CONFUSION = np.array([[5, 2, 1, 0], [0, 4, 0, 0], [3, 3, 1, 0], [0, 0, 0, 0]])
EXPECTED = [
    {"name": "ant", "images": 8, "top1": 62.5, "confusions": [["bee", 2], ["cat", 1]]},
    {"name": "bee", "images": 4, "top1": 100.0, "confusions": []},
    {"name": "cat", "images": 7, "top1": 100 / 7, "confusions": [["ant", 3], ["bee", 3]]},
    {"name": "dodo", "images": 0, "top1": None, "confusions": []},
]


def outcomes(confusion, padding=2, seed=0):
    """Of two batches with such a confusion, in any order, of which the second is padded."""
    labels, given = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
    order = np.random.default_rng(seed).permutation(len(labels))
    labels = np.concatenate([labels[order], [-1] * padding])
    logits = np.concatenate([np.eye(len(confusion))[given[order]], np.zeros((padding, len(confusion)))])
    accuracy = Accuracy(range(len(confusion)))
    for part in (slice(None, 7), slice(7, None)):
        accuracy.update(logits[part], (labels[part],), np.arange(len(labels))[part])
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
    accuracy = Accuracy(NAMES[:3])
    accuracy.update(np.array([[np.nan, 1.0, 0.0], [1.0, 1.0, 1.0]]), (np.array([0, 0]),), np.arange(2))
    first, *others = by_class(accuracy.outcomes(), NAMES[:3])
    assert [other["confusions"] for other in others] == [[], []]
    assert (first["images"], first["top1"], first["confusions"]) == (2, 0.0, [["bee", 1]])


def test_nothing_was_counted():
    result = Accuracy(NAMES).result()
    assert (result["count"], result["top1"], result["classes"][0]["images"]) == (0, 0.0, 0)


def test_an_empty_place_counts_nowhere_whatever_its_label():
    accuracy = Accuracy(NAMES)
    accuracy.update(np.eye(4)[:3], (np.array([0, 1, -1]),), np.array([7, PADDING, 8]))
    assert (accuracy.result()["count"], accuracy.result()["top1"]) == (1, 100.0)


def test_top5_is_told_from_six_classes_on():
    for count, told in ((5, ["top1", "loss"]), (6, ["top1", "top5", "loss"])):
        accuracy = Accuracy("abcdef"[:count])
        accuracy.update(np.eye(count), (np.arange(count),), np.arange(count))
        result = accuracy.result()
        assert [metric.name for metric in accuracy.metrics] == told
        said = {"top-5" in Accuracy.told(result), "top-5" in Accuracy.details(result), "top5" in result["classes"][0]}
        assert {"top5" in result, *said} == {count == 6}


@pytest.mark.parametrize(("higher", "better"), [(True, 2.0), (False, 1.0)])
def test_what_is_better_is_the_metrics_to_say(higher, better):
    metric = Metric("m", "m", higher_is_better=higher)
    assert metric.better(better, 1.5) and not metric.better(3.0 - better, 1.5) and not metric.better(1.5, 1.5)
    assert metric.better(0.0, None) and not metric.better(float("nan"), None) and not metric.better(float("nan"), 0.0)


def test_the_table_has_a_line_for_each_class():
    lines = class_table(EXPECTED).splitlines()
    assert lines[0].split() == "class images top-1 % most often taken for".split()
    assert lines[1].split() == "ant 8 62.50 bee (2), cat (1)".split()
    assert lines[4].split() == "dodo 0 -".split()
    assert len(lines) == 5
    lines = class_table([{**found, "top5": 100.0} for found in EXPECTED]).splitlines()
    assert lines[0].split() == "class images top-1 % top-5 % most often taken for".split()
    assert lines[1].split() == "ant 8 62.50 100.00 bee (2), cat (1)".split()


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
