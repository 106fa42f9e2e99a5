"""Losses: of classification, for labels that name a class or share an image between classes; of nets with their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

# ``loss(net, images, *targets) -> (scalar, {name: scalar})``: what is minimised, and its named terms, which are logged
# (none where there is only one). Stands in the compiled step.
Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def classification(label_smoothing: float = 0.0) -> Loss:
    """`cross_entropy` of the logits of a net, without further terms."""

    def loss(net: nn.Cell, images: Tensor, labels: Tensor):
        return cross_entropy(net(images), labels, label_smoothing), {}

    return loss


def by_name(names: Sequence[str]) -> Loss:
    """The sum of what a net gives when it is called with targets: losses of these ``names``."""

    def loss(net: nn.Cell, images: Tensor, *targets: Tensor):
        total, terms = 0.0, {}
        for name, term in zip(names, net(images, *targets)):
            total, terms[name] = total + term, term
        return total, terms

    return loss


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in float32, under ``ms.jit`` as well as in PyNative mode.

    Args:
        logits: (B, classes), any float type.
        labels: (B,) int32, or (B, classes) shares that sum to 1, as mixup and cutmix make them.
        label_smoothing: s in ``(1 - s) * share + s / classes``.

    Returns:
        a scalar.

    Raises:
        ValueError: shares of another shape than the logits.
    """
    logits = logits.astype(ms.float32)
    if labels.ndim == 1:
        return ops.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if labels.shape != logits.shape:
        raise ValueError(f"labels {labels.shape}: must be (B,) or the shape of the logits, {logits.shape}")
    shares = labels.astype(ms.float32)
    shares = (1 - label_smoothing) * shares + label_smoothing / logits.shape[1]
    return -(shares * ops.log_softmax(logits, -1)).sum(-1).mean()
