"""Run a net over a whole split."""

from __future__ import annotations

import time
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import nn

from acmix_ms.data.loader import Loader
from acmix_ms.engine import parallel
from acmix_ms.engine.metrics import Accuracy, by_class


def compiled(function: Callable) -> Callable:
    """The function as a graph where the runtime is in graph mode, as it is in PyNative mode."""
    return ms.jit(function) if ms.get_context("mode") == ms.GRAPH_MODE else function


def build_predictor(net: nn.Cell) -> Callable[[ms.Tensor], ms.Tensor]:
    """``images -> logits`` in float32, compiled once; the caller sets the net to evaluation."""

    def predict(images):
        return net(images).astype(ms.float32)

    return compiled(predict)


def evaluate(net: nn.Cell | None, loader: Loader, predict: Callable | None = None) -> dict:
    """What ``net`` scores on one split. Where a group shares it, every process gets the scores of the whole of it.

    Args:
        net: switched to evaluation, and left so; None of an exported file.
        predict: what `build_predictor` gave for this net, to compile only once; of a file what computes its logits.

    Returns:
        what `Accuracy.result` gives; ``img_per_s``, images per second of the group, data included, without the first
        batch, which compiles (None where there is no other); ``classes``, as `by_class` gives them.
    """
    predict = predict or build_predictor(net)
    if net is not None:
        net.set_train(False)
    accuracy, marks = Accuracy(), []
    for images, labels in loader.epoch(0):
        accuracy.update(predict(ms.Tensor(images)).asnumpy(), labels)
        marks.append((accuracy.count, time.perf_counter()))
    outcomes, timed = accuracy.outcomes(), np.subtract(marks[-1], marks[0])[None]
    if loader.size > 1:
        accuracy.set_sums(parallel.gather(accuracy.sums()).sum(axis=0))
        every = parallel.gather(outcomes.ravel()).reshape(loader.size, *outcomes.shape)  # as many rows in each rank
        outcomes = np.concatenate(list(every), axis=1).astype(np.int64)
        timed = parallel.gather(timed[0])
    images, seconds = timed[:, 0].sum(), timed[:, 1].max()
    return {
        **accuracy.result(),
        "img_per_s": float(images / seconds) if images else None,
        "classes": by_class(outcomes, loader.class_names),
    }
