"""Settings of the data as tests write them."""

from __future__ import annotations

import dataclasses

from acmix_ms.config import AugmentConfig, DataConfig

_AUGMENT = {item.name for item in dataclasses.fields(AugmentConfig)}


def data_config(**keys) -> DataConfig:
    """A `DataConfig`, with the keys of ``data.augment`` beside those of ``data``."""
    augment = {key: keys.pop(key) for key in _AUGMENT & set(keys)}
    return DataConfig(**keys, augment=AugmentConfig(**augment))
