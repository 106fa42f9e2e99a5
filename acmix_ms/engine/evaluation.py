"""Run a net over a whole split."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

import mindspore as ms
import numpy as np
from mindspore import nn

from acmix_ms import runtime
from acmix_ms.data.loader import PADDING, Loader, prefetched
from acmix_ms.engine import parallel, precision
from acmix_ms.engine.metrics import Accuracy, Evaluator

# ``predict(images, *targets)`` gives what the task's evaluator takes: Tensors, in tuples where there are several, or a
# list of what is on the host already. The targets are the loader's, for nets that must know more of an image than its
# pixels, such as its size on the canvas.
Predictor = Callable[..., "ms.Tensor | tuple | list"]


def build_predictor(net: nn.Cell) -> Predictor:
    """``images -> outputs`` in float32, compiled once; the caller sets the net to evaluation."""

    def outputs(images):
        return precision.single(net(images))

    run = runtime.compiled(outputs)
    return lambda images, *targets: run(images)


def evaluate(
    net: nn.Cell | None, loader: Loader, predict: Predictor | None = None, evaluator: Evaluator | None = None
) -> dict:
    """What ``net`` scores on one split. Where a group shares it, every process gets the scores of the whole of it.

    Args:
        net: switched to evaluation, and left so; None of an exported file.
        predict: what `build_predictor` gave for this net, to compile only once; of a file what computes its outputs.
        evaluator: a new one; by default that of classification.

    Returns:
        what its `Evaluator.result` gives, and ``img_per_s``, images per second of the group, data included, without the
        first batch, which compiles (None where there is no other).
    """
    predict = predict or build_predictor(net)
    evaluator = evaluator or Accuracy(loader.class_names)
    if net is not None:
        net.set_train(False)
    count, marks = 0, []
    with contextlib.closing(prefetched(loader.epoch(0))) as batches:
        for images, targets, ids in batches:
            evaluator.update(_arrays(predict(runtime.to_device(images), *targets)), targets, ids)
            count += int((ids != PADDING).sum())
            marks.append((count, time.perf_counter()))
    timed = np.subtract(marks[-1], marks[0])[None]
    if loader.size > 1:
        evaluator.merge(parallel.gather_arrays(evaluator.state()))
        timed = parallel.gather(timed[0])
    images, seconds = timed[:, 0].sum(), timed[:, 1].max()
    return {**evaluator.result(), "img_per_s": float(images / seconds) if images else None}


def summary(kind: type[Evaluator], scores: Mapping) -> str:
    """One line of what `evaluate` gives with an evaluator of this kind."""
    speed = f"  {scores['img_per_s']:.0f} img/s" if scores["img_per_s"] else ""
    return f"{kind.told(scores)}  {scores['count']} images{speed}"


def _arrays(outputs: ms.Tensor | tuple | list) -> np.ndarray | tuple | list:
    if isinstance(outputs, list):
        return outputs
    return tuple(map(_arrays, outputs)) if isinstance(outputs, tuple) else outputs.asnumpy()
