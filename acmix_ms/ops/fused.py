"""Deploy forms of the operators: what `acmix_ms.ops.fuse` puts in their place. For evaluation only.

Softmax weights sum to 1 and do not change when all logits of a query move by the same amount. So the key's bias and
that of the position projection vanish, and the value's bias becomes a constant of the output. alpha, beta and a
BatchNorm that follows are folded into the weights of both paths. Letters as in `functional` and `fold`.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from acmix_ms.ops import fold, inputs, kernels
from acmix_ms.ops import functional as F
from acmix_ms.ops.fold import Costs, array, parameter
from acmix_ms.ops.neighborhood import aggregate, attend, neighborhood_attention, unfold


def size_of(cell: nn.Cell) -> int:
    """Numbers in the parameters of a Cell, without running statistics."""
    return sum(value.size for value in cell.get_parameters() if ".moving_" not in f".{value.name}")


class ConvPath(nn.Cell):
    """The convolution path with everything folded: a map (B, S, H, W) -> (B, C, Ho, Wo).

    Three forms compute the same: ``"dense"`` reads the operator's input with one dense convolution, ``"grouped"`` the
    projections q, k, v with one group convolution, ``"factored"`` the same in the two steps of the train form.

    Args:
        form: see above.
        weight: (C, S, k, k), (C, 3N, k, k) or (C, k*k, k, k).
        groups: 1, or d.
        stride, dilation: as of the operator.
        border: (C, k, k) kernel of the biases that enter before the zero padding, or None. Their share is a map that
            depends on sizes only: this kernel over a map of ones.
        offset: (C,) to be added to the output, or None.
        order: (S',) channels of the input to gather first, or None.
        fc: (weight (k*k, 3N), bias (k*k,) or None) of the fully connected layer of ``"factored"``.
        constants: compute what depends on sizes only when the graph is compiled, instead of at each run.
    """

    def __init__(
        self, form, weight, groups, stride, dilation, border=None, offset=None, order=None, fc=None, constants=False
    ):
        super().__init__()
        self.form, self.groups, self.stride, self.dilation = form, groups, stride, dilation
        self.weight = parameter(weight, "weight")
        self.has_border = border is not None and bool(np.any(border))
        self.has_offset = offset is not None
        self.has_constant = self.has_border and constants
        if self.has_constant:
            self.constant = numbers(border), numbers(np.zeros(len(weight)) if offset is None else offset)
            self.has_border = self.has_offset = False
        if self.has_border:
            self.border = parameter(border[:, None], "border")  # (C, 1, k, k)
        if self.has_offset:
            self.offset = parameter(offset, "offset")
        self.order = None if order is None else Tensor(np.asarray(order, np.int32))
        self.has_fc, self.has_fc_bias = fc is not None, fc is not None and fc[1] is not None
        if self.has_fc:
            self.fc_weight = parameter(fc[0][:, :, None, None], "fc_weight")  # (k*k, 3N, 1, 1)
        if self.has_fc_bias:
            self.fc_bias = parameter(fc[1], "fc_bias")

    def construct(self, x: Tensor) -> Tensor:
        if self.order is not None:
            x = ops.gather(x, self.order, 1)
        if self.has_fc:
            x = F.mix_features(x, self.fc_weight, self.fc_bias if self.has_fc_bias else None)  # (B, d*k*k, H, W)
        return self.shift_and_sum(x)

    def shift_and_sum(self, x: Tensor) -> Tensor:
        """The convolution with what is added to it."""
        bias = self.offset if self.has_offset and not self.has_border else None
        y = F.group_shift(x, self.weight, self.groups, self.stride, self.dilation, bias)
        if self.has_constant:
            return y + border_constant(*self.constant, self.stride, self.dilation, x.shape[2], x.shape[3], y.dtype)
        if self.has_border:
            ones = ops.ones((1, 1, x.shape[2], x.shape[3]), x.dtype)
            constant = F.group_shift(ones, self.border, 1, self.stride, self.dilation)  # (1, C, Ho, Wo)
            if self.has_offset:
                constant = kernels.add_channels(constant, self.offset)
            return kernels.add_rows(y, constant)
        return y

    def work(self, given: tuple, out: tuple) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        taps, dim = self.weight.shape[2] * self.weight.shape[3], self.groups
        macs, pieces = np.prod(out) * np.prod(self.weight.shape[1:]), []
        params = size_of(self)
        if self.has_fc:
            pixels, maps = given[0] * given[2] * given[3], self.fc_weight.size
            bias = taps * dim * pixels if self.has_fc_bias else 0
            pieces.append({"kind": "fc", "stage": "II", "macs": maps * dim * pixels, "bias": bias})
        if self.has_border:
            pieces.append({"kind": "border", "stage": "II", "macs": taps * int(np.prod(out[1:]))})
        kind = f"conv{self.weight.shape[2]}x{self.weight.shape[3]}" if self.form == "dense" else "shift"
        return [*pieces, {"kind": kind, "stage": "II", "macs": int(macs), "params": params}]


def numbers(values: np.ndarray) -> tuple:
    """As tuples in tuples, which a graph takes as constants."""
    return tuple(map(numbers, values)) if values.ndim else float(values)


@ops.constexpr
def border_constant(border, offset, stride, dilation, height, width, dtype):
    """(1, C, Ho, Wo): ``border`` (C, k, k) over a map of ones, zero outside, and ``offset`` (C,). Made when the graph
    is compiled.
    """
    border, offset = np.array(border), np.array(offset)
    inside = np.pad(np.ones((height, width)), dilation * (border.shape[1] // 2))
    rows, columns = -(-height // stride), -(-width // stride)
    total = np.zeros((len(border), rows, columns)) + offset[:, None, None]
    for i in range(border.shape[1]):
        for j in range(border.shape[2]):
            seen = inside[i * dilation :, j * dilation :][: (rows - 1) * stride + 1, : (columns - 1) * stride + 1]
            total += border[:, i, j, None, None] * seen[::stride, ::stride]
    return Tensor(total[None].astype(np.float32), dtype)


@ops.constexpr
def position_constant(weight, height, width, dtype):
    """(H*W, d): what the positions take from the keys, where ``weight`` (d, 2) projects the grid. Made when the graph
    is compiled.
    """
    grid = F.grid(height, width).reshape(2, -1)
    return Tensor(-(np.array(weight) @ grid).T.astype(np.float32), dtype)


def conv_path(
    cell,
    form: str,
    projection: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray,
    *,
    offset: np.ndarray | None = None,
    factors: np.ndarray | None = None,
    order: np.ndarray | None = None,
    interleaved: bool = False,
) -> ConvPath:
    """The convolution path of an operator in one of `fold.FORMS`.

    Args:
        cell: the operator, with ``fc``, ``dep_conv``, ``num_heads``, ``stride``, ``dilation``.
        form: what to build.
        projection: (3C, Cin), the rows of q, k and v; bias: (3C,) or None. ``"dense"`` folds both; the other forms
            expect maps that have the bias already.
        scale: (C,) of the output: beta and a BatchNorm.
        offset: (C,) to be added to the output.
        factors: (3C,) what the maps that are handed over were multiplied by.
        order: (3C,) which channel of the maps handed over is each of q, k and v, where some serve several times.
        interleaved: the maps come in the order of `interleaving`, as ``"grouped"`` reads them; and what depends on
            sizes only is a constant of the graph.
    """
    channels, heads = len(scale), cell.num_heads
    dim, maps = channels // heads, 3 * heads
    common = {"stride": cell.stride, "dilation": cell.dilation, "offset": offset, "constants": interleaved}
    if form == "factored":
        fc = array(cell.fc.weight)[:, :, 0, 0]
        if factors is not None:
            fc = fc / factors.reshape(maps, dim)[:, 0]  # alike for all channels of a head
        fc_bias = array(cell.fc.bias) if cell.fc.has_bias else None
        weight = fold.shift_weight(cell, channels) * scale.reshape(-1, 1, 1, 1)
        return ConvPath(form, weight, dim, order=order, fc=(fc, fc_bias), **common)

    kernel, border = fold.fold_fc(cell, channels)
    kernel, border = kernel * scale.reshape(-1, 1, 1, 1), border * scale.reshape(-1, 1, 1)
    if form == "dense":
        if bias is not None:
            border = border + fold.fold_projection(kernel, bias[:, None])[:, 0]
        return ConvPath(form, fold.fold_projection(kernel, projection), 1, border=border, **common)
    if factors is not None:
        kernel = kernel / factors.reshape(maps, dim)[:, 0].reshape(1, -1, 1, 1)
    if interleaved:
        return ConvPath(form, kernel, dim, border=border, **common)
    found = interleaving(maps, dim)
    return ConvPath(form, kernel, dim, border=border, order=found if order is None else order[found], **common)


def interleaving(maps: int, dim: int) -> np.ndarray:
    """(3C,): head last. Group i of a group convolution reads map m of channel-in-head i, which stands at m*d + i."""
    return np.arange(maps * dim).reshape(maps, dim).T.reshape(-1)


def projections(cell) -> tuple[np.ndarray, np.ndarray]:
    """Weight (rows, Cin) and bias (rows,) of q, k and v, one below the other, of an operator on maps."""
    parts = (cell.conv1, cell.conv2, cell.conv3)
    return np.concatenate([array(p.weight)[:, :, 0, 0] for p in parts]), np.concatenate([array(p.bias) for p in parts])


class FusedACmix(nn.Cell):
    """Deploy form of `ACmix`, with a BatchNorm that follows it: (B, Cin, H, W) -> (B, C, Ho, Wo).

    Args:
        cell: the operator.
        norm: the BatchNorm2d, or None.
        costs: of the backend, see `fold.costs_of`.
    """

    def __init__(self, cell, norm: nn.BatchNorm2d | None, costs: Costs):
        super().__init__()
        channels, self.num_heads = cell.out_channels, cell.num_heads
        self.in_channels, self.out_channels = cell.in_channels, channels
        self.stride, self.dilation = cell.stride, cell.dilation
        self.attn_kernel_size, self.backend = cell.attn_kernel_size, cell.backend
        self.has_attention, self.has_conv = cell.mix != "conv", cell.mix != "attention"
        alpha, beta = fold.rates(cell)
        scale, shift = fold.affine(norm, channels)
        weight, bias = projections(cell)  # (3C, Cin), (3C,)
        form = fold.form_of(cell, costs, cell.in_channels, channels, stride=cell.stride)
        # The other forms read q, k, v as they are, so that what belongs to the attention alone comes after it.
        self.own_projection = form == "dense"
        self.interleaved = fold.interleaves(costs) and form != "factored"
        factors = None
        offset = shift
        if self.own_projection:
            offset = shift + alpha * scale * bias[2 * channels :]
        if self.interleaved and self.has_attention:  # q comes scaled
            factors = np.ones(3 * channels)
            factors[:channels] = (channels // self.num_heads) ** -0.5
        if self.has_conv:
            self.conv = conv_path(
                cell,
                form,
                weight,
                bias,
                beta * scale,
                offset=offset,
                factors=factors,
                interleaved=self.interleaved,
            )
        else:
            self.offset = parameter(offset, "offset")
        if factors is not None:
            weight, bias = weight * factors[:, None], bias * factors
        if self.has_attention:
            if self.interleaved:
                self.position = numbers(array(cell.conv_p.weight)[:, :, 0, 0])
            else:
                self.position = parameter(array(cell.conv_p.weight), "position")  # (d, 2, 1, 1)
            if self.own_projection:
                weight[2 * channels :] *= (alpha * scale)[:, None]
                bias = bias[:channels]  # only that of q matters
            else:
                self.gain = parameter(alpha * scale, "gain")
        if self.has_attention or not self.own_projection:
            if self.interleaved:
                found = interleaving(3 * self.num_heads, channels // self.num_heads)
                weight, bias = weight[found], bias if self.own_projection else bias[found]
            self.weight = parameter(weight[:, :, None, None], "weight")
            self.bias = parameter(bias, "bias")

    def construct(self, x: Tensor) -> Tensor:
        inputs.check_map(self.cls_name, x, self.in_channels)
        if not self.has_attention and self.own_projection:
            return self.conv(x)
        qkv = F.project(x, self.weight, None if self.own_projection else self.bias)  # (B, 3C, H, W)
        if not self.has_attention:
            return self.conv(qkv)
        if self.interleaved:
            return self._interleaved(x, qkv)
        q, k, v = ops.split(qkv, self.out_channels, 1)
        if self.own_projection:
            q = kernels.add_channels(q, self.bias)
        # The grid and its projection stay in float32, as in the train form.
        position = F.project(F.position_grid(x.shape[2], x.shape[3]), self.position, None)  # (1, d, H, W)
        attention = neighborhood_attention(
            q, k, v, position, self.num_heads, self.attn_kernel_size, self.stride, self.dilation, self.backend
        )
        return self._mixed(x, qkv, attention)

    def _interleaved(self, x: Tensor, qkv: Tensor) -> Tensor:
        """From projections whose channel i*3N + m is channel i of map m: all of them are transposed at once."""
        heads, dim = self.num_heads, self.out_channels // self.num_heads
        height, width = x.shape[2], x.shape[3]
        rows = ops.transpose(qkv.reshape(-1, dim, 3 * heads, height * width), (0, 2, 3, 1))  # (B, 3N, H*W, d)
        q, k, v = ops.split(rows, heads, 1)
        if self.own_projection:
            q = q + self.bias.astype(q.dtype).reshape(heads, 1, dim)
        k = k + position_constant(self.position, height, width, k.dtype)
        shape, options = (-1, height * width, dim), (self.attn_kernel_size, self.stride, self.dilation, self.backend)
        q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)
        return self._mixed(x, qkv, attend(q, k, v, heads, (height, width), *options))

    def _mixed(self, x: Tensor, qkv: Tensor, attention: Tensor) -> Tensor:
        """The two paths together, from the input and the projections."""
        if not self.own_projection:
            return kernels.scale_and_add(attention, self.gain, self.conv(qkv))
        if self.has_conv:
            return attention + self.conv(x)
        return kernels.add_channels(attention, self.offset)

    def work(self, given: tuple, out: tuple) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        batch, in_channels, height, width = given
        channels, pixels, pieces = self.out_channels, batch * height * width, []
        source = given if self.own_projection else (batch, 3 * channels, height, width)
        if self.has_attention or not self.own_projection:
            params, bias = self.weight.size + self.bias.size, self.bias.size * pixels
            macs = 3 * in_channels * channels * pixels
            pieces.append({"kind": "project", "stage": "I", "macs": macs, "bias": bias, "params": params})
        if self.has_attention:
            window = batch * self.attn_kernel_size**2 * channels * out[2] * out[3]
            own = 0 if self.own_projection else self.gain.size
            own += 0 if self.has_conv else self.offset.size
            pieces.append({"kind": "attention", "stage": "II", "macs": 2 * window, "position": window, "params": own})
            if not self.interleaved:
                grid, size = self.position.size * height * width, self.position.size
                pieces.append({"kind": "position", "stage": "rest", "macs": 0, "position": grid, "params": size})
        return pieces + (self.conv.work(source, out) if self.has_conv else [])


class FusedPatchwise(nn.Cell):
    """Deploy form of `PatchwiseACmix`, with a BatchNorm that follows it: (B, Cin, H, W) -> (B, m, Ho, Wo).

    The weights of a window are no softmax: they do not sum to 1, so the value keeps its bias, scaled.

    Args:
        cell: the operator, with the BatchNorm inside of ``conv_w`` that follows a convolution folded already.
        norm: the BatchNorm2d behind the operator, or None.
        costs: of the backend, see `fold.costs_of`.
    """

    def __init__(self, cell, norm: nn.BatchNorm2d | None, costs: Costs):
        super().__init__()
        channels, rel = cell.out_channels, cell.rel_channels
        self.in_channels, self.out_channels = cell.in_channels, channels
        self.rel_channels, self.share_channels = rel, cell.share_channels
        self.stride, self.dilation, self.attn_kernel_size = cell.stride, cell.dilation, cell.attn_kernel_size
        self.has_attention, self.has_conv = cell.mix != "conv", cell.mix != "attention"
        alpha, beta = fold.rates(cell)
        scale, shift = fold.affine(norm, channels)
        weight, bias = projections(cell)  # (2r + m, Cin), (2r + m,)
        # A dense convolution reads the projections where they are fewer than what they are made from.
        reads_maps = cell.mix not in ("attention", "conv") and len(weight) < cell.in_channels
        given = len(weight) if reads_maps else cell.in_channels
        form = fold.form_of(cell, costs, given, channels, stride=cell.stride)
        self.own_projection = form == "dense" and not reads_maps
        if self.has_conv:
            copied = np.arange(channels) // (channels // rel)  # q and k repeated to the channels of v
            order = np.concatenate([copied, rel + copied, 2 * rel + np.arange(channels)])
            self.conv = conv_path(
                cell,
                form,
                np.eye(len(weight))[order] if reads_maps else weight[order],
                None if reads_maps else bias[order],
                beta * scale,
                offset=shift,
                order=None if form == "dense" else order,
            )
        else:
            self.offset = parameter(shift, "offset")
        if self.has_attention:
            self.conv_w = cell.conv_w
            if self.own_projection:
                weight[2 * rel :] *= (alpha * scale)[:, None]
                bias[2 * rel :] *= alpha * scale
            else:
                self.gain = parameter(alpha * scale, "gain")
        if self.has_attention or not self.own_projection:
            self.weight = parameter(weight[:, :, None, None], "weight")
            self.bias = parameter(bias, "bias")

    def construct(self, x: Tensor) -> Tensor:
        inputs.check_map(self.cls_name, x, self.in_channels)
        if not self.has_attention and self.own_projection:
            return self.conv(x)
        qkv = F.project(x, self.weight, self.bias)  # (B, 2r + m, H, W)
        if not self.has_attention:
            return self.conv(qkv)
        rel = self.rel_channels
        q, k, v = qkv[:, :rel], qkv[:, rel : 2 * rel], qkv[:, 2 * rel :]
        keys = unfold(k, self.attn_kernel_size, self.stride, self.dilation)  # (B, r*k*k, Ho, Wo)
        weights = self.conv_w(ops.cat((F.subsample(q, self.stride), keys), 1)).astype(v.dtype)
        attention = aggregate(v, weights, self.attn_kernel_size, self.stride, self.dilation)  # (B, m, Ho, Wo)
        if not self.own_projection:
            return kernels.scale_and_add(attention, self.gain, self.conv(qkv))
        if self.has_conv:
            return attention + self.conv(x)
        return kernels.add_channels(attention, self.offset)

    def work(self, given: tuple, out: tuple) -> list[dict]:
        """Pieces of work for `acmix_ms.analysis.complexity`."""
        batch, in_channels, height, width = given
        pixels, out_pixels, pieces = batch * height * width, batch * out[2] * out[3], []
        maps = 2 * self.rel_channels + self.out_channels
        source = given if self.own_projection else (batch, 3 * self.out_channels, height, width)
        if self.has_attention or not self.own_projection:
            params, macs = self.weight.size + self.bias.size, in_channels * maps * pixels
            pieces.append({"kind": "project", "stage": "I", "macs": macs, "bias": maps * pixels, "params": params})
        if self.has_attention:
            taps, weights = self.attn_kernel_size**2, self.out_channels // self.share_channels
            macs = (self.rel_channels * (taps + 1) * weights + weights * weights * taps) * out_pixels
            bias, params = (taps + 1) * weights * out_pixels, size_of(self.conv_w)
            pieces.append({"kind": "weights", "stage": "II", "macs": macs, "bias": bias, "params": params})
            own = 0 if self.own_projection else self.gain.size
            own += 0 if self.has_conv else self.offset.size
            macs = taps * self.out_channels * out_pixels
            pieces.append({"kind": "attention", "stage": "II", "macs": macs, "params": own})
        return pieces + (self.conv.work(source, out) if self.has_conv else [])
