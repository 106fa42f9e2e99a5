"""Evaluators, one file per task."""

from acmix_ms.engine.metrics.base import Evaluator, Metric
from acmix_ms.engine.metrics.classification import Accuracy

__all__ = ["Accuracy", "Evaluator", "Metric"]
