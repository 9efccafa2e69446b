"""The run directory: its name, what holds while a run writes to it, and how it is recognised."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from tailora.core.errors import SettingsError, TrainingError
from tailora.training.settings import TrainSettings

RESULTS = ("adapter", "model", "delta.safetensors")
"""What a run may have saved of what it learnt, by the methods lora, full, and bitfit or top2."""


@contextlib.contextmanager
def run_folder(settings: TrainSettings) -> Iterator[Path]:
    """Make the run directory, and remove it at the end if nothing was written to it.

    The default name is runs/DATA-METHOD-N with the first free N. The folder is made at once, so runs that start
    together get different names.

    Raises:
        SettingsError: the output folder exists.
    """
    folder = _new_folder(settings)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _new_folder(settings: TrainSettings) -> Path:
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
    """Treat SIGTERM, with which schedulers end a job, like Ctrl-C. Outside the main thread this has no effect."""
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


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Report a file that cannot be written as an error that says what of the run is saved.

    Raises:
        TrainingError: the disk is full, a limit is reached, or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        saved = next((folder / name for name in RESULTS if (folder / name).exists()), None)
        state = "nothing that the run learnt is saved" if saved is None else f"the best state so far is in {saved}"
        raise TrainingError(
            f"cannot be written: {error.strerror or error}; {state}",
            where=error.filename or folder,
            hint="free some space, or choose another place with --output",
        ) from error


def trained_data(folder: Path) -> str | None:
    """Return the data that a run directory's run was trained on; None if the folder is not a run directory."""
    try:
        settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]
        return str(settings["data"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
