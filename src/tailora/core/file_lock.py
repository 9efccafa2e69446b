"""A lock on a file that the system gives back when its process ends, however that happens."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tailora.core.errors import SettingsError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

log = logging.getLogger(__name__)
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of a file system that offers no locks, as clusters may mount Lustre and NFS."""


class FileLock:
    """A lock that one process can hold; within the process, one object can.

    Args:
        path: of the file, which is made if it is not there and left there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; False where another process has it.

        On a file system without locks every process gets it, and a warning says so.
        """
        file = self._path.open("ab+")
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                file.close()
                return False
            _warn_of_missing_locks(self._path.parent)
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        if self._file is not None:
            self._file.close()  # which gives it back
            self._file = None


@contextlib.contextmanager
def only_writer(target: Path, patience: float = 30.0) -> Iterator[None]:
    """Read, change and write a file while no other process does so; the lock is a hidden file beside it.

    Args:
        target: the file.
        patience: seconds to wait for another process.

    Raises:
        SettingsError: another process has the lock for longer.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    deadline = time.monotonic() + patience
    while not lock.acquire():
        if time.monotonic() > deadline:
            raise SettingsError(
                "another process is changing this file", where=target, hint="wait for it, and try again"
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.release()


@functools.cache
def _warn_of_missing_locks(folder: Path) -> None:
    log.warning("%s: this file system has no locks; do not let two processes write here at the same time", folder)


if sys.platform == "win32":

    def _lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
