"""Optimizers, their parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from acmix_ms import runtime
from acmix_ms.config import OptimConfig
from acmix_ms.errors import UserError, closest

# Weights that are no matrices in spirit, whatever their shape, as the authors of Swin, DeiT and PVT leave them out
# (PVT does decay its ``pos_embed1`` to ``pos_embed4``).
NO_DECAY = ("rate1", "rate2", "relative_position_bias_table", "cls_token", "pos_embed")


def decays(parameter: ms.Parameter) -> bool:
    """Whether weight decay applies: not to norms and biases (1-D), the mixing rates and position tables."""
    return parameter.ndim > 1 and parameter.name.rpartition(".")[2] not in NO_DECAY


def parameter_groups(net: nn.Cell, weight_decay: float) -> list[dict]:
    """The trainable parameters of ``net`` in two groups, with and without weight decay; empty groups are left out."""
    parameters = net.trainable_params()
    groups = [
        {"params": [p for p in parameters if decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


_update = ops.MultitypeFuncGraph("adamw_update")


@_update.register("Function", *("Tensor",) * 5, "Number", *("Tensor",) * 4)
def _update_one(kernel, beta1, beta2, rate, eps, stretch, decay, weight, first, second, gradient):
    kernel(weight, first, second, rate, beta1, beta2, eps, decay * stretch, gradient)
    return True  # what the kernel gives would be copied


class AdamW(nn.Optimizer):
    """Adam with decoupled weight decay and bias correction (Loshchilov and Hutter 2019, algorithm 2).

    `nn.AdamWeightDecay` has no bias correction: its first steps are several times too long. Its kernel, one pass for
    each parameter, does compute AdamW when rate, epsilon and decay are corrected instead of the moments::

        rate' = rate * sqrt(1 - beta2^t) / (1 - beta1^t)
        eps' = eps * sqrt(1 - beta2^t)
        decay' = decay * rate / rate'

    Args:
        groups: dicts with ``params`` and ``weight_decay``.
        learning_rate, betas, eps: as usual.
    """

    def __init__(self, groups: list[dict], learning_rate: float, betas: Sequence[float], eps: float):
        super().__init__(learning_rate, groups)
        self.decays = tuple(float(group["weight_decay"]) for group in groups for _ in group["params"])
        self.beta1, self.beta2 = Tensor(betas[0], ms.float32), Tensor(betas[1], ms.float32)
        self.eps = eps
        self.steps = Parameter(Tensor(0.0, ms.float32), name="steps")
        self.exp_avg = self.parameters.clone(prefix="exp_avg", init="zeros")
        self.exp_avg_sq = self.parameters.clone(prefix="exp_avg_sq", init="zeros")
        self.kernel = ops.AdamWeightDecay()

    def construct(self, gradients):
        step = ops.assign_add(self.steps, Tensor(1.0, ms.float32))
        second = ops.sqrt(1 - ops.pow(self.beta2, step))
        stretch = (1 - ops.pow(self.beta1, step)) / second  # rate / rate', which may be 0 both
        rate = self.learning_rate / stretch
        update = ops.partial(_update, self.kernel, self.beta1, self.beta2, rate, self.eps * second, stretch)
        return self.map_(update, self.decays, self.parameters, self.exp_avg, self.exp_avg_sq, gradients)


def build_optimizer(net: nn.Cell, config: OptimConfig) -> nn.Cell:
    """SGD with momentum, or AdamW; called as ``optimizer(gradients)`` in the order of ``optimizer.parameters``."""
    groups = parameter_groups(net, config.weight_decay)
    if config.name == "sgd":
        return nn.Momentum(groups, learning_rate=config.lr, momentum=config.momentum)
    if config.name == "adamw":
        return AdamW(groups, config.lr, config.betas, config.eps)
    raise UserError(f"optim.name={config.name!r}: {closest(config.name, ('sgd', 'adamw'))}")


def set_learning_rate(optimizer: nn.Cell, value: float) -> None:
    """Use ``value`` from the next step on."""
    runtime.assign(optimizer.learning_rate, np.float32(value))


def optimizer_state(optimizer: nn.Cell) -> dict[str, ms.Parameter]:
    """What the optimizer remembers between steps, by name."""
    weights = {id(parameter) for parameter in optimizer.parameters}
    # Set anew in every step, or constant, or (MindSpore's own count of steps) not used.
    dispensable = ("learning_rate", "momentum", "global_step")
    return {
        name: parameter
        for name, parameter in optimizer.parameters_dict().items()
        if id(parameter) not in weights and not name.startswith(dispensable)
    }


def learning_rate(step: int, config: OptimConfig, steps_per_epoch: int, global_batch: int) -> float:
    """The rate of step number ``step`` (from 0): a line up from ``warmup_start * lr``, then a cosine to ``min_lr``."""
    scale = global_batch / config.lr_reference_batch if config.lr_reference_batch else 1.0
    peak, least = config.lr * scale, config.min_lr * scale
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return peak * (config.warmup_start + (1 - config.warmup_start) * step / warmup_steps)
    progress = (step - warmup_steps) / max(1, config.epochs * steps_per_epoch - warmup_steps)
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
