"""The folder that a run writes to, and what holds while the run lasts: its name is taken, SIGTERM ends it cleanly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from tailora.core.errors import SettingsError
from tailora.training.settings import TrainSettings


@contextlib.contextmanager
def run_folder(settings: TrainSettings) -> Iterator[Path]:
    """Make the run directory, and remove it at the end if nothing was written to it.

    The default name is runs/DATA-METHOD-N with the first N that is free; making the folder takes the name, so that
    runs which start together get different ones.

    Raises:
        SettingsError: the output folder exists.
    """
    folder = _made(settings)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _made(settings: TrainSettings) -> Path:
    if settings.output is not None:
        try:
            settings.output.mkdir(parents=True)
        except FileExistsError as error:
            hint = "name a new run directory with --output"
            raise SettingsError("exists already", where=settings.output, hint=hint) from error
        return settings.output
    name = Path(settings.data).name.split(".")[0] or "data"
    number = 1
    while True:
        folder = Path("runs") / f"{name}-{settings.method}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM, with which schedulers end a job, like Ctrl-C; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
