"""Masks as COCO keeps them: lengths of runs, column by column, pressed into text. pycocotools does it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from acmix_ms.errors import UserError
from acmix_ms.postprocess import paste_mask


def pycocotools(part: str) -> ModuleType:
    """``pycocotools.<part>``; part is ``"coco"``, ``"cocoeval"`` or ``"mask"``.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pycocotools import coco, cocoeval, mask
    except ImportError as error:
        raise UserError(
            "masks and figures of COCO need the package pycocotools, which cannot be loaded "
            f"({error}): pip install 'acmix-mindspore[det]'"
        ) from error
    return {"coco": coco, "cocoeval": cocoeval, "mask": mask}[part]


def encode(mask: np.ndarray) -> bytes:
    """(H, W) bool -> the ``counts`` of its run lengths."""
    return pycocotools("mask").encode(np.asfortranarray(mask, np.uint8))["counts"]


def encode_pasted(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float = 0.5) -> list[bytes]:
    """`encode` of what `postprocess.paste_masks` gives for (n, 28, 28), (n, 4), one after the other: a whole picture of
    each at once would take much memory.
    """
    return [encode(paste_mask(mask, box, height, width, threshold)) for mask, box in zip(masks, boxes)]


def run_lengths(size: Sequence[int], counts: bytes) -> dict:
    """What COCO calls a segmentation, as JSON values; ``size`` is (height, width)."""
    return {"size": [int(side) for side in size], "counts": counts.decode("ascii")}


def decode(segmentation: dict) -> np.ndarray:
    """What `run_lengths` gives, or uncompressed run lengths -> (H, W) bool."""
    mask = pycocotools("mask")
    if isinstance(segmentation["counts"], list):
        segmentation = mask.frPyObjects(segmentation, *segmentation["size"])
    return mask.decode(segmentation).astype(bool)
