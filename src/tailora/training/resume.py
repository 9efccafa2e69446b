"""The saved states of a run, from which a run that was killed continues, or one that has ended becomes longer.

An unfinished run has a folder `resume/` in its run directory. It contains a lock file, locked while a process trains,
and the last two states. Each state is one file, written whole or not at all. A finished run whose schedule allows more
updates keeps its last state there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tailora.core.errors import SettingsError
from tailora.core.file_lock import FileLock
from tailora.core.files import recover
from tailora.training import state_file
from tailora.training.settings import TrainSettings
from tailora.training.state_file import RunState, UnusableStateError

FOLDER = "resume"
FINAL = "final.safetensors"
"""File of the state after the last update of a run that has ended and can become longer."""
KEPT = 2
"""Number of states to keep: the newest, and the one before in case the newest is damaged."""
SHARE = 100
"""Saving states takes at most one part in this of the time."""
_FREE = {"output", "resume", "save_every", "device", "track", "memory_limit", "recipe"}
"""Settings that may differ when a run is continued."""
_LENGTH = {"epochs", "max_steps"}
"""Settings that only say when the run ends."""


@dataclass(frozen=True)
class Job:
    """The identity of a run: what must be the same for it to be continued.

    Attributes:
        settings: the settings of the run as JSON values.
        data: digests of the examples to train and to validate on.
        base: fingerprint of the base model.
        choice: the precision and why it was chosen.
        steps: number of updates of the whole run.
        threads: number of CPU threads, on which the last bits depend.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, str]
    base: str
    choice: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    threads: int = 0

    def differences(self, other: Job) -> list[str]:
        """Return the reasons why a run of this job cannot be continued as the other, as clauses."""
        before = completed(self.settings)
        differences = [
            f"{name} was {before[name]!r} and is {value!r}"
            for name, value in other.settings.items()
            if name not in _FREE | _LENGTH | {"warmup_steps"} and value != before[name]
        ]
        changed = [name for name in self.data if self.data[name] != other.data.get(name)]
        differences += [f"the {name} data has changed" for name in changed]
        if self.base != other.base:
            differences.append("the base model has other weights")
        return differences + self._differences_of_length(other)

    def _differences_of_length(self, other: Job) -> list[str]:
        """Return why a run with this number of updates cannot continue as one with the other's."""
        clauses = []
        schedule, updates = other.settings["schedule"], f"{other.steps} updates instead of {self.steps}"
        if self.steps != other.steps and schedule != "constant":
            clauses.append(
                f"the run would have {updates}, and the learning rates of the {schedule} schedule depend on it"
            )
        elif other.steps < self.steps:
            clauses.append(f"the run would have {updates}, and a run can only become longer")
        if self.steps != other.steps and other.settings["average"]:
            clauses.append("the average would be over other updates")
        before, after = self._warmup, other._warmup
        if before != after:
            clauses.append(
                f"the warm-up would be {after} updates instead of {before} (--warmup-steps {before} keeps it)"
            )
        return clauses

    @property
    def _warmup(self) -> int:
        """The number of updates of the warm-up; see `optimizer.learning_rate`."""
        return min(int(self.settings["warmup_steps"]), self.steps // 10)


class LoadedState(NamedTuple):
    """A state that a run can continue from.

    Attributes:
        job: the job that wrote it.
        state: the state.
        problems: why newer states cannot be used, as sentences without a full stop.
    """

    job: Job
    state: RunState
    problems: tuple[str, ...] = ()


class ResumeFolder:
    """The `resume/` of a run directory; use it in a `with` statement.

    Entering acquires the lock. Leaving releases it and keeps the states, unless `finished` was called.

    Args:
        run: the run directory.

    Raises:
        SettingsError: on entering, if another process has the lock.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.path = run, run / FOLDER
        self._lock = FileLock(self.path / "lock")

    def __enter__(self) -> ResumeFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire():
            hint = "wait for it, or name another run directory with --output"
            raise SettingsError("another process is training in this directory", where=self.run, hint=hint)
        recover(self.path)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        if not self.states() and not (self.path / FINAL).exists():  # nothing to continue from
            self.finished()

    def is_taken(self) -> bool:
        """Return whether a process has the lock."""
        if not self._lock.acquire():
            return True
        self._lock.release()
        return False

    def states(self) -> list[Path]:
        """Return the files of the states, the newest first."""
        return sorted(self.path.glob("state-*.safetensors"), reverse=True)

    def save(self, job: Job, state: RunState) -> None:
        """Write a state, and remove all but the last `KEPT` states, and any after it.

        States after it are left of a run that continues from an earlier one, since they cannot be used.

        Raises:
            OSError: for example, the disk is full; the earlier states stay.
        """
        path = self._state(state.step)
        state_file.write(path, state, asdict(job))
        earlier = [other for other in self.states() if other <= path]
        for old in {*self.states()} - {*earlier[:KEPT]}:
            old.unlink(missing_ok=True)

    def load(self) -> LoadedState | None:
        """Return the newest state that can be used, and its job; None if there is no state.

        Raises:
            SettingsError: there are states, but none can be used.
        """
        problems = []
        for path in [*self.states(), *self.path.glob(FINAL)]:
            try:
                job, state = state_file.read(path)
            except UnusableStateError as problem:
                problems.append(f"{path.name} {problem}")
            else:
                return LoadedState(Job(**job), state, tuple(problems))
        if problems:
            hint = "train in another directory with --output, or delete the run directory to start again in it"
            what = f"the saved states of the run cannot be used: {'; '.join(problems)}"
            raise SettingsError(what, where=self.path, hint=hint)
        return None

    def finished(self, final: int | None = None) -> None:
        """Remove the folder, since the run has ended.

        Args:
            final: number of updates of a run that can become longer; the state after its last update is kept.
        """
        states = self.states()
        if final is not None and states and states[0] == self._state(final):
            states[0].replace(self.path / FINAL)
            for old in states[1:]:
                old.unlink(missing_ok=True)
            self._lock.release()
            return
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def _state(self, step: int) -> Path:
        return self.path / f"state-{step:09}.safetensors"


class Saver:
    """Decides when states are saved.

    Args:
        save: writes a state.
        minutes: time between two states; 0 saves after every update.
        agree: returns the decision of the first process, where several save together; takes this process's.
        clock: returns the time in seconds, from any origin.

    Attributes:
        seconds: time spent on saving.
        problem: why the last state could not be written; empty if it could.
    """

    def __init__(
        self,
        save: Callable[[], None],
        minutes: float,
        *,
        agree: Callable[[bool], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._save, self._every, self._agree, self._clock = save, 60 * minutes, agree, clock
        self._last, self._took = clock(), 0.0
        self.seconds, self.problem = 0.0, ""

    def after_update(self, *, validated: bool) -> None:
        """Save if the interval has passed or after a validation, unless saving would take more than its share."""
        passed = self._clock() - self._last
        is_due = not self._every or (passed >= SHARE * self._took and (validated or passed >= self._every))
        if self._agree(is_due):
            self.save()

    def save(self) -> None:
        """Save at once; an `OSError` is recorded in `problem`, and the run continues."""
        began = self._clock()
        try:
            self._save()
            self.problem = ""
        except OSError as error:
            self.problem = error.strerror or str(error)
        self._last = self._clock()
        self._took = self._last - began
        self.seconds += self._took


def check_same(before: Job, job: Job, folder: Path) -> None:
    """Check that the run in a folder can be continued as a job.

    Args:
        before: the job that wrote the state.
        job: the job that would continue it.
        folder: the run directory.

    Raises:
        SettingsError: it cannot; all differences are in the message.
    """
    differences = before.differences(job)
    if differences:
        what = f"contains a run with other settings or data: {', '.join(differences)}"
        hint = "repeat that run's settings, or name another directory with --output"
        raise SettingsError(what, where=folder, hint=hint)


def is_unfinished(run: Path) -> bool:
    """Return whether a run directory contains a run that has not ended."""
    folder = run / FOLDER
    has_states = any(folder.glob("state-*.safetensors"))
    return folder.is_dir() and (has_states or not (can_be_longer(run) or _has_ended(run)))


def _has_ended(run: Path) -> bool:
    """Return whether a run has recorded its end. Its folder of states may stay, on NFS while a state is still read."""
    try:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return "finished" in record and (not record["interrupted"] or record.get("failed") is not None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def can_be_longer(run: Path) -> bool:
    """Return whether a run directory contains a run that has ended and has a state to continue from."""
    return (run / FOLDER / FINAL).is_file()


def differs_in_length(settings: Mapping[str, Any], wanted: TrainSettings) -> bool:
    """Return whether settings want another number of epochs or updates."""
    return any(settings.get(name) != getattr(wanted, name) for name in _LENGTH)


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with the defaults of those that it lacks, since its version did not have them."""
    return {**TrainSettings(data=str(settings.get("data"))).model_dump(mode="json"), **settings}


def is_same_run(settings: Mapping[str, Any], wanted: TrainSettings) -> bool:
    """Return whether settings are the same, except for those that may differ when a run is continued."""
    other, kept = wanted.model_dump(mode="json"), completed(settings)
    return all(kept[name] == value for name, value in other.items() if name not in _FREE | _LENGTH)
