"""Segmentors: Semantic FPN and UPerNet, on any backbone of the zoo; `segment` is what they answer."""

from .base import Segmentor
from .inference import WHOLE, Inference, segment, segment_with
from .labelled import Labelled

__all__ = ["WHOLE", "Inference", "Labelled", "Segmentor", "segment", "segment_with"]
