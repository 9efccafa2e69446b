"""The finished rows of a long job, from which the job continues after it was stopped."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from tailora.core.errors import SettingsError

SYNC_SECONDS = 1.0
"""Seconds that must pass between two calls of fsync while rows are added."""


class ResumeLog:
    """Rows by number, each passed to the operating system as soon as it is added.

    A process that is killed loses no row. The file is synchronised with the disk at most once a second and when it is
    closed, so that a slow disk does not stall the job. After a power cut or a crash of the system, the rows since the
    last synchronisation may be missing. There is no timer: a row that is followed by a long pause is synchronised with
    the next one.

    A context manager that closes the file but does not delete it. Call `remove` once the output is complete.

    Args:
        output: the file that the job will write; the resume file is `OUTPUT.unfinished` beside it.
        job: text that identifies this job among all that write the same file.
        clock: the time in seconds, from any origin.

    Attributes:
        path: the resume file.
        rows: the finished rows, by number.

    Raises:
        SettingsError: the resume file belongs to another job, or is not a resume file.
    """

    def __init__(self, output: Path, job: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = output.with_name(output.name + ".unfinished")
        self.rows: dict[int, Any] = {}
        self._clock, self._synced, self._behind = clock, clock(), False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            self._take_over(job)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._behind and not self._file.closed:
                self._sync()
        finally:
            with self._named_errors():  # closing writes what a full disk refused once more
                self._file.close()

    def add(self, number: int, row: Any) -> None:
        """Add a row."""
        self._write([number, row])
        self.rows[number] = row

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, value: Any) -> None:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._named_errors():
            self._file.write(line)
            self._file.flush()
        self._behind = True
        if self._clock() - self._synced >= SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        with self._named_errors():
            os.fsync(self._file.fileno())
        self._synced, self._behind = self._clock(), False

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the file in errors of the system, which an open file does not."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _take_over(self, job: str) -> None:
        self._file.seek(0)
        kept = self._file.read()
        whole = kept[: kept.rfind(b"\n") + 1]  # a killed process may leave an incomplete line
        try:
            first, *rows = [json.loads(line) for line in whole.splitlines()] or [job]
            self.rows = {int(number): row for number, row in rows}
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise SettingsError("is not a Tailora resume file", where=self.path, hint="move or delete it") from error
        if first != job:
            raise SettingsError(
                "was written with other settings or data", where=self.path, hint="use the same ones, or delete it"
            )
        self._file.truncate(len(whole))
        self._file.seek(0, os.SEEK_END)
        if not whole:
            self._write(job)
