"""Typed configuration: dataclasses give keys, types, defaults and ranges; YAML files and ``key=value`` fill them.

A YAML file may name one or several files it builds on (``base: ../base/digits.yaml``, relative to itself); these are
merged first, then the file, then the command line. What is not in the dataclasses is an error, so that a misspelt key
cannot be lost in silence; names of earlier versions are translated.

``schema``: the keys. ``text``: YAML in and out. ``migrations``: where old keys went. ``check``: types and ranges.
"""

from acmix_ms.config.check import from_dict
from acmix_ms.config.load import (
    FREE_TO_CHANGE,
    describe_keys,
    differences,
    dump,
    for_model,
    from_overrides,
    from_text,
    load,
    require_task,
    to_yaml,
)
from acmix_ms.config.schema import (
    TASKS,
    AugmentConfig,
    CanvasConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    SegmentsConfig,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "CanvasConfig",
    "Config",
    "DataConfig",
    "FREE_TO_CHANGE",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RuntimeConfig",
    "SegmentsConfig",
    "TASKS",
    "TrainConfig",
    "describe_keys",
    "differences",
    "dump",
    "for_model",
    "from_dict",
    "from_overrides",
    "from_text",
    "load",
    "require_task",
    "to_yaml",
]
