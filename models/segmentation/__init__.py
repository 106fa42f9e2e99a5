"""Segmentors: Semantic FPN and UPerNet, on any backbone of the zoo; `segment` is what they answer."""

from .base import Segmentor
from .inference import Inference, segment, segment_with

__all__ = ["Inference", "Segmentor", "segment", "segment_with"]
