"""Optimizers, their parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.experimental import optim as experimental

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


def build_optimizer(net: nn.Cell, config: OptimConfig) -> nn.Cell:
    """SGD with momentum, or AdamW; called as ``optimizer(gradients)`` in the order of ``optimizer.parameters``."""
    groups = parameter_groups(net, config.weight_decay)
    if config.name == "sgd":
        return nn.Momentum(groups, learning_rate=config.lr, momentum=config.momentum)
    if config.name == "adamw":
        # nn.AdamWeightDecay has no bias correction: its first steps are several times too long.
        return experimental.AdamW(groups, lr=config.lr, betas=tuple(config.betas), eps=config.eps)
    raise UserError(f"optim.name={config.name!r}: {closest(config.name, ('sgd', 'adamw'))}")


def set_learning_rate(optimizer: nn.Cell, value: float) -> None:
    """Use ``value`` from the next step on."""
    if isinstance(optimizer, nn.Momentum):
        rates = [optimizer.learning_rate]
    else:
        rates = [group["lr"] for group in optimizer.param_groups]
    for rate in rates:
        runtime.assign(rate, np.float32(value))


def optimizer_state(optimizer: nn.Cell) -> dict[str, ms.Parameter]:
    """What the optimizer remembers between steps, by name."""
    weights = {id(parameter) for parameter in optimizer.parameters}
    # Set anew in every step, or constant, or (the AMSGrad maximum) not used.
    dispensable = ("learning_rate", "momentum", "max_exp_avg_sq.")
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
