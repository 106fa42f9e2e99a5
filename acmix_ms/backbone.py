"""What a backbone tells of itself to whatever trains, resizes or exports it, alone or as a part of a larger net."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mindspore import nn

Layers = tuple[tuple[str, ...], ...]


class Backbone(nn.Cell):
    """Base class of the nets of the zoo: images (B, C, H, W) -> logits (B, num_classes), or maps of several strides.

    A subclass sets what is true of it; the values here are those of a net that has nothing to tell. Names are those
    of its own parameters, wherever it stands: `layout` puts before them what they are called in a larger net.

    Attributes:
        features_only: `construct` gives a tuple of maps (B, C, h, w) instead of logits.
        feature_strides, feature_channels: of those maps, the finest first.
        head_names: first parts of the names of parameters that another ``num_classes`` or ``features_only`` changes. A
            larger net may have such names of its own, which count instead.
        stages: parameters by depth, first the stem, then the stages. Each is a tuple of layers, and each layer a tuple
            of prefixes of names. What no layer names (the last norm, the classifier) comes after all of them.
        position_tables: which parameters are position embeddings (1, tokens + s*s, C), each with its class tokens.
        FOLD: pairs of attributes, a BatchNorm behind what it follows, for `acmix_ms.ops.fuse`; any Cell may have them.
        any_size: nothing is made for one size of images, so that an exported file can leave it open.
    """

    features_only: bool = False
    feature_strides: tuple[int, ...] = ()
    feature_channels: tuple[int, ...] = ()
    head_names: tuple[str, ...] = ()
    stages: tuple[Layers, ...] = ()
    position_tables: Mapping[str, int] = MappingProxyType({})
    any_size: bool = False
    FOLD: tuple[tuple[str, str], ...] = ()


class Layout(NamedTuple):
    """What the backbone of a net tells, with names as they are in the net; see `Backbone`.

    Attributes:
        prefix: what stands before the backbone's own names, such as ``"backbone."``; empty for a backbone alone.
        cell: the backbone; None if the net has none.
    """

    prefix: str = ""
    cell: Backbone | None = None
    head_names: tuple[str, ...] = ()
    stages: tuple[Layers, ...] = ()
    position_tables: Mapping[str, int] = MappingProxyType({})


def layout(net: nn.Cell) -> Layout:
    """What the backbone of ``net`` tells: ``net`` itself, or the first one among its Cells."""
    for name, cell in net.cells_and_names():
        if isinstance(cell, Backbone):
            prefix = f"{name}." if name else ""
            return Layout(
                prefix,
                cell,
                getattr(net, "head_names", ()) or tuple(prefix + head for head in cell.head_names),
                tuple(tuple(tuple(prefix + part for part in layer) for layer in stage) for stage in cell.stages),
                {prefix + table: tokens for table, tokens in cell.position_tables.items()},
            )
    return Layout()
