"""Starting from weights of another task: what is taken over, what is drawn anew, resized or frozen.

What has to be known of a net for that, its backbone tells (`acmix_ms.backbone.layout`), be it the net itself or a part.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import nn

from acmix_ms.backbone import layout
from acmix_ms.engine import checkpoint
from acmix_ms.errors import UserError

RELATIVE_TABLE = "relative_position_bias_table"  # (s*s, heads), s = 2 * window - 1, by the last part of the name
CUBIC = -0.75  # the coefficient of the cubic kernel, PyTorch's
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)  # BatchNorm3d has a BatchNorm2d inside


# -------------------------------------------------------------------------------------------------------- weights
def load_initial_weights(net: nn.Cell, path: str | os.PathLike) -> None:
    """Start ``net`` from the weights of ``path``, and tell in a line what was not taken as it is.

    Raises:
        UserError: as `checkpoint.read` and `take_over`; the net is untouched then.
    """
    for line in take_over(net, checkpoint.read(path), path):
        print(line, flush=True)


def load_backbone_weights(net: nn.Cell, path: str | os.PathLike) -> None:
    """Start the backbone of ``net``, a detector, from a classifier's weights; tells what was not taken as it is.

    The classifier is left out and position tables of another size are resized, as in `take_over`.

    Raises:
        UserError: ``net`` is no larger net with a backbone; the file is of a detector; see `load_initial_weights`.
    """
    given, (prefix, backbone) = f"model.backbone_checkpoint={path}", layout(net)[:2]
    if not prefix:
        raise UserError(f"{given}: {type(net).__name__} is not built around a backbone; give model.init_checkpoint")
    saved = checkpoint.read(path)
    if any(name.startswith(prefix) for name in saved.weights):
        raise UserError(f"{given}: the file is of a whole net; give a classifier's, or model.init_checkpoint={path}")
    for line in take_over(backbone, saved, path):
        print(line, flush=True)


def take_over(net: nn.Cell, saved: checkpoint.Checkpoint, path: str | os.PathLike) -> list[str]:
    """Give ``net`` the weights that were read from ``path``; returns lines that say what was not taken as it is.

    A classifier, or the heads of a detector, of another number of classes stay as they were drawn, and a net without a
    classifier (``features_only``) leaves it out. Position embeddings and tables of relative positions of another size
    are resized, see `resize_table`. All else must fit.

    Raises:
        UserError: as `checkpoint.assign_weights`; the net is untouched then.
    """
    weights, said = dict(saved.weights), []
    parameters = {name: parameter.asnumpy() for name, parameter in checkpoint.named_parameters(net).items()}
    classifier = _other_classifier(net, parameters, weights)
    if classifier:
        have, want = (len(values[classifier[0]]) for values in (weights, parameters))
        weights.update({name: parameters[name] for name in classifier})
        if layout(net).prefix:  # rows are not classes
            said.append(f"{', '.join(layout(net).head_names)} of {path} is for other classes: drawn anew")
        else:
            said.append(f"classifier has {have} classes in {path}, {want} here: drawn anew")
    backbone = layout(net).cell
    if backbone is net and backbone.features_only:
        said += _leave_out_classifier(net, parameters, weights, path)
    resized = {}
    for name, parameter in parameters.items():
        tokens = _class_tokens(net, name)
        if tokens is not None and name in weights and _can_resize(weights[name], parameter, tokens):
            resized[name] = resize_table(weights[name], parameter.shape, tokens)
    if resized:
        first = next(iter(resized))
        sides = [f"{side}x{side}" for side in (_side(v[first], _class_tokens(net, first)) for v in (weights, resized))]
        tables = f"{len(resized)} position table{'s' if len(resized) > 1 else ''}"
        said.append(f"{tables} of {path} resized (bicubic), first {first}: {' -> '.join(sides)}")
    checkpoint.assign_weights(net, checkpoint.Checkpoint({**weights, **resized}, {}, saved.meta), path)
    return said


def _leave_out_classifier(net: nn.Cell, parameters: Mapping, weights: dict, path: str | os.PathLike) -> list[str]:
    """Bring the head parts of ``weights`` to those of a backbone: drop what it lacks, keep what it alone has."""
    unused = [name for name in weights if name not in parameters and _of_head(net, name)]
    own = [name for name in parameters if name not in weights and _of_head(net, name)]
    for name in unused:
        del weights[name]
    weights.update({name: parameters[name] for name in own})
    said = [f"features only: {', '.join(unused)} of {path} left out"] if unused else []
    return said + ([f"features only: not in {path} and as drawn: {', '.join(own)}"] if own else [])


def _of_head(net: nn.Cell, name: str) -> bool:
    return belongs(name, layout(net).head_names)


def _other_classifier(net: nn.Cell, parameters: Mapping, weights: Mapping) -> list[str]:
    """Names of the classifier's parameters, if those in ``weights`` differ in the number of classes alone."""
    names = [name for name in parameters if _of_head(net, name)]
    if not all(name in weights and weights[name].ndim and parameters[name].ndim for name in names):
        return []
    counts = {}  # of each layer, whose weight and bias have the same
    for name in names:
        counts.setdefault(name.rpartition(".")[0], set()).add((len(weights[name]), len(parameters[name])))
    same_features = all(weights[name].shape[1:] == parameters[name].shape[1:] for name in names)
    other_classes = all(len(found) == 1 and len(set(*found)) == 2 for found in counts.values())
    return names if same_features and other_classes else []


def _class_tokens(net: nn.Cell, name: str) -> int | None:
    """How many class tokens come first in a position table; None for all other parameters."""
    if name.rpartition(".")[2] == RELATIVE_TABLE:
        return 0
    return layout(net).position_tables.get(name)


def _side(table: np.ndarray, tokens: int) -> int:
    """Side of the square grid that a table is of, 0 where it is of none."""
    count = table.shape[-2] - tokens if table.ndim > 1 else 0
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def _can_resize(table: np.ndarray, wanted: np.ndarray, tokens: int) -> bool:
    """Whether two tables differ in the size of a square grid alone."""
    if table.ndim != wanted.ndim or table.shape[-1] != wanted.shape[-1] or table.shape[:-2] != wanted.shape[:-2]:
        return False
    return table.shape != wanted.shape and _side(table, tokens) > 0 and _side(wanted, tokens) > 0


def resize_table(table: np.ndarray, shape: Sequence[int], tokens: int = 0) -> np.ndarray:
    """A table over a square grid for a grid of another size: (..., tokens + s*s, C) -> ``shape``.

    Bicubic, see `bicubic_matrix`, each channel for itself; the rows of the first ``tokens`` stay as they are. The
    codes of DeiT and PVT do this with position embeddings, that of Swin with the (2w-1)*(2w-1) relative positions.
    """
    rows = table.reshape(-1, table.shape[-1])  # (tokens + s*s, C)
    low, side = _side(rows, tokens), math.isqrt(shape[-2] - tokens)
    matrix, grid = bicubic_matrix(side, low), rows[tokens:].reshape(low, low, -1)
    grid = np.einsum("ik,jl,klc->ijc", matrix, matrix, grid, optimize=True).reshape(side * side, -1)
    return np.concatenate([rows[:tokens], grid.astype(rows.dtype)]).reshape(shape)


def bicubic_matrix(size: int, low: int) -> np.ndarray:
    """Bicubic interpolation of one axis from ``low`` to ``size`` places, as a matrix (size, low) float64.

    PyTorch's ``interpolate(mode="bicubic", align_corners=False)``, which the official codes call: cubic convolution of
    four neighbours with a = -0.75, half-pixel centres, edges repeated, no antialiasing. Pillow's and SciPy's kernels
    are others.
    """
    centre = (np.arange(size) + 0.5) * low / size - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((size, low))
    for neighbour in (first - 1, first, first + 1, first + 2):
        x = np.abs(centre - neighbour)
        near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
        far = CUBIC * (((x - 5) * x + 8) * x - 4)
        np.add.at(matrix, (np.arange(size), np.clip(neighbour, 0, low - 1)), np.where(x <= 1, near, far))
    return matrix


# ---------------------------------------------------------------------------------------------------------- depth
def stages_of(net: nn.Cell, asked: str) -> tuple:
    """The stages of the net's backbone, see `acmix_ms.backbone.Backbone`, with names as they are in the net.

    Raises:
        UserError: it does not tell them; ``asked`` is the option, with its value, that needs them.
    """
    stages = layout(net).stages
    if not stages:
        raise UserError(f"{asked}: {type(net).__name__} does not name its stages; leave it out")
    return stages


def belongs(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a parameter or Cell is one of these, or within one of them."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def freeze(net: nn.Cell, count: int) -> None:
    """Freeze the stem and the first ``count`` stages for good, as mmdetection does; 0 and -1 freeze nothing.

    Their parameters get no gradient, and their Cells stay as in evaluation whatever ``set_train`` says: BatchNorms use
    and keep their running statistics, nothing is dropped.

    Raises:
        UserError: the net has fewer stages, or does not name them.
    """
    if count <= 0:
        return
    stages = stages_of(net, f"model.frozen_stages={count}")
    most = len(stages) - 1
    if count > most:
        raise UserError(
            f"model.frozen_stages={count}: the last stage of {type(net).__name__} is {most}, give 0 to {most}"
        )
    prefixes = [prefix for stage in stages[: count + 1] for layer in stage for prefix in layer]
    before = sum(parameter.size for parameter in net.trainable_params())
    for name, parameter in checkpoint.named_parameters(net).items():
        if belongs(name, prefixes):
            parameter.requires_grad = False
    for name, cell in net.cells_and_names():
        if belongs(name, prefixes):
            _keep_in_evaluation(cell)
    left = sum(parameter.size for parameter in net.trainable_params())
    print(f"frozen: the stem and {count} of {most} stages, {before - left:,} of {before:,} parameters", flush=True)


def keep_statistics(net: nn.Cell) -> None:
    """``norm_eval`` of mmdetection: the BatchNorms of the backbone use and keep their running statistics for good.

    Their weights and biases go on learning. Small batches of large images need it.

    Raises:
        UserError: the net has no backbone, or no BatchNorm in it.
    """
    backbone = layout(net).cell
    norms = [cell for _, cell in backbone.cells_and_names() if isinstance(cell, NORMS)] if backbone else []
    if not norms:
        raise UserError(f"model.norm_eval=true: {type(net).__name__} has no BatchNorm in a backbone; leave it out")
    for norm in norms:
        norm.use_batch_statistics = False


def is_frozen(norm: nn.Cell) -> bool:
    """Whether a BatchNorm keeps its running statistics."""
    return norm.use_batch_statistics is False


def _keep_in_evaluation(cell: nn.Cell) -> None:
    """By options of the Cell, because its parents' ``set_train`` sets ``training`` of all that they hold."""
    if isinstance(cell, NORMS):
        cell.use_batch_statistics = False
    elif isinstance(cell, nn.Dropout):
        cell.p = 0.0
    elif hasattr(cell, "use_draws"):  # stochastic depth
        cell.rate = 0.0
