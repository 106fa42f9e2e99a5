"""How the reference vectors of full models fill official weights: from their names, so that none are shipped."""

from __future__ import annotations

import json
import zlib

import numpy as np

LEFT_AS_BUILT = ("num_batches_tracked", "relative_position_index", "attn_mask")


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 value of one entry of an official state dict."""
    last = name.rpartition(".")[2]
    seed = zlib.crc32(name.encode()) & 0xFFFFFFFF
    n = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if last in ("rate1", "rate2"):
        return np.float32(0.5) + np.float32(0.1) * n
    if last == "running_mean":
        return np.float32(0.1) * n
    if last == "running_var":
        return np.float32(1) + np.float32(0.1) * np.abs(n)
    if last in ("relative_position_bias_table", "bias"):
        return np.float32(0.02) * n
    if last.startswith(("pos_embed", "cls_token")):
        return np.float32(0.02) * n
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * n
    return n * np.float32(1 / np.sqrt(np.prod(shape[1:])))


def official_state(file: dict) -> dict[str, np.ndarray]:
    """State dict of a full-model file, checked against the norms it records."""
    state = {}
    for name, shape, norm in zip(file["state_names"], file["state_shapes"], file["fill_l2"]):
        if name.rpartition(".")[2] in LEFT_AS_BUILT:
            state[str(name)] = np.zeros(json.loads(str(shape)))
            continue
        state[str(name)] = fill(str(name), tuple(json.loads(str(shape))))
        assert np.isclose(np.linalg.norm(state[str(name)].astype(np.float64)), norm, rtol=1e-5), name
    return state


def official_input(file: dict) -> np.ndarray:
    """Image batch of a full-model file, (1, 3, 224, 224) where that does not say its shape."""
    shape = tuple(file.get("input_shape", (1, 3, 224, 224)))
    return np.random.RandomState(int(file["input_seed"])).standard_normal(shape).astype(np.float32)


def stored_part(file: dict, name: str, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a file has of a tensor, all or some of it, and the same part of ``value``."""
    if name in file:
        return file[name], value
    return file[f"{name}@sample"], value.reshape(-1)[:: int(file[f"{name}@step"])]
