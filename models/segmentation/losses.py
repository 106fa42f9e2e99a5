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
    labels = labels.reshape(-1, 1)  # (B*H*W, 1)
    counts = labels != IGNORED
    # Classes last: on CPU softmax and gathering along another axis take three to seven times as long.
    shares = ops.log_softmax(ops.transpose(logits, (0, 2, 3, 1)).reshape(-1, logits.shape[1]), -1)
    wanted = ops.select(counts, labels.astype(ms.int32), ops.zeros_like(labels).astype(ms.int32))
    return -(ops.gather_elements(shares, 1, wanted) * counts.astype(ms.float32)).mean()
