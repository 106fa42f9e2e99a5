"""One step of training as one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import mindspore as ms
from mindspore import nn, ops

from acmix_ms import runtime
from acmix_ms.engine import parallel, precision
from acmix_ms.engine.ema import WeightAverage
from acmix_ms.engine.losses import Loss
from acmix_ms.ops.kernels import on_cpu


class Step(NamedTuple):
    """A step that was begun, and what it gives, which the device may still be computing.

    Attributes:
        number: of the run, from 0.
        lr: its learning rate.
        loss: mean over the ranks, float32.
        terms: of the loss, by name.
        finite: whether the gradients were, so that the weights were updated.
    """

    number: int
    lr: float
    loss: ms.Tensor
    terms: Mapping[str, ms.Tensor]
    finite: ms.Tensor


def build_train_step(
    model: nn.Cell,
    loss_of: Loss,
    optimizer: nn.Optimizer,
    scaler: ms.amp.LossScaler,
    average: WeightAverage | None,
    clip_norm: float,
) -> Callable:
    """``(images, *targets) -> (loss, its terms by name, gradients finite)``; where they are, weights and optimizer are
    updated.

    On CPU the condition stands in the graph: one that has a condition runs kernel after kernel, each on all cores;
    without it independent kernels of the gradients run at the same time, and take twice as long. Elsewhere there is
    none, as an Ascend's backend would carry the optimizer's state to the host and back in each step, and wait for each
    piece. There updates are masked; where no loss is scaled they are not even that, since such a training ends with the
    first step that is not finite, before anything is written.

    Args:
        model: computes in the precision of the training.
        loss_of: see `acmix_ms.engine.losses`.
        optimizer: of the parameters that are trained.
        scaler: of the loss.
        average: moving average of the weights, if there is one.
        clip_norm: largest norm of all gradients together; 0 for any.
    """

    def forward(images, *targets):
        loss, terms = loss_of(model, images, *targets)
        return scaler.scale(loss), loss, terms

    mean, agreed = parallel.build_mean(optimizer.parameters), parallel.build_agreement()
    gradients_of = ms.value_and_grad(forward, None, optimizer.parameters, has_aux=True)

    skips = not isinstance(scaler, ms.amp.StaticLossScaler)

    def clipped(gradients):
        return ops.clip_by_global_norm(gradients, clip_norm) if clip_norm > 0 else gradients

    def update(gradients):
        optimizer(clipped(gradients))
        if average is not None:
            average()

    def update_masked(gradients, finite):
        optimizer.masked(clipped(gradients), finite)
        if average is not None:
            average.masked(finite)

    # A dictionary among the outputs of a graph would be fetched from the device at once.
    names: list[str] = []

    @ops.constexpr(reuse_result=False)
    def noted(found):
        names[:] = found
        return found

    def train_step(images, *targets):
        (_, loss, terms), gradients = gradients_of(images, *targets)
        loss, terms, gradients = mean(loss, terms, gradients)  # first, so that all ranks do the same
        gradients = scaler.unscale(gradients)
        finite = agreed(precision.all_finite(gradients))
        if on_cpu():
            if finite:
                update(gradients)
        elif skips:
            update_masked(gradients, finite)
        else:
            update(gradients)
        scaler.adjust(finite)
        return (loss, finite, *[terms[name] for name in noted(tuple(terms.keys()))])

    run, forget_overflows = runtime.compiled(train_step), precision.build_forgetting()

    def step(images, *targets):
        forget_overflows()
        loss, finite, *terms = run(images, *targets)
        if on_cpu():
            loss.asnumpy()  # two steps at a time get in each other's way: both take twice as long
        return loss, dict(zip(names, terms)), finite

    return step
