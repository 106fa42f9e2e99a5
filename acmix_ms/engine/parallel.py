"""What the processes of a group do together: mean gradients, one set of weights, sums over all ranks.

A process alone takes part in nothing: every function then leaves or gives back what it was given.

AllReduce (sum), AllGather and Broadcast are all the collectives used, because CPU has no others.

BatchNorm: in training each device normalises with the statistics of its own images, unless ``train.sync_bn=true``. The
running statistics are averaged over the ranks before every validation and every saving (`average`), so that all ranks
validate the net that is saved, and every image has a part in it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import communication, nn, ops

from acmix_ms import runtime
from acmix_ms.engine.finetune import NORMS, is_frozen
from acmix_ms.errors import UserError


def build_mean(parameters: Sequence[ms.Parameter]) -> Callable:
    """``(loss, its terms by name, gradients of the parameters)`` to the same, the means over all ranks; may stand in a
    graph.
    """
    size = runtime.world_size()
    if size == 1:
        return lambda loss, terms, gradients: (loss, terms, gradients)
    group = communication.GlobalComm.WORLD_COMM_GROUP
    mean_gradients = nn.DistributedGradReducer(parameters, mean=True, degree=size, group=group)
    total = ops.AllReduce(ops.ReduceOp.SUM, group)

    def scalar(value):
        return total(value.reshape((1,))).reshape(()) / size

    def mean(loss, terms, gradients):
        return scalar(loss), {name: scalar(term) for name, term in terms.items()}, mean_gradients(gradients)

    return mean


def build_agreement() -> Callable:
    """``flag -> flag``, a bool tensor of one value: whether it holds on every rank; may stand in a graph.

    Where chips saturate, finiteness is told by a register of each device: without this, ranks that share their
    gradients would not share the verdict, and some would skip a step that others take.
    """
    size = runtime.world_size()
    if size == 1:
        return lambda flag: flag
    total = ops.AllReduce(ops.ReduceOp.SUM, communication.GlobalComm.WORLD_COMM_GROUP)
    return lambda flag: total(flag.astype(ms.float32).reshape((1,))).reshape(()) > size - 0.5


def broadcast(parameters: Iterable[ms.Parameter]) -> None:
    """Give every rank the values of rank 0."""
    if runtime.world_size() == 1:
        return
    send = ops.Broadcast(0, communication.GlobalComm.WORLD_COMM_GROUP)
    for parameter in parameters:
        value = parameter.asnumpy()
        received = send((ms.Tensor(np.atleast_1d(value)),))[0].asnumpy()
        runtime.assign(parameter, received.reshape(value.shape))


def gather(values: Sequence[float]) -> np.ndarray:
    """The values of all ranks, (size, n) float64: the same on each, so that all decide the same from it.

    Exact for whole numbers up to 2**48: they travel in two float32 parts, as no device sends float64.
    """
    values = np.asarray(values, np.float64)
    if runtime.world_size() == 1:
        return values[None]
    upper = values.astype(np.float32)
    lower = (values - upper).astype(np.float32)
    collect = ops.AllGather(communication.GlobalComm.WORLD_COMM_GROUP)
    parts = collect(ms.Tensor(np.stack([upper, lower])[None])).asnumpy().astype(np.float64)  # (size, 2, n)
    return parts.sum(axis=1)


def gather_bytes(data: bytes) -> list[bytes]:
    """What each rank gave, by rank; of any lengths."""
    if runtime.world_size() == 1:
        return [data]
    lengths = gather((len(data),))[:, 0].astype(int)
    words = -(-max(int(lengths.max()), 1) // 4)  # all send as much, in whole numbers of 32 bits
    padded = np.frombuffer(data.ljust(4 * words, b"\0"), "<i4")
    collect = ops.AllGather(communication.GlobalComm.WORLD_COMM_GROUP)
    received = collect(ms.Tensor(padded[None], ms.int32)).asnumpy()  # (size, words)
    return [row.astype("<i4").tobytes()[:length] for row, length in zip(received, lengths)]


def gather_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of each rank, by rank, to the last bit; of any shapes."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    found = []
    for data in gather_bytes(file.getvalue()):
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            found.append(dict(loaded))
    return found


def statistics(net: nn.Cell) -> list[ms.Parameter]:
    """The running statistics of every BatchNorm that is not frozen."""
    cells = [cell for _, cell in net.cells_and_names() if isinstance(cell, NORMS) and not is_frozen(cell)]
    return [parameter for cell in cells for parameter in (cell.moving_mean, cell.moving_variance)]


def average(parameters: Iterable[ms.Parameter]) -> None:
    """Make each the mean over all ranks."""
    size = runtime.world_size()
    if size == 1:
        return
    total = ops.AllReduce(ops.ReduceOp.SUM, communication.GlobalComm.WORLD_COMM_GROUP)
    for parameter in parameters:
        runtime.assign(parameter, total(ms.Tensor(parameter.asnumpy())).asnumpy() / size)


def synchronise_norms(net: nn.Cell) -> None:
    """Put `nn.SyncBatchNorm` in place of every BatchNorm2d: statistics over the images of all ranks.

    The parameters stay the same objects, with the same names.

    Raises:
        UserError: not on Ascend, for which alone MindSpore has it.
    """
    device = ms.get_context("device_target")
    if device != "Ascend":
        raise UserError(
            f"train.sync_bn=true: MindSpore synchronises BatchNorm on Ascend only, not on {device}; leave it out"
        )
    if runtime.world_size() == 1:
        return
    names = {id(parameter): parameter.name for parameter in net.get_parameters()}
    for _, parent in list(net.cells_and_names()):
        for position, (name, cell) in enumerate(list(parent.name_cells().items())):
            if type(cell) is not nn.BatchNorm2d:
                continue
            if isinstance(parent, (nn.SequentialCell, nn.CellList)):
                parent[position] = _synchronised(cell)
            else:
                setattr(parent, name, _synchronised(cell))
    for parameter in net.get_parameters():  # a Cell that is put into another renames its parameters
        parameter.name = names[id(parameter)]


def _synchronised(norm: nn.BatchNorm2d) -> nn.Cell:
    # BatchNorm2d keeps the share of the new value as its momentum, and takes that of the old one.
    made = nn.SyncBatchNorm(
        norm.num_features, norm.eps, 1 - norm.momentum, use_batch_statistics=norm.use_batch_statistics
    )
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        made.insert_param_to_cell(name, getattr(norm, name), check_name_contain_dot=False)
    return made
