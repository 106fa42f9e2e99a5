"""The loss of segmentors, as mmsegmentation defines it; in float32, whatever comes in."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from acmix_ms.maps import IGNORED
from acmix_ms.ops.resizing import resize_bilinear


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all pixels, where those with label `IGNORED` count as 0: a scalar float32.

    Args:
        logits: (B, classes, h, w), of any size: they are enlarged to that of the labels.
        labels: (B, H, W) integers.
    """
    logits = resize_bilinear(logits.astype(ms.float32), *labels.shape[1:])
    counts = labels != IGNORED
    shares = ops.log_softmax(logits, 1)
    wanted = ops.select(counts, labels.astype(ms.int32), ops.zeros_like(labels).astype(ms.int32))
    found = ops.gather_elements(shares, 1, wanted.expand_dims(1))[:, 0]  # (B, H, W)
    return -(found * counts.astype(ms.float32)).mean()
