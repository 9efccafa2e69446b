"""A lock belongs to one process, and a file system without locks stops nobody."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest

from tailora.core import file_lock
from tailora.core.errors import SettingsError
from tailora.core.file_lock import FileLock, only_writer


def test_a_lock_has_one_owner(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.release()


def test_who_waits_too_long_for_a_file_is_told_its_name(tmp_path: Path) -> None:
    with (
        only_writer(tmp_path / "keys"),
        pytest.raises(SettingsError, match=r"keys: another process is changing this file"),
        only_writer(tmp_path / "keys", patience=0),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(file: IO[bytes]) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_lock, "_lock", refuse)
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()
    with only_writer(tmp_path / "keys", patience=0):
        assert lock.acquire()
    lock.release()
    assert caplog.text.count("this file system has no locks") == 1
