"""YAML as configurations use it: plain values without tags, anchors and references, numbers as YAML 1.2 reads them.

What stands without quotes is kept as a `Plain` text until its key says what is wanted: ``model.name=123`` is a name.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import yaml

from acmix_ms.errors import UserError

DEEPEST = 20  # nested levels
LARGEST_FILE = 1_000_000  # bytes

NULL, TRUE, FALSE = {"", "~", "null", "Null", "NULL"}, {"true", "True", "TRUE"}, {"false", "False", "FALSE"}
INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
SPECIAL = {sign + dot + word for sign in ("", "+", "-") for dot in ("", ".") for word in ("inf", "Inf", "nan", "NaN")}
YAML_1_1 = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")  # no texts for other readers
BARE = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)  # texts that are written without quotes


class Plain(str):
    """A text that stood without quotes: what it means is for its key to say, or for `resolve`."""


def resolve(text: str) -> None | bool | int | float | str:
    """What a text without quotes means by itself. ``010``, ``0x10``, ``1_000``, ``1:30`` and ``yes`` are texts."""
    if text in NULL:
        return None
    if text in TRUE or text in FALSE:
        return text in TRUE
    if INT.fullmatch(text) and len(text) < 20:
        return int(text)
    if text in SPECIAL:
        return float(text.replace(".", ""))
    return float(text) if FLOAT.fullmatch(text) else str(text)


def parse(text: str, source: str) -> Any:
    """The one value in a YAML text: dicts, lists, `Plain` and (where there are quotes) str.

    Raises:
        UserError: no YAML, or more of it than a configuration needs; ``source`` begins the message.
    """
    try:
        events = yaml.parse(text, Loader=yaml.BaseLoader)
        next(events)  # the stream begins
        if isinstance(next(events), yaml.StreamEndEvent):
            return Plain("")
        value = _value(next(events), events, source, 0)
        next(events)
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise UserError(f"{source}: holds several documents; keep one")
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    return value


def _value(event: yaml.Event, events: Iterator[yaml.Event], source: str, depth: int) -> Any:
    if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag not in (None, "!"):
        raise UserError(f"{source}, line {event.start_mark.line + 1}: no anchors and tags here: write the value itself")
    if depth > DEEPEST:
        raise UserError(f"{source}: nested more than {DEEPEST} levels deep; no key is that deep")
    if isinstance(event, yaml.ScalarEvent):
        return event.value if event.style else Plain(event.value)
    return (_sequence if isinstance(event, yaml.SequenceStartEvent) else _mapping)(events, source, depth)


def _sequence(events: Iterator[yaml.Event], source: str, depth: int) -> list:
    values = []
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        values.append(_value(event, events, source, depth + 1))
    return values


def _mapping(events: Iterator[yaml.Event], source: str, depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            break
        key = _value(event, events, source, depth + 1)
        if not isinstance(key, str):
            raise UserError(f"{source}, line {event.start_mark.line + 1}: a key must be a name")
        if key in values:
            raise UserError(f"{source}, line {event.start_mark.line + 1}: {shown(key)} is given twice; keep one")
        values[str(key)] = _value(next(events), events, source, depth + 1)
    return values


def read(path: str | os.PathLike) -> Any:
    """The value in a YAML file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read.
    """
    source = f"configuration file {path}"
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(f"{source} has more than {LARGEST_FILE} bytes: is it the right file?")
        return parse(content.decode("utf-8"), source)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a ValueError: no UTF-8, or a NUL in the path
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source} cannot be read: {error}") from error


def require_text(text: str, name: str) -> str:
    """``text`` as a plain str, if it is one that can be meant and printed.

    Raises:
        UserError: a placeholder, a reference, control characters or bytes that are no UTF-8.
    """
    if text == "???":
        raise UserError(f"{name}=???: a value is missing; give one")
    if "${" in text:
        raise UserError(f"{name}={shown(text)}: references such as ${{key}} are not resolved; write the value itself")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise UserError(f"{name}={shown(text)}: has control characters or bytes that are no UTF-8; give plain text")
    return str(text)


def shown(value: Any) -> str:
    """A value for a message: short, and printable whatever it holds."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(_plain(value))
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Plain) else value


def write(value: Any) -> str:
    """A value in one line of YAML that `parse` and `resolve`, and other readers of YAML, read back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isfinite(value):
        digits = repr(value)
        return digits if "." in digits else digits.replace("e", ".0e")  # YAML 1.1 takes 1e-08 for a text
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(write(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write(str(key))}: {write(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        bare = BARE.fullmatch(value) and resolve(value) == value and value.lower() not in YAML_1_1
        return value if bare else json.dumps(value, ensure_ascii=False)
    return str(value)
