"""Images, and records of them, that tests share."""

from __future__ import annotations

import pytest

from tests.helpers.records import add_odd_images, prepare
from tests.helpers.tiny import make_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = make_images(tmp_path_factory.mktemp("images"))
    add_odd_images(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory):
    return prepare(images, tmp_path_factory.mktemp("records"), "--shards", 3)


@pytest.fixture
def copied(prepared, tmp_path):
    """Records that a test may damage."""
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path
