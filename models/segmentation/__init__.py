"""Segmentors: Semantic FPN and UPerNet, on any backbone of the zoo."""

from .base import Segmentor

__all__ = ["Segmentor"]
