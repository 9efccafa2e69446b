"""What a long job has done so far, beside the file it is to write: kill it, run it again, and it goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tailora.core.errors import SettingsError

SYNC_SECONDS = 1.0
"""Seconds that must pass between two calls of fsync while rows are added."""


class ResumeLog:
    """Rows by number, each given to the operating system as soon as it is added.

    A process that is killed loses no row. The disk is synchronised at most once a second and when the file is closed,
    so that a slow disk does not stall the job: after a power cut or a crash of the system, the rows since the last
    synchronisation may be missing. There is no timer: a row that is followed by a long pause is synchronised with the
    next one.

    A context manager; leaving it closes the file and keeps it. `remove` it once the job's own output is whole.

    Args:
        output: the file that the job will write; the journal lies beside it as `OUTPUT.unfinished`.
        job: what tells this job from another that writes the same file, as text.
        clock: the time in seconds, from any origin.

    Attributes:
        path: the journal's file.
        rows: what was done, by number.

    Raises:
        SettingsError: there is a journal of another job, or something that is no journal.
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
            self._file.close()

    def add(self, number: int, row: Any) -> None:
        """Keep a row."""
        self._write([number, row])
        self.rows[number] = row

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self._behind = True
        if self._clock() - self._synced >= SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced, self._behind = self._clock(), False

    def _take_over(self, job: str) -> None:
        self._file.seek(0)
        kept = self._file.read()
        whole = kept[: kept.rfind(b"\n") + 1]  # a killed process leaves a line in pieces
        try:
            found, *rows = [json.loads(line) for line in whole.splitlines()] or [job]
            self.rows = {int(number): row for number, row in rows}
        except (ValueError, TypeError) as error:
            raise SettingsError("is no journal of ours", where=self.path, hint="move it out of the way") from error
        if found != job:
            raise SettingsError(
                "holds what was done with other settings or data", where=self.path, hint="give those, or delete it"
            )
        self._file.truncate(len(whole))
        self._file.seek(0, os.SEEK_END)
        if not whole:
            self._write(job)
