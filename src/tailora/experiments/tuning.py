"""Search for the training settings with the best validation loss, with Optuna.

Trials are run directories. Their state is in a file or a database that any number of processes share; each process
starts the next trial until there are enough. If a process is killed, the next one repeats its trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich.console import Console

from tailora.core.errors import (
    DataError,
    MissingExtraError,
    ModelError,
    OfflineError,
    SettingsError,
    TrainingError,
    UserError,
)
from tailora.core.files import write_json, write_text
from tailora.core.plural import plural
from tailora.data.values import Record
from tailora.experiments import studies
from tailora.experiments.ranges import Range, listed, written
from tailora.lora.attachment import attachment_of
from tailora.lora.inject import detach
from tailora.models.load import Base, load_base
from tailora.reports.tuning import history_plot, importance_plot
from tailora.training.methods import prepare
from tailora.training.run import run as train
from tailora.training.run_data import examples_of, read_records
from tailora.training.settings import TrainSettings

if TYPE_CHECKING:
    import optuna

VALIDATIONS = 4
"""Validations per trial that pruning uses, unless `eval_every` is set."""
STARTUP = 8
"""Random trials before the sampler uses earlier results."""
_OF_NETWORK = {"base", "targets", "method", "bias"}
_OF_RECORDS = {"max_length", "overlong", "prompt_form", "linearization"}


@dataclass(frozen=True)
class Tuning:
    """The settings to vary, and the number of trials.

    Attributes:
        training: the settings of every trial, which are also tried first.
        ranges: values to try by setting, as `Range.of` reads them.
        trials: in total, including those of other processes and earlier starts.
        output: folder of the trials and the results.
        storage: file or database URL that processes share; None uses study.journal in the output.
        study: name in the storage; None uses that of the output folder.
    """

    training: TrainSettings
    ranges: Mapping[str, Any]
    trials: int
    output: Path
    storage: str | None = None
    study: str | None = None


def tune(tuning: Tuning, console: Console) -> dict[str, Any]:
    """Run trials until there are enough, and write the results of the study.

    Returns:
        The trials, the best one and its settings, and how much each setting mattered; as in study.json.

    Raises:
        MissingExtraError: Optuna is not installed.
        SettingsError: the storage has a study of other settings, a value cannot be used with the base or the records,
            or there are no validation records.
        TrainingError: no trial finished.
        KeyboardInterrupt: on Ctrl-C; the next start repeats the trial.
    """
    optuna = studies.import_optuna()
    training, output = tuning.training, tuning.output
    ranges = [Range.of(*item) for item in tuning.ranges.items()]
    records = read_records(training)
    if not records.valid:
        raise SettingsError("there are no validation records", where="valid", hint="name records with --valid")
    fixed = _fixed(tuning, records.train)
    _check_values(ranges, fixed, (records.train, records.valid))
    output.mkdir(parents=True, exist_ok=True)
    place = tuning.storage or str(output / "study.journal")
    study = studies.open_study(place, tuning.study or output.name, fixed, tuning.ranges, STARTUP // 2)
    studies.take_over(study)
    if not study.get_trials(deepcopy=False):
        _enqueue_own(study, training, ranges)
    while _begun(optuna, study) < tuning.trials:
        _try(optuna, study, ranges, fixed, training.seed, output, console)
    result = _summary(optuna, study)
    others = ", ".join(f"{count} on {host}" for host, count in studies.elsewhere(study).items())
    if others:
        line = f"still running: {others}; if such a machine is gone, raise --trials to replace its trials"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if result["best"] is None:
        why = next((f": {trial['why']}" for trial in reversed(result["trials"]) if trial["why"]), "")
        hint = "narrow the ranges, lower the learning rates, or raise --trials"
        raise TrainingError(f"no trial finished{why}", where=output, hint=hint)
    write_json(output / "study.json", result)
    recipe = {**fixed, **result["best"]["settings"]}
    write_text(output / "best.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    history_plot(result["trials"], output / "history.svg")
    importance_plot(result["importance"], output / "importance.svg")
    return result


def _fixed(tuning: Tuning, train_records: Sequence[Record]) -> dict[str, Any]:
    """Return the settings that are the same in every trial, as YAML values."""
    settings = tuning.training
    fixed = settings.model_dump(mode="json", exclude_unset=True, exclude={"output", *tuning.ranges})
    if settings.eval_every is None and "eval_every" not in tuning.ranges:
        examples = sum(len(record.references) for record in train_records)
        updates = settings.epochs * max(1, examples // settings.batch_size)
        fixed["eval_every"] = max(1, min(updates, settings.max_steps or updates) // VALIDATIONS)
    return fixed


def _check_values(
    ranges: Sequence[Range], fixed: Mapping[str, Any], records: tuple[Sequence[Record], Sequence[Record]]
) -> None:
    """Check the values that depend on the base or the records, before the first trial.

    Raises:
        SettingsError: a target that matches nothing in the network, or a length that a record exceeds.
        UserError: the base cannot be loaded, or no trial could be trained.
    """
    firsts = {varied.name: varied.setting(varied.ends[0]) for varied in ranges}
    bases = [firsts["base"]] if "base" in firsts else []
    bases += [value for varied in ranges if varied.name == "base" for value in varied.ends[1:]]
    for name in bases or [fixed.get("base", TrainSettings.model_fields["base"].default)]:
        base = load_base(name, dtype=torch.float32)
        for varied in ranges:
            for value in varied.ends if varied.name in _OF_NETWORK | _OF_RECORDS else ():
                changed = {**firsts, **({"base": name} if bases else {}), varied.name: varied.setting(value)}
                try:
                    wanted = TrainSettings(**{**fixed, **changed})
                except SettingsError:  # of this combination only, which is pruned when it is tried
                    continue
                try:
                    _check_value(varied.name, wanted, base, records)
                except (SettingsError, DataError, TrainingError) as error:
                    raise SettingsError(f"{varied.name}: {error.what}", where="ranges", hint=error.hint) from error


def _check_value(
    name: str, wanted: TrainSettings, base: Base, records: tuple[Sequence[Record], Sequence[Record]]
) -> None:
    if name in _OF_RECORDS:
        for some in records:
            examples_of(some, base, wanted, Console(quiet=True))
    else:
        prepare(base, wanted)
        if attachment_of(base.model) is not None:
            detach(base.model)


def _enqueue_own(study: optuna.Study, settings: TrainSettings, ranges: Sequence[Range]) -> None:
    """Try the user's own settings first, each that lies in its range; the others are sampled."""
    usual = {varied.name: written(getattr(settings, varied.name)) for varied in ranges}
    usual |= {"learning_rate": settings.peak_learning_rate} if "learning_rate" in usual else {}
    study.enqueue_trial({varied.name: usual[varied.name] for varied in ranges if varied.holds(usual[varied.name])})


def _begun(optuna: Any, study: optuna.Study) -> int:
    """Number of trials that are finished or running."""
    states = optuna.trial.TrialState
    return len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED, states.RUNNING)))


def _try(
    optuna: Any,
    study: optuna.Study,
    ranges: Sequence[Range],
    fixed: Mapping[str, Any],
    seed: int,
    output: Path,
    console: Console,
) -> None:
    trial = study.ask()
    studies.claim(trial)
    try:
        # Seeded by the trial, so that processes that sample at the same time sample different values.
        study.sampler = optuna.samplers.TPESampler(
            seed=(seed * 100_003 + trial.number) % 2**32, n_startup_trials=STARTUP
        )
        chosen = {varied.name: varied.setting(varied.suggest(trial)) for varied in ranges}
        folder = _new_folder(output, trial.number)
        trial.set_user_attr("settings", {name: list(v) if isinstance(v, tuple) else v for name, v in chosen.items()})
        trial.set_user_attr("run", folder.name)
        values = {name: written(value) for name, value in chosen.items()}
        console.print(f"trial {trial.number}: {listed(values)}", highlight=False)
        loss, why = _trained(optuna, trial, {**fixed, **chosen, "output": folder}, ranges)
        if loss is not None:
            study.tell(trial, loss)
            return
        trial.set_user_attr("why", why)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        console.print(f"trial {trial.number}: {why}", highlight=False, markup=False)
    except BaseException as error:
        studies.give_up(study, trial.number, counts=not isinstance(error, KeyboardInterrupt))
        raise


def _trained(
    optuna: Any, trial: optuna.Trial, values: Mapping[str, Any], ranges: Sequence[Range]
) -> tuple[float | None, str]:
    """Train with a trial's settings, and return the validation loss, or None and the reason."""
    reached = 0

    def watch(step: int, loss: float) -> None:
        nonlocal reached
        if step:
            reached += 1
            trial.report(loss, reached)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        result = train(TrainSettings(**values), watch)
    except optuna.TrialPruned:
        return None, f"pruned after {reached} validations"
    except (MemoryError, torch.OutOfMemoryError) as error:
        return None, f"out of memory ({error})"
    except UserError as error:
        if not _is_of_trial(error, ranges):
            raise
        return None, str(error)
    trial.set_user_attr("seconds", result["seconds"])
    loss = result["validation_loss"].get("exact") or result["validation_loss"]["after"]
    return (loss, "") if math.isfinite(loss) else (None, f"the validation loss is {loss}")


def _is_of_trial(error: UserError, ranges: Sequence[Range]) -> bool:
    """Whether an error is caused by the trial's settings, so that they are not tried again.

    Every single value was checked before, so the cause is a combination of settings or the environment.
    """
    names = {varied.name for varied in ranges}
    if isinstance(error, MissingExtraError | OfflineError):
        return False
    if isinstance(error, ModelError):
        return "base" in names
    if isinstance(error, DataError):
        return bool(names & (_OF_RECORDS | {"base"}))
    return not isinstance(error.__cause__, OSError)  # which a full disk causes


def _new_folder(output: Path, number: int) -> Path:
    """Return a new folder for a trial's run; another study may have left one with the same number."""
    folder = output / f"trial-{number:04}"
    other = 2
    while folder.exists():
        folder = output / f"trial-{number:04}-{other}"
        other += 1
    return folder


def _summary(optuna: Any, study: optuna.Study) -> dict[str, Any]:
    states = optuna.trial.TrialState
    trials = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "validation_loss": trial.value if trial.state == states.COMPLETE else None,
            "reported": [loss if math.isfinite(loss) else None for loss in trial.intermediate_values.values()],
            "settings": trial.user_attrs.get("settings", {}),
            "seconds": trial.user_attrs.get("seconds"),
            "why": _why(trial),
            "run": trial.user_attrs.get("run", f"trial-{trial.number:04}"),
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (states.COMPLETE, states.PRUNED)
    ]
    done = [trial for trial in trials if trial["validation_loss"] is not None]
    varied = len({json.dumps(trial["settings"], sort_keys=True) for trial in done}) > 1
    importance = optuna.importance.get_param_importances(study) if len(done) > STARTUP // 2 and varied else {}
    best = min(done, key=lambda trial: trial["validation_loss"], default=None)
    return {"study": study.study_name, "trials": trials, "best": best, "importance": dict(importance)}


def _why(trial: optuna.trial.FrozenTrial) -> str | None:
    if trial.state.name == "PRUNED":
        return str(trial.user_attrs.get("why", f"its process was killed {plural(studies.TRIES, 'time')}"))
    return None
