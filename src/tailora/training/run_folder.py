"""The run directory: its name, its lock and errors while a run writes to it, and how it is recognised."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tailora.core.errors import SettingsError, TrainingError
from tailora.core.files import output_exists, recover
from tailora.data.hub_names import short_name
from tailora.training.distributed import SINGLE, Processes
from tailora.training.resume import (
    ResumeFolder,
    can_be_longer,
    differs_in_length,
    is_same_run,
    is_unfinished,
)
from tailora.training.settings import TrainSettings

log = logging.getLogger(__name__)
RESULTS = ("adapter", "model", "delta.safetensors")
"""Names of a run's results: of method lora, of full, and of bitfit and top2."""


_RECORDS = ("run.json", "metrics.jsonl", "loss.svg")
"""What a run writes beside its results."""


class RunFolder(NamedTuple):
    """A run directory that this process has locked.

    Attributes:
        path: the folder.
        resume: its saved states; None in processes that do not write to the folder.
    """

    path: Path
    resume: ResumeFolder | None


@contextlib.contextmanager
def run_folder(settings: TrainSettings, processes: Processes = SINGLE) -> Iterator[RunFolder]:
    """Create the run directory, or take over an empty folder or that of an unfinished run with these settings.

    The default name is runs/DATA-METHOD-N with the first N that is free or whose run can continue. The folder is
    created at once, so that runs that start together get different names. It is removed at the end if it is empty, or
    if the disk was full before the run could save anything.
    Of several processes, only the first accesses the folder, and the others receive its path.

    Raises:
        SettingsError: the output folder contains something else than an unfinished run, or another process trains in
            it.
    """
    if not processes.is_first:
        yield RunFolder(processes.from_first(Path), None)
        return
    path, resume = _numbered(settings) if settings.output is None else _named(settings.output, settings)
    try:
        with resume:
            for name in (*RESULTS, *_RECORDS):
                recover(path, name)
            yield RunFolder(processes.from_first(lambda: path), resume)
    except TrainingError as error:
        if isinstance(error.__cause__, OSError) and not _has_results(path) and not resume.states():
            for name in _RECORDS:  # the same command starts again
                (path / name).unlink(missing_ok=True)
        raise
    finally:
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()


def _named(path: Path, settings: TrainSettings) -> tuple[Path, ResumeFolder]:
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        continues = settings.resume != "never" and (is_unfinished(path) or _becomes_longer(path, settings))
        if not continues and not _is_empty_folder(path):
            raise _taken(path) from error
    return path, ResumeFolder(path)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _taken(path: Path) -> SettingsError:
    """Return the error for a folder that contains something, which is not continued."""
    elsewhere = "train in another directory with --output"
    if is_unfinished(path):
        hint = f"continue it without --resume never, or {elsewhere}"
        return SettingsError("contains an unfinished run", where=path, hint=hint)
    saved = next((name for name in RESULTS if (path / name).exists()), None)
    if saved is None or not (path / "run.json").is_file():
        return output_exists(path)
    uses = {"adapter": f"use it with --adapter {path}", "model": f"use it with --base {path / 'model'}"}
    ways = [uses[saved]] if saved in uses else []
    ways += ["raise --epochs to continue it"] if can_be_longer(path) else []
    return SettingsError("contains a finished run", where=path, hint=", or ".join([*ways, elsewhere]))


def _becomes_longer(path: Path, settings: TrainSettings) -> bool:
    """Return whether a folder contains a finished run that the settings make longer.

    Raises:
        SettingsError: they would, but the schedule of the run depends on its number of updates.
    """
    try:
        kept = json.loads((path / "run.json").read_text(encoding="utf-8"))["settings"]
        schedule = str(kept["schedule"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    if not differs_in_length(kept, settings):
        return False
    if not can_be_longer(path) and is_same_run(kept, settings):
        why = f"its {schedule} schedule depends on the number of updates"
        if schedule == "constant":
            why = "it ended early, or its last state is gone"
        hint = "train in another directory with --output; a run with --schedule constant can be made longer"
        raise SettingsError(f"contains a finished run that cannot be made longer: {why}", where=path, hint=hint)
    return can_be_longer(path)


def _numbered(settings: TrainSettings) -> tuple[Path, ResumeFolder]:
    name, runs = short_name(settings.data), Path("runs")
    try:
        runs.mkdir(exist_ok=True)
    except FileExistsError as error:  # a file, or a link to a place that is gone
        hint = "remove it, or name a run directory with --output"
        raise SettingsError("is not a folder", where=runs, hint=hint) from error
    number = 1
    while True:
        path = runs / f"{name}-{settings.method}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            if settings.resume == "never" or not _continues(path, settings):
                number += 1
                continue
        return path, ResumeFolder(path)


def _continues(path: Path, settings: TrainSettings) -> bool:
    """Return whether a folder contains an unfinished run with these settings that no process is working on."""
    try:
        if not is_unfinished(path) or ResumeFolder(path).is_taken():
            return False
        loaded = ResumeFolder(path).load()
    except PermissionError:  # a run of another user
        return False
    except SettingsError as error:
        log.warning("%s; it is not continued", error)
        return False
    return loaded is not None and is_same_run(loaded.job.settings, settings)


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn the failure to write a file into an error that says what the run has saved.

    Raises:
        TrainingError: the disk is full, a limit is reached, or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        saved = next((folder / name for name in RESULTS if (folder / name).exists()), None)
        state = "no result of the run is saved" if saved is None else f"the best state so far is in {saved}"
        raise TrainingError(
            f"cannot be written: {error.strerror or error}; {state}",
            where=error.filename or folder,
            hint="free some space, or choose another place with --output",
        ) from error


def _has_results(folder: Path) -> bool:
    return any((folder / name).exists() for name in RESULTS)


def has_trained(folder: Path) -> bool:
    """Return whether a run directory has the metrics of a run."""
    metrics = folder / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


def remove_results(folder: Path) -> None:
    """Remove what a run directory holds of what its run learnt."""
    for path in (folder / name for name in RESULTS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def trained_data(folder: Path) -> str | None:
    """Return the data that a run directory's run was trained on; None if the folder is not a run directory."""
    try:
        settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]
        return str(settings["data"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
