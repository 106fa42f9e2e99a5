"""Optimizers, their parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from acmix_ms import runtime
from acmix_ms.config import OptimConfig
from acmix_ms.engine.finetune import belongs, stages_of
from acmix_ms.engine.precision import finite_or_zero
from acmix_ms.errors import UserError, closest

# Weights that are no matrices in spirit, whatever their shape, as the authors of Swin, DeiT and PVT leave them out
# (PVT does decay its ``pos_embed1`` to ``pos_embed4``).
NO_DECAY = ("rate1", "rate2", "relative_position_bias_table", "cls_token", "pos_embed")


def decays(parameter: ms.Parameter) -> bool:
    """Whether weight decay applies: not to norms and biases (1-D), the mixing rates and position tables."""
    return parameter.ndim > 1 and parameter.name.rpartition(".")[2] not in NO_DECAY


def rate_factors(net: nn.Cell, layer_decay: float) -> dict[str, float]:
    """What the learning rate of each trainable parameter is multiplied with, by its name.

    ``layer_decay ** (layers - i)`` in layer i, as in BEiT: the stem is layer 0, every block is one, and what comes
    after them (the last norm, the classifier) has the whole rate.

    Raises:
        UserError: the net does not name its layers.
    """
    if layer_decay == 1.0:
        return {parameter.name: 1.0 for parameter in net.trainable_params()}
    layers = [layer for stage in stages_of(net, f"optim.layer_decay={layer_decay}") for layer in stage]

    def number(name: str) -> int:
        return next((i for i, prefixes in enumerate(layers) if belongs(name, prefixes)), len(layers))

    return {p.name: layer_decay ** (len(layers) - number(p.name)) for p in net.trainable_params()}


def parameter_groups(net: nn.Cell, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """The trainable parameters of ``net`` in groups with one ``weight_decay`` and one ``rate_factor`` each.

    Those with weight decay come first; without layer decay there are at most two groups.
    """
    factors, groups = rate_factors(net, layer_decay), {}
    for parameter in sorted(net.trainable_params(), key=decays, reverse=True):  # a stable order
        decay = weight_decay if decays(parameter) else 0.0
        key = (decays(parameter), factors[parameter.name])
        group = groups.setdefault(key, {"params": [], "weight_decay": decay, "rate_factor": key[1]})
        group["params"].append(parameter)
    return list(groups.values())


def _for_mindspore(groups: list[dict]) -> list[dict]:
    """Groups as `nn.Optimizer` takes them; their own rates would be as many Parameters to set in every step."""
    return [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]


def _each(groups: list[dict], key: str) -> tuple[float, ...]:
    """A value of the groups for each of their parameters."""
    return tuple(float(group[key]) for group in groups for _ in group["params"])


_for_each = ops.HyperMap()  # a loop over many parameters would be too deep for the compiler


def _rates(rate: Tensor, factors: tuple[float, ...]) -> tuple[Tensor, ...]:
    """The rate of each parameter."""
    return _for_each(ops.partial(_rate, rate), factors)


def _rate(rate: Tensor, factor: float) -> Tensor:
    return rate if factor == 1.0 else rate * factor


class Momentum(nn.Momentum):
    """SGD with momentum: `nn.Momentum` whose groups scale the one learning rate.

    Args:
        groups: see `parameter_groups`.
        learning_rate, momentum: as usual.
    """

    def __init__(self, groups: list[dict], learning_rate: float, momentum: float):
        super().__init__(_for_mindspore(groups), learning_rate=learning_rate, momentum=momentum)
        self.factors = _each(groups, "rate_factor")
        self.is_group_lr = any(factor != 1.0 for factor in self.factors)  # whether `get_lr` gives one for each

    def get_lr(self):
        """The rate, or those of all parameters; MindSpore's ``construct`` asks for it."""
        return _rates(self.learning_rate, self.factors) if self.is_group_lr else self.learning_rate

    def masked(self, gradients, finite: Tensor):
        """As ``construct``, and without a condition; where not ``finite`` (a bool) everything stays what it is."""
        keep = finite.astype(ms.float32)
        gradients = finite_or_zero(finite, self.decay_weight(gradients))
        rates = _rates(self.learning_rate * keep, self.factors)
        ops.assign_add(self.global_step, finite.astype(ms.int32).reshape(self.global_step.shape))
        update = ops.partial(_move, self.opt, self.momentum * keep + (1 - keep))
        return _for_each(update, rates, gradients, self.params, self.moments)


def _move(kernel, momentum, rate, gradient, weight, velocity):
    kernel(weight, velocity, rate, gradient, momentum)
    return True


_update = ops.MultitypeFuncGraph("adamw_update")


@_update.register("Function", *("Tensor",) * 4, "Number", *("Tensor",) * 5)
def _update_one(kernel, beta1, beta2, eps, stretch, decay, rate, weight, first, second, gradient):
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
        groups: see `parameter_groups`.
        learning_rate, betas, eps: as usual.
    """

    def __init__(self, groups: list[dict], learning_rate: float, betas: Sequence[float], eps: float):
        super().__init__(learning_rate, _for_mindspore(groups))
        self.decays, self.factors = _each(groups, "weight_decay"), _each(groups, "rate_factor")
        self.beta1, self.beta2 = Tensor(betas[0], ms.float32), Tensor(betas[1], ms.float32)
        self.eps = eps
        self.steps = Parameter(Tensor(0.0, ms.float32), name="steps")
        self.exp_avg = self.parameters.clone(prefix="exp_avg", init="zeros")
        self.exp_avg_sq = self.parameters.clone(prefix="exp_avg_sq", init="zeros")
        self.kernel = ops.AdamWeightDecay()

    def construct(self, gradients):
        step = ops.assign_add(self.steps, Tensor(1.0, ms.float32))
        return self._moved(gradients, step, self.learning_rate, self.beta1, self.beta2)

    def masked(self, gradients, finite: Tensor):
        """As ``construct``, and without a condition; where not ``finite`` (a bool) everything stays what it is."""
        keep = finite.astype(ms.float32)
        step = ops.assign_add(self.steps, keep) + (1 - keep)
        betas = [beta * keep + (1 - keep) for beta in (self.beta1, self.beta2)]
        return self._moved(finite_or_zero(finite, gradients), step, self.learning_rate * keep, *betas)

    def _moved(self, gradients, step, rate, beta1, beta2):
        second = ops.sqrt(1 - ops.pow(self.beta2, step))
        stretch = (1 - ops.pow(self.beta1, step)) / second  # rate / rate', which may be 0 both
        rates = _rates(rate / stretch, self.factors)
        update = ops.partial(_update, self.kernel, beta1, beta2, self.eps * second, stretch)
        return self.map_(update, self.decays, rates, self.parameters, self.exp_avg, self.exp_avg_sq, gradients)


def build_optimizer(net: nn.Cell, config: OptimConfig) -> nn.Cell:
    """SGD with momentum, or AdamW; called as ``optimizer(gradients)`` in the order of ``optimizer.parameters``."""
    groups = parameter_groups(net, config.weight_decay, config.layer_decay)
    if config.name == "sgd":
        return Momentum(groups, config.lr, config.momentum)
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


def total_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """How many steps a run takes.

    Raises:
        UserError: it would end within its warm-up.
    """
    steps = config.iterations or config.epochs * steps_per_epoch
    if _warmup_steps(config, steps_per_epoch) > steps:
        name = "warmup_epochs" if config.warmup_iterations is None else "warmup_iterations"
        raise UserError(f"optim.{name}={getattr(config, name)}: longer than the {steps} steps of the run; shorten it")
    return steps


def _warmup_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    if config.warmup_iterations is not None:
        return config.warmup_iterations
    return round(config.warmup_epochs * steps_per_epoch)


def learning_rate(step: int, config: OptimConfig, steps_per_epoch: int, global_batch: int) -> float:
    """The rate of step number ``step`` (from 0): a line up from ``warmup_start * lr``, then ``config.schedule``.

    A cosine or a power of what is left, both from the end of the warm-up to ``min_lr``; or steps down at the
    milestones, which count from the beginning.
    """
    scale = global_batch / config.lr_reference_batch if config.lr_reference_batch else 1.0
    peak, least = config.lr * scale, config.min_lr * scale
    warmup_steps = _warmup_steps(config, steps_per_epoch)
    if step < warmup_steps:
        return peak * (config.warmup_start + (1 - config.warmup_start) * step / warmup_steps)
    if config.schedule == "step":
        unit = 1 if config.iterations else steps_per_epoch
        return max(least, peak * config.gamma ** sum(step >= stone * unit for stone in config.milestones))
    total = config.iterations or config.epochs * steps_per_epoch
    progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    if config.schedule == "poly":
        return least + (peak - least) * (1 - progress) ** config.power
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * progress))
