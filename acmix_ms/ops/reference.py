"""NumPy float64 judge of every form of ACmix: the formulas written out plainly, slow, for tests and verification only.

Parameters come as a dict of arrays under the official names, so that one dict serves the Cell, the official module
and this file.
"""

from __future__ import annotations

import numpy as np


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _pointwise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """1x1 convolution: (B, Cin, ...), (Cout, Cin, 1, 1) -> (B, Cout, ...)."""
    y = np.einsum("oi,bi...->bo...", weight.reshape(weight.shape[:2]), x)
    return y if bias is None else y + bias.reshape(1, -1, *[1] * (x.ndim - 2))


def group_conv(x: np.ndarray, weight: np.ndarray, groups: int, stride: int = 1, dilation: int = 1) -> np.ndarray:
    """Zero-padded "same" group convolution, one tap after the other."""
    out_channels, per_group, kernel, _ = weight.shape
    batch, _, height, width = x.shape
    pad = dilation * (kernel // 2)
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out_h, out_w = -(-height // stride), -(-width // stride)
    weight = weight.reshape(groups, out_channels // groups, per_group, kernel, kernel)
    x = x.reshape(batch, groups, per_group, *x.shape[2:])
    y = np.zeros((batch, groups, out_channels // groups, out_h, out_w))
    for i in range(kernel):
        for j in range(kernel):
            rows = slice(i * dilation, i * dilation + height, stride)
            cols = slice(j * dilation, j * dilation + width, stride)
            y += np.einsum("gop,bgphw->bgohw", weight[..., i, j], x[..., rows, cols])
    return y.reshape(batch, out_channels, out_h, out_w)


def conv_path(
    qkv: np.ndarray, p: dict[str, np.ndarray], num_heads: int, kernel: int, stride: int = 1, dilation: int = 1
) -> np.ndarray:
    """fc, then shift and sum (Section 4.2): (B, 3C, H, W) -> (B, C, Ho, Wo)."""
    batch, channels, height, width = qkv.shape
    dim = channels // (3 * num_heads)
    f = _pointwise(qkv.reshape(batch, 3 * num_heads, dim, height, width), p["fc.weight"], p.get("fc.bias"))
    f = f.transpose(0, 2, 1, 3, 4).reshape(batch, dim * kernel * kernel, height, width)
    weight = p.get("dep_conv.weight")
    if weight is None:  # shift="tensor": the fixed shift kernels
        eye = np.eye(kernel * kernel).reshape(1, kernel * kernel, kernel, kernel)
        weight = np.repeat(eye, num_heads * dim, 0)
    return group_conv(f, weight, dim, stride, dilation)


def sum_paths(attention: np.ndarray | None, conv: np.ndarray | None, p: dict[str, np.ndarray], mix: str) -> np.ndarray:
    """eq. 13 with the combinations of Table 6."""
    if mix == "attention":
        return attention
    if mix == "conv":
        return conv
    alpha = {"sum": 1.0}.get(mix, p.get("rate1"))
    beta = {"sum": 1.0, "alpha_one": 1.0, "alpha": 1.0 - np.asarray(alpha)}.get(mix, p.get("rate2"))
    return alpha * attention + beta * conv


def acmix(
    x: np.ndarray,
    params: dict[str, np.ndarray],
    *,
    num_heads: int = 4,
    attn_kernel_size: int = 7,
    conv_kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    mix: str = "learned",
) -> np.ndarray:
    """Sliding-window form, with the position term as the official code has it: (B, Cin, H, W) -> (B, C, Ho, Wo)."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.asarray(x, np.float64)
    batch, _, height, width = x.shape
    q, k, v = (_pointwise(x, p[f"conv{i}.weight"], p[f"conv{i}.bias"]) for i in (1, 2, 3))
    conv = None
    if mix != "attention":
        conv = conv_path(np.concatenate([q, k, v], 1), p, num_heads, conv_kernel_size, stride, dilation)
    if mix == "conv":
        return conv

    channels = q.shape[1]
    dim = channels // num_heads
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)))[None]  # x first, then y
    position = _pointwise(grid, p["conv_p.weight"], p["conv_p.bias"])  # (1, d, H, W)
    reach = dilation * (attn_kernel_size // 2)

    def padded(t: np.ndarray) -> np.ndarray:  # (B, N*d, H, W) -> (B, N, d, H + 2*reach, W + 2*reach)
        t = np.pad(t, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
        return t.reshape(t.shape[0], -1, dim, *t.shape[2:])

    keys, values, places = padded(k), padded(v), padded(position)
    q = q.reshape(batch, num_heads, dim, height, width) * dim**-0.5
    out = np.zeros((batch, num_heads, dim, -(-height // stride), -(-width // stride)))
    for i in range(0, height, stride):
        for j in range(0, width, stride):
            window = np.s_[..., i : i + 2 * reach + 1 : dilation, j : j + 2 * reach + 1 : dilation]
            place = places[..., i + reach, j + reach][..., None, None]
            key = keys[window] + place - places[window]  # (B, N, d, k, k)
            logits = np.einsum("bnd,bndyx->bnyx", q[..., i, j], key)
            weights = _softmax(logits.reshape(batch, num_heads, -1)).reshape(logits.shape)
            out[..., i // stride, j // stride] = np.einsum("bnyx,bndyx->bnd", weights, values[window])
    return sum_paths(out.reshape(batch, channels, *out.shape[3:]), conv, p, mix)


def window_acmix(
    x: np.ndarray,
    params: dict[str, np.ndarray],
    *,
    window_size: tuple[int, int],
    num_heads: int,
    conv_kernel_size: int = 3,
    mask: np.ndarray | None = None,
    mix: str = "learned",
) -> np.ndarray:
    """Window form: (B, H, W, C) -> (B, H, W, C), mask (nW, L, L)."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.asarray(x, np.float64)
    batch, height, width, channels = x.shape
    dim = channels // num_heads
    qkv = x @ p["qkv.weight"].T + p.get("qkv.bias", 0.0)
    conv = None
    if mix != "attention":
        conv = conv_path(qkv.transpose(0, 3, 1, 2), p, num_heads, conv_kernel_size).transpose(0, 2, 3, 1)
    if mix == "conv":
        return conv

    wh, ww = window_size
    table = p["relative_position_bias_table"].reshape(2 * wh - 1, 2 * ww - 1, num_heads)
    out = np.zeros_like(x)
    tokens = [(y, z) for y in range(wh) for z in range(ww)]
    bias = np.array([[table[a - c + wh - 1, b - d + ww - 1] for c, d in tokens] for a, b in tokens])  # (L, L, N)
    for i in range(height // wh):
        for j in range(width // ww):
            block = np.s_[:, i * wh : (i + 1) * wh, j * ww : (j + 1) * ww]
            q, k, v = qkv[block].reshape(batch, wh * ww, 3, num_heads, dim).transpose(2, 0, 3, 1, 4)
            logits = dim**-0.5 * q @ k.transpose(0, 1, 3, 2) + bias.transpose(2, 0, 1)  # (B, N, L, L)
            if mask is not None:
                logits = logits + mask[i * (width // ww) + j]
            result = (_softmax(logits) @ v).transpose(0, 2, 1, 3).reshape(batch, wh * ww, channels)
            out[block] = (result @ p["proj.weight"].T + p["proj.bias"]).reshape(batch, wh, ww, channels)
    return sum_paths(out, conv, p, mix)


def _neighbours(x: np.ndarray, kernel: int, stride: int, dilation: int) -> np.ndarray:
    """Mirrored k*k neighbours of each output pixel: (B, C, H, W) -> (B, C, k*k, Ho, Wo)."""
    _, _, height, width = x.shape
    reach = dilation * (kernel // 2)
    x = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    taps = [
        x[:, :, i * dilation : i * dilation + height : stride, j * dilation : j * dilation + width : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return np.stack(taps, 2)


def _batch_norm(x: np.ndarray, p: dict[str, np.ndarray], name: str, eps: float = 1e-5) -> np.ndarray:
    """BatchNorm of evaluation, over axis 1."""
    mean, var, weight, bias = (
        p[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + eps) * weight + bias


def patchwise_acmix(
    x: np.ndarray,
    params: dict[str, np.ndarray],
    *,
    num_heads: int = 4,
    attn_kernel_size: int = 7,
    conv_kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    mix: str = "learned",
) -> np.ndarray:
    """Patchwise form (eq. 18) in evaluation: (B, Cin, H, W) -> (B, m, Ho, Wo); norms under PyTorch's names."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.asarray(x, np.float64)
    q, k, v = (_pointwise(x, p[f"conv{i}.weight"], p[f"conv{i}.bias"]) for i in (1, 2, 3))
    conv = None
    if mix != "attention":
        copies = v.shape[1] // q.shape[1]
        qkv = np.concatenate([q.repeat(copies, 1), k.repeat(copies, 1), v], 1)
        conv = conv_path(qkv, p, num_heads, conv_kernel_size, stride, dilation)
    if mix == "conv":
        return conv

    window = (attn_kernel_size, stride, dilation)
    keys = _neighbours(k, *window)  # (B, r, k*k, Ho, Wo)
    batch, _, taps, out_h, out_w = keys.shape
    w = np.concatenate([q[:, :, ::stride, ::stride], keys.reshape(batch, -1, out_h, out_w)], 1)
    w = _pointwise(np.maximum(_batch_norm(w, p, "conv_w.0"), 0), p["conv_w.2.weight"])
    w = _pointwise(np.maximum(_batch_norm(w, p, "conv_w.3"), 0), p["conv_w.5.weight"], p["conv_w.5.bias"])
    w = w.reshape(batch, -1, taps, out_h, out_w)
    w = np.tile(w, (1, v.shape[1] // w.shape[1], 1, 1, 1))  # weights of channel c: those of c mod s
    return sum_paths((w * _neighbours(v, *window)).sum(2), conv, p, mix)


def global_acmix(
    x: np.ndarray,
    params: dict[str, np.ndarray],
    height: int,
    width: int,
    *,
    num_heads: int,
    sr_ratio: int = 1,
    conv_kernel_size: int = 3,
    mix: str = "learned",
) -> np.ndarray:
    """Global form (eq. 20), with spatial reduction or without: tokens (B, L, C) -> (B, L, C)."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.asarray(x, np.float64)
    batch, length, channels = x.shape
    dim, first = channels // num_heads, length - height * width  # first: 1 with a class token, which is in no map
    q = x @ p["q.weight"].T + p.get("q.bias", 0.0)
    reduced, low = x, (height, width)
    if sr_ratio > 1:
        image = x.transpose(0, 2, 1).reshape(batch, channels, height, width)
        pads = [(0, max(sr_ratio - side, 0)) for side in (height, width)]
        image = np.pad(image, ((0, 0), (0, 0), *pads))
        low = (image.shape[2] // sr_ratio, image.shape[3] // sr_ratio)
        image = image[:, :, : low[0] * sr_ratio, : low[1] * sr_ratio]
        patches = image.reshape(batch, channels, low[0], sr_ratio, low[1], sr_ratio)
        reduced = np.einsum("oiyx,bihywx->bhwo", p["sr.weight"], patches)
        reduced = reduced.reshape(batch, -1, channels) + p["sr.bias"]
        reduced = reduced - reduced.mean(-1, keepdims=True)
        reduced = reduced / np.sqrt((reduced**2).mean(-1, keepdims=True) + 1e-5)
        reduced = reduced * p["norm.weight"] + p["norm.bias"]
    kv = reduced @ p["kv.weight"].T + p.get("kv.bias", 0.0)

    conv = None
    if mix != "attention":
        low_maps = kv[:, first:].transpose(0, 2, 1).reshape(batch, 2 * channels, *low)
        rows, cols = np.arange(height) * low[0] // height, np.arange(width) * low[1] // width
        q_maps = q[:, first:].transpose(0, 2, 1).reshape(batch, channels, height, width)
        qkv = np.concatenate([q_maps, low_maps[:, :, rows][:, :, :, cols]], 1)
        conv = conv_path(qkv, p, num_heads, conv_kernel_size).reshape(batch, channels, -1).transpose(0, 2, 1)
        conv = np.pad(conv, ((0, 0), (first, 0), (0, 0)))
    if mix == "conv":
        return conv
    q = q.reshape(batch, length, num_heads, dim).transpose(0, 2, 1, 3)
    k, v = kv.reshape(batch, -1, 2, num_heads, dim).transpose(2, 0, 3, 1, 4)
    out = _softmax(dim**-0.5 * q @ k.transpose(0, 1, 3, 2)) @ v  # (B, N, L, d)
    out = out.transpose(0, 2, 1, 3).reshape(batch, length, channels)
    return sum_paths(out @ p["proj.weight"].T + p["proj.bias"], conv, p, mix)
