"""The state of a run between two updates, kept so that a run that was killed continues where it was.

The run directory holds `resume/` for as long as the run is unfinished: a lock file, which only a living process holds,
and the last two states, each one file that is written whole or not at all.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tailora.core.errors import SettingsError
from tailora.core.file_lock import FileLock
from tailora.core.files import atomic_path
from tailora.training.settings import TrainSettings

VERSION = 1
"""Of the files' form."""
FOLDER = "resume"
KEPT = 2
"""States that are kept: the newest, and the one before in case a disk damaged it."""
SHARE = 100
"""A state is saved at most so often that saving takes less than one part in this of the time."""
_FREE = {"output", "resume", "save_every", "device"}
"""Settings that a run may be continued with other values of."""
_LENGTH = {"epochs", "max_steps"}
"""Settings that only say when the run ends."""


@dataclass
class RunState:
    """Everything that the rest of a run depends on, besides its settings and data.

    Attributes:
        step: updates made.
        progress: counts, losses and warnings so far; see `loop.Outcome`.
        fruitless: validations in a row without a better loss.
        learning: what learns, by name.
        best: what learnt as it was at the best validation; None where there was none.
        optimizer: the optimiser's tensors by parameter number and name.
        generators: states of the random number generators, by name.
        metrics_bytes: length of metrics.jsonl.
    """

    step: int
    progress: dict[str, Any]
    fruitless: int
    learning: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[int, dict[str, Tensor]]
    generators: dict[str, Tensor]
    metrics_bytes: int = 0


@dataclass(frozen=True)
class Job:
    """What tells a run from another one.

    Attributes:
        settings: of the run, as JSON has them.
        data: digests of the examples to train and to validate on.
        base: the base model's fingerprint.
        choice: the precision and why it was taken.
        steps: updates in all.
        threads: of the processor, on which the last bits depend.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, str]
    base: str
    choice: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    threads: int = 0

    def differences(self, other: Job) -> list[str]:
        """What keeps a run of this job from being continued as the other, one clause each."""
        found = [
            f"{name} was {self.settings.get(name)!r} and is {value!r}"
            for name, value in other.settings.items()
            if name not in _FREE | _LENGTH and value != self.settings.get(name)
        ]
        found += [f"the {name} data has changed" for name in self.data if self.data[name] != other.data.get(name)]
        if self.base != other.base:
            found.append("the base model has other weights")
        if self.steps != other.steps and not self._may_be_longer(other):
            schedule = other.settings["schedule"]
            found.append(
                f"the run would have {other.steps} updates instead of {self.steps}, on which the learning rate of "
                f"the {schedule} schedule and its warm-up depend"
            )
        return found

    def _may_be_longer(self, other: Job) -> bool:
        def warmup(steps: int) -> int:
            return min(int(other.settings["warmup_steps"]), steps // 10)

        constant = other.settings["schedule"] == "constant"
        return constant and other.steps > self.steps and warmup(self.steps) == warmup(other.steps)


class ResumeFolder:
    """The `resume/` of a run directory; use it in a `with` statement.

    Entering takes the lock. Leaving gives it back and keeps the states, unless `finished` was called.

    Args:
        run: the run directory.

    Raises:
        SettingsError: another process has the lock.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.path = run, run / FOLDER
        self._lock = FileLock(self.path / "lock")

    def __enter__(self) -> ResumeFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire():
            hint = "wait for it, or name another run directory with --output"
            raise SettingsError("another process is training in this directory", where=self.run, hint=hint)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        if not self.states():  # nothing to continue from
            self.finished()

    def is_taken(self) -> bool:
        """Whether a process holds the lock."""
        if not self._lock.acquire():
            return True
        self._lock.release()
        return False

    def states(self) -> list[Path]:
        """The files of the states, the newest first."""
        return sorted(self.path.glob("state-*.safetensors"), reverse=True)

    def save(self, job: Job, state: RunState) -> None:
        """Write a state, and remove those that are older than the one before.

        Raises:
            OSError: the disk is full, for example; the states that are there stay.
        """
        tensors = {f"learning.{name}": tensor for name, tensor in state.learning.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in (state.best or {}).items()}
        tensors |= {f"generator.{name}": tensor for name, tensor in state.generators.items()}
        for number, values in state.optimizer.items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
        rest = {
            "version": VERSION,
            "job": asdict(job),
            "step": state.step,
            "progress": state.progress,
            "fruitless": state.fruitless,
            "metrics_bytes": state.metrics_bytes,
        }
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic_path(self.path / f"state-{state.step:09}.safetensors") as path:
            save_file(whole, path, {"state": json.dumps(rest)})
        for old in self.states()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[Job, RunState] | None:
        """The newest state that can be read, and its job; None where there is none.

        Raises:
            SettingsError: there are states and none can be read.
        """
        states = self.states()
        for path in states:
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError):
                continue
        if states:
            hint = "delete the folder, or start a new run with --resume never"
            raise SettingsError("the saved states of the run cannot be read", where=self.path, hint=hint)
        return None

    def finished(self) -> None:
        """Remove the folder: the run is over."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


class Saver:
    """Decides when states are saved.

    Args:
        save: writes a state.
        minutes: between two states; 0 saves after every update.
        clock: the time in seconds, from any origin.

    Attributes:
        seconds: spent on saving.
        problem: why the last state could not be written; empty if it could.
    """

    def __init__(self, save: Callable[[], None], minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._save, self._every, self._clock = save, 60 * minutes, clock
        self._last, self._took = clock(), 0.0
        self.seconds, self.problem = 0.0, ""

    def after_update(self, *, validated: bool) -> None:
        """Save if it is time: every so many minutes and after validations, unless saving takes too much of the time."""
        passed = self._clock() - self._last
        if not self._every or (passed >= SHARE * self._took and (validated or passed >= self._every)):
            self.save()

    def save(self) -> None:
        """Save at once; a system error is kept in `problem`, and the run goes on."""
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
    """Raise `SettingsError` unless the run in a folder can be continued as a job."""
    differences = before.differences(job)
    if differences:
        what = f"holds an unfinished run with other settings or data: {', '.join(differences)}"
        raise SettingsError(what, where=folder, hint="give the run's own, or name another directory with --output")


def is_unfinished(run: Path) -> bool:
    """Whether a run directory holds a run that has not ended."""
    return (run / FOLDER).is_dir()


def settings_of(run: Path) -> Mapping[str, Any] | None:
    """The settings of an unfinished run; None where no state says them."""
    try:
        loaded = ResumeFolder(run).load()
    except SettingsError:
        return None
    return None if loaded is None else loaded[0].settings


def is_same_run(settings: Mapping[str, Any], wanted: TrainSettings) -> bool:
    """Whether settings are those of a run, but for what may differ when it is continued."""
    other = wanted.model_dump(mode="json")
    return all(settings.get(name) == value for name, value in other.items() if name not in _FREE | _LENGTH)


def _read(path: Path) -> tuple[Job, RunState]:
    parts: dict[str, dict[str, Tensor]] = {"learning": {}, "best": {}, "generator": {}}
    optimizer: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        rest = json.loads(file.metadata()["state"])
        if rest["version"] != VERSION:
            raise ValueError(f"version {rest['version']}")
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part, _, own = name.partition(".")
            if part == "optimizer":
                number, _, own = own.partition(".")
                optimizer.setdefault(int(number), {})[own] = file.get_tensor(name)
            else:
                parts[part][own] = file.get_tensor(name)
    state = RunState(
        step=int(rest["step"]),
        progress=rest["progress"],
        fruitless=int(rest["fruitless"]),
        learning=parts["learning"],
        best=parts["best"] or None,
        optimizer=optimizer,
        generators=parts["generator"],
        metrics_bytes=int(rest["metrics_bytes"]),
    )
    return Job(**rest["job"]), state
