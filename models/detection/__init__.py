"""Detectors: RetinaNet, Mask R-CNN, Cascade Mask R-CNN, on any backbone of the zoo; `detect` is what they find."""

from .base import Detector, detect

__all__ = ["Detector", "detect"]
