"""Detectors: RetinaNet, Mask R-CNN, Cascade Mask R-CNN, on any backbone of the zoo."""
