"""Files: written whole or not at all, locked, checked before use; JSON read with every doubt."""

import errno
import fcntl
import os

import pytest

from acmix_ms.errors import UserError
from acmix_ms.files import LOCK, locked, read_json, replacing, require_checkpoint, writable_file, write_text


def refuse(monkeypatch, module, name, code):
    def refusing(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, name, refusing)


# Locks


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_a_file_system_without_locks_costs_a_warning(tmp_path, monkeypatch, capsys, code):
    refuse(monkeypatch, fcntl, "flock", getattr(errno, code))
    with locked(tmp_path), locked(tmp_path):
        ran = True
    assert ran
    said = capsys.readouterr()
    assert said.err.count("\n") == 2 and said.err.startswith(f"warning: run_dir={tmp_path} is where nothing can be")
    assert os.strerror(getattr(errno, code)) in said.err and said.out == ""


@pytest.mark.parametrize("code", ["EWOULDBLOCK", "EAGAIN", "EACCES"])
def test_a_lock_that_another_has_is_respected(tmp_path, monkeypatch, code):
    (tmp_path / LOCK).write_text("4711")
    refuse(monkeypatch, fcntl, "flock", getattr(errno, code))
    with pytest.raises(UserError, match="in use by process 4711: wait"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "4711"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\x1b[2J", b"text", b"\n"])
def test_whatever_stands_in_a_lock_the_message_is_one_line(tmp_path, content):
    with locked(tmp_path, name="--output "):
        (tmp_path / LOCK).write_bytes(content)
        with pytest.raises(UserError) as raised, locked(tmp_path, name="--output "):
            pass
    assert str(raised.value) == (
        f"--output {tmp_path} is in use by another process: wait until it ends, or give another --output"
    )


def test_a_lock_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match=r"\.lock cannot be opened \(Is a directory\): remove it"), locked(tmp_path):
        pass


def test_a_lock_on_a_full_disk_is_a_lock(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "write", errno.ENOSPC)
    with locked(tmp_path), pytest.raises(UserError, match="in use"), locked(tmp_path):
        pass


def test_a_lock_ends_with_its_block(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


# Writing


def test_whatever_ends_writing_the_old_file_stays_alone(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), replacing(path) as partial:
            partial.write_text("half")
            raise error
    with pytest.raises(UserError, match=r"^text .*a\.txt cannot be written: no words; the earlier file is untouched$"):
        with replacing(path, "text") as partial:
            partial.write_text("half")
            raise OSError("no words")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_synced_is_no_reason_to_fail(tmp_path, monkeypatch):
    real = os.fsync

    def of_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"
    refuse(monkeypatch, os, "fsync", errno.EINVAL)  # of the file itself
    with pytest.raises(UserError, match="Invalid argument"):
        write_text(tmp_path / "b.txt", "text")


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no regular file"):
        writable_file(tmp_path / "pipe", "--output")
    with pytest.raises(UserError, match="is a folder"):
        writable_file(tmp_path, "--output")
    assert writable_file(tmp_path / "new" / "file", "--output").parent.is_dir()


def test_a_checkpoint_that_is_none_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "loop", tmp_path / "pipe", tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(UserError, match="does not exist"):
            require_checkpoint(path)


# JSON


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
