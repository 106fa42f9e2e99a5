"""Files: JSON read with every doubt."""

import pytest

from acmix_ms.errors import UserError
from acmix_ms.files import read_json


def test_json_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null], "b": {"c": "ü"}}', encoding="utf-8")
    assert read_json(path) == {"a": [1, 2.5, None], "b": {"c": "ü"}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"3",
        b'{"a": 1',
        b'{"a": NaN}',
        b'{"a": [-Infinity]}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        b'{"a":' * 100_000,
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_damaged_json_is_one_sentence(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path, "description")
    message = str(caught.value)
    assert message.startswith(f"description {path} is damaged (") and message.endswith("; take another copy")
    assert "\n" not in message and len(message) < len(str(path)) + 200


def test_json_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^description .*a.json cannot be read: No such file"):
        read_json(tmp_path / "a.json", "description")
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        read_json(tmp_path)
