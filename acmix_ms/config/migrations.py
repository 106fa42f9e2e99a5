"""Where the keys of earlier versions went, so that checkpoints, files and habits of earlier versions keep working.

A text without ``config_version`` may be of any version: all tables are applied to it. So a name that has moved never
comes back with another meaning.
"""

from __future__ import annotations

import sys
from typing import Any

from acmix_ms.config.schema import VERSION
from acmix_ms.config.text import Plain, resolve, shown
from acmix_ms.errors import UserError

_AUGMENT = (
    *("min_crop_area", "auto_augment", "color_jitter", "reprob", "mixup", "cutmix", "mixup_prob"),
    *("mixup_switch_prob", "repeated_aug"),
)
# For each version the keys that the next one calls otherwise.
MOVED = {
    1: {
        "optim.label_smoothing": "loss.label_smoothing",
        "data.augment": "data.augment.enabled",  # true or false; what is a section is of the new kind already
        **{f"data.{key}": f"data.augment.{key}" for key in _AUGMENT},
    },
}


def migrate(values: dict[str, Any], source: str, *, whole: bool = False) -> dict[str, Any]:
    """Nested values of any version under today's names; the input stays as it is.

    Args:
        values: as a YAML text gives them.
        source: begins the messages. A file or the command line is told of new names in one line on stderr.
        whole: what `to_yaml` wrote, so that keys that are missing had not been invented. Nobody wrote its names by
            hand, and nothing is said about them.

    Raises:
        UserError: of a newer version, or a key under its old and its new name.
    """
    values = _copy(values)
    version = _version(values.pop("config_version", None), source)
    moved = []
    for table in (MOVED[number] for number in range(version, VERSION)):
        # Out first and in again afterwards: data.augment moves into a section of its own name.
        found = [(old, new, _take(values, old)) for old, new in table.items() if _has(values, old)]
        for old, new, value in found:
            _put(values, new, value, f"{source}: {old} is now {new}, which is given too; keep one")
        moved += [f"{old} is now {new}" for old, new, _ in found]
    if whole and version < 2 and _get(values, "data.name") != "digits":
        _put(values, "data.resize", "fast", "")  # version 1 knew nothing else; digits are not resized by it
    if moved and not whole:
        print(f"note: {source}: {', '.join(moved)}", file=sys.stderr, flush=True)
    return values


def _version(given: Any, source: str) -> int:
    version = resolve(given) if isinstance(given, Plain) else given
    if version is None:
        return 1
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{source}: config_version={shown(given)}: must be a whole number from 1 to {VERSION}")
    if version > VERSION:
        raise UserError(f"{source}: config_version={version}, and {VERSION} is the newest known here: update acmix_ms")
    return version


def _copy(values: Any) -> Any:
    return {key: _copy(value) for key, value in values.items()} if isinstance(values, dict) else values


def _section(values: dict, key: str) -> dict:
    """The dict that would hold a dotted key; an empty one if there is none."""
    for part in key.split(".")[:-1]:
        values = values.get(part)
        if not isinstance(values, dict):
            return {}
    return values


def _get(values: dict, key: str) -> Any:
    return _section(values, key).get(key.rpartition(".")[2])


def _has(values: dict, key: str) -> bool:
    name = key.rpartition(".")[2]
    section = _section(values, key)
    return name in section and not isinstance(section[name], (dict, list))


def _take(values: dict, key: str) -> Any:
    return _section(values, key).pop(key.rpartition(".")[2])


def _put(values: dict, key: str, value: Any, conflict: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            return
    if name in values:
        raise UserError(conflict)
    values[name] = value
