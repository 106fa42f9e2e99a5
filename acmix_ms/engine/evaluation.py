"""Run a net over a whole split."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
from mindspore import nn

from acmix_ms.data.loader import Loader
from acmix_ms.engine import parallel
from acmix_ms.engine.metrics import Accuracy


def compiled(function: Callable) -> Callable:
    """The function as a graph where the runtime is in graph mode, as it is in PyNative mode."""
    return ms.jit(function) if ms.get_context("mode") == ms.GRAPH_MODE else function


def build_predictor(net: nn.Cell) -> Callable[[ms.Tensor], ms.Tensor]:
    """``images -> logits`` in float32, compiled once; the caller sets the net to evaluation."""

    def predict(images):
        return net(images).astype(ms.float32)

    return compiled(predict)


def evaluate(net: nn.Cell, loader: Loader, predict: Callable | None = None) -> dict:
    """Top-1, top-5, loss and count of ``net`` over one split, as `Accuracy.result` gives them.

    Where a group shares the split, every process gets the scores of the whole of it.

    Args:
        net: switched to evaluation, and left so.
        predict: what `build_predictor` gave for this net, to compile only once.
    """
    predict = predict or build_predictor(net)
    net.set_train(False)
    accuracy = Accuracy()
    for images, labels in loader.epoch(0):
        accuracy.update(predict(ms.Tensor(images)).asnumpy(), labels)
    if loader.size > 1:
        accuracy.set_sums(parallel.gather(accuracy.sums()).sum(axis=0))
    return accuracy.result()
