"""Evaluators, one file per task."""

from acmix_ms.engine.metrics.base import Evaluator, Metric
from acmix_ms.engine.metrics.classification import Accuracy
from acmix_ms.engine.metrics.coco import CocoDetection
from acmix_ms.engine.metrics.segmentation import Segmentation

__all__ = ["Accuracy", "CocoDetection", "Evaluator", "Metric", "Segmentation"]
