"""Where a pixel looks: the attention weights of one query, for every form of the operator.

The input of an operator is caught on its way through the network; the weights of the query are then computed from the
operator's own parameters, on their own, in NumPy. Letters: N heads, d channels per head, H x W the map of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn

from acmix_ms.errors import UserError, closest
from acmix_ms.ops import ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, kernels
from acmix_ms.ops import functional as F
from acmix_ms.ops.neighborhood import reflect_index

OVERVIEW = 4  # layers in one picture
OPERATORS = (ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix)


@dataclass(frozen=True)
class Attention:
    """What one query looks at.

    ``weights`` (N, H, W): of each head on the map of the keys, a tap that mirroring sends to a pixel counted there.
    They sum to 1 for each head, together with ``class_weights`` (N,), the share of a class token where there is one.
    SAN's patchwise weights are ``signed`` and sum to anything; N is then the number of its weight groups.
    ``query`` is the (row, column) of the query on the map of the queries, which has ``query_size``.
    """

    weights: np.ndarray
    query: tuple[int, int]
    query_size: tuple[int, int]
    class_weights: np.ndarray | None = None
    signed: bool = False

    def map(self) -> np.ndarray:
        """One (H, W) map that sums to 1: the mean over heads; of signed weights the mean of their magnitudes."""
        mean = np.abs(self.weights).mean(0)
        return mean / max(mean.sum(), np.finfo(mean.dtype).tiny)


def attention_layers(net: nn.Cell) -> dict[str, nn.Cell]:
    """Every operator of ``net`` that has an attention path, by its name, in the order of the network."""
    return {n: c for n, c in net.cells_and_names() if isinstance(c, OPERATORS) and c.mix != "conv"}


def overview(net: nn.Cell, image: np.ndarray) -> tuple[tuple[int, int], dict[str, Attention]]:
    """Where the middle of an image looks, in the last operator of each of the last stages that have one.

    Returns:
        the pixel, and the attention by layer; see `attention_of`, whose conditions hold.

    Raises:
        UserError: no operator of the net has attention.
    """
    layers = list(attention_layers(net))
    if not layers:
        raise UserError(f"a {type(net).__name__} without attention has none to draw")
    stages = [tuple(prefix for layer in stage for prefix in layer) for stage in getattr(net, "stages", ())]
    last = [[name for name in layers if name.startswith(stage)][-1:] for stage in stages]
    chosen = sum(last, [])[-OVERVIEW:] or layers[-OVERVIEW:]
    middle = image.shape[1] // 2, image.shape[2] // 2
    return middle, {name: attention_of(net, image, name, middle) for name in chosen}


def attention_of(net: nn.Cell, image: np.ndarray, layer: str, pixel: tuple[int, int]) -> Attention:
    """The attention of one pixel in one layer. Runs ``net`` once; PyNative mode, because graphs have no hooks.

    Args:
        net: a network in evaluation mode.
        image: (3, height, width), normalised as in training.
        layer: a name of `attention_layers`.
        pixel: (row, column) in the image; the query is the place of the layer's map that covers it.

    Raises:
        UserError: no such layer, or a pixel outside the image.
    """
    layers = attention_layers(net)
    if layer not in layers:
        raise UserError(f"layer {layer!r}: {closest(layer, layers) if layers else 'this model has no attention'}")
    height, width = image.shape[1:]
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise UserError(f"pixel {pixel[0]} {pixel[1]} is outside the image of {height}x{width}")
    cell = layers[layer]
    block = dict(net.cells_and_names()).get(layer.rpartition(".")[0])
    (inputs, outer) = _catch(net, image, cell, block)

    def place(size: tuple[int, int]) -> tuple[int, int]:
        return pixel[0] * size[0] // height, pixel[1] * size[1] // width

    if isinstance(cell, WindowACmix):
        # Swin pads and rolls the map before the operator sees it; the block around it knows how far.
        size = outer[0].shape[1:3] if outer else inputs[0].shape[1:3]
        window = getattr(block, "window_size", 0)
        shift = getattr(block, "shift_size", 0) if min(size) > window else 0
        return window_attention(cell, inputs[0], inputs[1] if len(inputs) > 1 else None, place(size), size, shift)
    if isinstance(cell, SpatialReductionACmix):
        return global_attention(cell, *inputs, place(inputs[1:3]))
    size = tuple(-(-side // cell.stride) for side in inputs[0].shape[2:])
    compute = sliding_attention if isinstance(cell, ACmix) else patchwise_attention
    return compute(cell, inputs[0], place(size))


def _catch(net: nn.Cell, image: np.ndarray, *cells: nn.Cell | None) -> list[tuple]:
    """The inputs that each of ``cells`` gets while ``net`` looks at the image; empty for None."""
    caught: dict[int, tuple] = {}
    handles = []
    for index, cell in enumerate(cells):
        if cell is not None:

            def keep(_, inputs, index=index):
                caught[index] = inputs

            handles.append(cell.register_forward_pre_hook(keep))
    try:
        net(Tensor(image[None].astype(np.float32)))
    finally:
        for handle in handles:
            handle.remove()
    return [caught.get(index, ()) for index in range(len(cells))]


# ------------------------------------------------------------------------------------------------------- the forms
def sliding_attention(cell: ACmix, x: Tensor, query: tuple[int, int]) -> Attention:
    """ResNet's form, x (1, Cin, H, W): the neighbourhood of the query, borders mirrored (eq. 9-10)."""
    heads = cell.num_heads
    q, k = (_array(F.project(x, conv.weight, conv.bias)) for conv in (cell.conv1, cell.conv2))  # (1, C, H, W)
    _, channels, height, width = q.shape
    grid = F.position_grid(height, width)
    k = k.reshape(heads, -1, height, width) - _array(F.project(grid, cell.conv_p.weight, cell.conv_p.bias))
    q = q.reshape(heads, -1, height, width)[:, :, query[0] * cell.stride, query[1] * cell.stride]  # (N, d)
    rows, cols = _taps(cell, query, height, width)
    logits = np.einsum("nd,ndij->nij", q, k[:, :, rows][:, :, :, cols]) * (channels // heads) ** -0.5  # (N, k, k)
    weights = _softmax(logits.reshape(heads, -1)).reshape(logits.shape)
    return Attention(_scatter(weights, rows, cols, height, width), query, _strided(cell, height, width))


def patchwise_attention(cell: PatchwiseACmix, x: Tensor, query: tuple[int, int]) -> Attention:
    """SAN's form, x (1, Cin, H, W): weights from linear layers instead of a softmax, so they have signs."""
    q, k = (F.project(x, conv.weight, conv.bias) for conv in (cell.conv1, cell.conv2))
    size, height, width = cell.attn_kernel_size, x.shape[2], x.shape[3]
    weights = _array(cell.window_weights(q, k))[0, :, query[0], query[1]].reshape(-1, size, size)
    rows, cols = _taps(cell, query, height, width)
    weights = _scatter(weights, rows, cols, height, width)
    return Attention(weights, query, _strided(cell, height, width), signed=True)


def window_attention(
    cell: WindowACmix, x: Tensor, mask: Tensor | None, query: tuple[int, int], size: tuple[int, int], shift: int
) -> Attention:
    """Swin's form, x (1, H', W', C) rolled by -shift and padded from ``size``: the query's window, in place again."""
    _, height, width, channels = x.shape
    heads, (window_h, window_w) = cell.num_heads, cell.window_size
    row, col = (query[0] - shift) % height, (query[1] - shift) % width
    top, left = row // window_h * window_h, col // window_w * window_w
    qkv = _array(kernels.linear(x, cell.qkv.weight, cell.qkv.bias if cell.qkv.has_bias else None))[0]  # (H', W', 3C)
    keys = qkv[top : top + window_h, left : left + window_w, channels : 2 * channels].reshape(
        -1, heads, channels // heads
    )
    token = (row - top) * window_w + col - left
    q = qkv[row, col, :channels].reshape(heads, -1)
    logits = np.einsum("nd,tnd->nt", q, keys) * (channels // heads) ** -0.5  # (N, L)
    logits = logits + _array(cell.position_bias())[:, token]
    if mask is not None:
        logits = logits + _array(mask)[top // window_h * (width // window_w) + left // window_w, token]
    weights = np.zeros((heads, height, width))
    weights[:, top : top + window_h, left : left + window_w] = _softmax(logits).reshape(heads, window_h, window_w)
    weights = np.roll(weights, (shift, shift), (1, 2))[:, : size[0], : size[1]]
    return Attention(weights, query, tuple(size))


def global_attention(
    cell: SpatialReductionACmix, x: Tensor, height: int, width: int, query: tuple[int, int]
) -> Attention:
    """PVT's and ViT's form, x (1, L, C): all keys of the (reduced) map, and the class token where there is one."""
    heads, has_class = cell.num_heads, x.shape[1] != height * width
    q = _array(kernels.linear(x, cell.q.weight, cell.q.bias if cell.q.has_bias else None))[0]  # (L, C)
    reduced, low_h, low_w = cell.reduce(x, height, width)
    kv = _array(kernels.linear(reduced, cell.kv.weight, cell.kv.bias if cell.kv.has_bias else None))[0]  # (M, 2C)
    q = q[query[0] * width + query[1] + has_class].reshape(heads, -1)
    k = kv[:, : cell.dim].reshape(len(kv), heads, -1)
    weights = _softmax(np.einsum("nd,mnd->nm", q, k) * (cell.dim // heads) ** -0.5)  # (N, M)
    class_weights = weights[:, 0] if has_class else None
    weights = weights[:, int(has_class) :].reshape(heads, low_h, low_w)
    return Attention(weights, query, (height, width), class_weights)


def _array(x: Tensor) -> np.ndarray:
    return x.asnumpy().astype(np.float64)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _strided(cell: ACmix | PatchwiseACmix, height: int, width: int) -> tuple[int, int]:
    return -(-height // cell.stride), -(-width // cell.stride)


def _taps(cell: ACmix | PatchwiseACmix, query: tuple[int, int], height: int, width: int):
    """Mirrored rows (k,) and columns (k,) of a query's neighbourhood."""
    offsets = cell.dilation * (np.arange(cell.attn_kernel_size) - cell.attn_kernel_size // 2)
    return (
        reflect_index(query[0] * cell.stride + offsets, height),
        reflect_index(query[1] * cell.stride + offsets, width),
    )


def _scatter(weights: np.ndarray, rows: np.ndarray, cols: np.ndarray, height: int, width: int) -> np.ndarray:
    """Weights of taps (N, k, k) on the map they belong to: (N, H, W)."""
    full = np.zeros((len(weights), height, width))
    np.add.at(full, (slice(None), rows[:, None], cols[None, :]), weights)
    return full
