"""Studies of `tailora tune`: their storage, the processes that run trials, and abandoned trials."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailora.core.errors import MissingExtraError, SettingsError
from tailora.core.hardware.processes import process_lives
from tailora.experiments.ranges import Range, written
from tailora.training.settings import TrainSettings

if TYPE_CHECKING:
    import optuna

TRIES = 2
"""Number of starts after which settings that end their process (by a signal or a bug) are not tried again."""
_UNCLAIMED = datetime.timedelta(minutes=10)
"""Age from which a trial without a process counts as abandoned: its process was killed before it claimed the trial."""


def import_optuna() -> Any:
    """Return the module optuna with its messages off; raise `MissingExtraError` if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("tuning needs Optuna", hint="pip install 'tailora[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(place: str, name: str, fixed: Mapping[str, Any], ranges: Mapping[str, Any], startup: int) -> Any:
    """Open a study, or create it.

    Args:
        place: a file, or a database URL.
        name: of the study.
        fixed: settings of every trial.
        ranges: values to try by setting, as `Range.of` reads them. They may differ from those of an existing study as
            far as Optuna can continue with them.
        startup: number of trials before trials are pruned.

    Raises:
        SettingsError: the place cannot be opened, or contains a study with other settings or with ranges that cannot be
            continued.
        MissingExtraError: the database's driver is not installed.
    """
    optuna = import_optuna()
    try:
        study = optuna.create_study(
            study_name=name,
            storage=_database(optuna, place) if "://" in place else _journal(optuna, Path(place)),
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=startup),
        )
    except ImportError as error:
        raise MissingExtraError(f"cannot be opened ({error})", where=place, hint="install its driver") from error
    except OSError:
        raise
    except Exception as error:  # each storage has its own exceptions
        what = f"cannot be opened as a study ({type(error).__name__}: {error})"
        raise SettingsError(what, where=place, hint="name another --storage or --output") from error
    known = study.user_attrs.get("job")
    if known is not None and study.get_trials(deepcopy=False):
        _check_job(place, json.loads(known), dict(fixed), dict(ranges))
    study.set_user_attr("job", json.dumps([fixed, ranges], sort_keys=True))
    return study


def _database(optuna: Any, url: str) -> Any:
    """A database whose connections are closed after each use, so that none stays open after the study."""
    from sqlalchemy.pool import NullPool  # a dependency of Optuna

    return optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})


def _journal(optuna: Any, path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal
    # The lock is a file created exclusively, which works on network drives and on Windows.
    lock = backend.JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        if path.exists():  # a killed process or a full disk may leave an incomplete line
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()
    return optuna.storages.JournalStorage(backend.JournalFileBackend(str(path), lock_obj=lock))


def _check_job(place: str, known: Sequence[dict[str, Any]], fixed: dict[str, Any], ranges: dict[str, Any]) -> None:
    """Raise `SettingsError` unless a study can continue with these settings and ranges."""
    settings, varied = known
    usual = _defaults()
    before, here = {**usual, **settings}, {**usual, **fixed}
    differing = [name for name in sorted({*before, *here}) if before.get(name) != here.get(name)]
    changes = [f"{name} is {written(before.get(name))}, here {written(here.get(name))}" for name in differing]
    if changes:
        hint = "use the same settings, or name another --output or --study"
        raise SettingsError(f"contains a study with other settings: {', '.join(changes)}", where=place, hint=hint)
    for name in sorted(set(varied) & set(ranges)):
        change = Range.of(name, ranges[name]).change_from(Range.of(name, varied[name]))
        if change is not None:
            hint = "use the same ranges, or name another --output or --study"
            raise SettingsError(f"contains a study with other ranges: {change}", where=place, hint=hint)


def _defaults() -> dict[str, Any]:
    """The defaults of a training run's settings, as JSON has them: naming one explicitly changes nothing."""
    defaults = {name: field.get_default(call_default_factory=True, validated_data={})
                for name, field in TrainSettings.model_fields.items() if not field.is_required()}  # fmt: skip
    return dict(json.loads(json.dumps(defaults)))


def claim(trial: optuna.Trial) -> None:
    """Record this process as the owner of a trial, in one write."""
    trial.set_user_attr("process", [platform.node(), os.getpid(), _started(os.getpid())])


def take_over(study: optuna.Study) -> None:
    """End the trials of this machine whose process has ended, and queue their settings again."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING" and _is_abandoned(trial):
            give_up(study, trial.number, counts=True)


def give_up(study: optuna.Study, number: int, *, counts: bool) -> None:
    """End a trial without a result, and queue its settings again.

    Args:
        study: the study of the trial.
        number: number of the trial.
        counts: whether its settings may be at fault. After `TRIES` such starts they are not tried again, so that
            settings that end every process (for example for lack of memory) cannot block the study.
    """
    trial = study.trials[number]
    tries = int(trial.user_attrs.get("tries", 0)) + counts
    try:
        study.tell(number, state=type(trial.state).PRUNED if tries >= TRIES else type(trial.state).FAIL)
    except ValueError:  # another process has done it
        return
    if tries < TRIES and trial.params:
        study.enqueue_trial(trial.params, user_attrs={"tries": tries})


def elsewhere(study: optuna.Study) -> dict[str, int]:
    """Return the number of trials that count as running on other machines, by the name of the machine."""
    counts: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        host = trial.user_attrs.get("process", [None])[0]
        if trial.state.name == "RUNNING" and host not in {None, platform.node()}:
            counts[host] = counts.get(host, 0) + 1
    return counts


def _is_abandoned(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial that counts as running has no process. Trials of other machines never count as abandoned."""
    if "process" not in trial.user_attrs:
        start = trial.datetime_start
        return start is not None and datetime.datetime.now() - start > _UNCLAIMED
    host, pid, started = trial.user_attrs["process"]
    if host != platform.node():
        return False
    return pid == os.getpid() or not process_lives(pid) or started != _started(pid)


def _started(pid: int) -> str | None:
    """Return when a process started, to distinguish it from a later one with the same PID; None if unknown."""
    try:
        if sys.platform == "linux":
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            # The name in parentheses may hold anything; the start is the 20th field after it, in ticks since boot.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return f"{boot}:{fields[19]}"
        if sys.platform == "darwin":
            command = ["ps", "-o", "lstart=", "-p", str(pid)]
            return subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout.strip() or None
    except (OSError, IndexError):
        pass
    return None
