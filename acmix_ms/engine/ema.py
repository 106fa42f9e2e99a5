"""The exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from acmix_ms import runtime
from acmix_ms.engine.checkpoint import AVERAGE_PREFIX

_move = ops.MultitypeFuncGraph("ema_move")


@_move.register("Tensor", "Tensor", "Tensor")
def _move_one(share, average, weight):
    ops.assign_add(average, (weight - average) * share)
    return True


class WeightAverage(nn.Cell):
    """Averages of all parameters of a net, running statistics as well; called after every step t = 1, 2, ...::

        average += (1 - d) * (weight - average),  d = min(decay, (1 + t) / (10 + t))

    as TensorFlow and timm's ``ModelEmaV3`` have it: the first steps, far from where training ends, are soon forgotten.

    Args:
        net: whose weights are averaged; the averages begin with what it has now.
        decay: of the average, such as 0.9999.
    """

    def __init__(self, net: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.weights = ms.ParameterTuple(net.get_parameters())
        self.averages = self.weights.clone(prefix="ema", init="same")
        self.steps = Parameter(Tensor(0.0, ms.float32), name="ema_steps", requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self):
        return self._moved(ops.assign_add(self.steps, Tensor(1.0, ms.float32)), 1.0)

    def masked(self, finite: Tensor):
        """As ``construct``, and without a condition; where not ``finite`` (a bool) the averages stay what they are."""
        keep = finite.astype(ms.float32)
        return self._moved(ops.assign_add(self.steps, keep), keep)

    def _moved(self, step, keep):
        share = (1 - ops.minimum((1 + step) / (10 + step), Tensor(self.decay, ms.float32))) * keep
        return self.map(ops.partial(_move, share), self.averages, self.weights)

    def named(self) -> dict[str, Parameter]:
        """The averages under the names of the weights."""
        return {weight.name: average for weight, average in zip(self.weights, self.averages)}

    def state(self) -> dict[str, Parameter]:
        """What goes on from step to step, by name."""
        averages = {f"{AVERAGE_PREFIX}{name}": average for name, average in self.named().items()}
        return {**averages, "ema_steps": self.steps}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """In this block the net has the averages for its weights."""
        kept = [weight.asnumpy().copy() for weight in self.weights]
        try:
            for weight, average in zip(self.weights, self.averages):
                runtime.assign(weight, average.asnumpy())
            yield
        finally:
            for weight, value in zip(self.weights, kept):
                runtime.assign(weight, value)
