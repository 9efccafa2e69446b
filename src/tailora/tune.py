"""`tailora tune`: look for the settings of `tailora train` that validate best, with Optuna.

Trials are run directories. What is known of them lies in a file or a database that any number of processes share; each
takes the next trial from it until there are enough. A process that was killed leaves its trial to the next one.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import yaml
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tailora.errors import MissingExtraError, SettingsError, TrainingError
from tailora.files import write_json, write_text
from tailora.hardware import process_lives
from tailora.reports.tuning import history_plot, importance_plot
from tailora.train.run import read_records
from tailora.train.run import run as train
from tailora.train.settings import TrainSettings

if TYPE_CHECKING:
    import optuna

VALIDATIONS = 4
"""In a trial, unless `eval_every` says otherwise: what pruning goes by."""
STARTUP = 8
"""Trials drawn at random before the sampler has something to go by."""
WIDE = 10
"""A range is searched by its logarithm from this ratio of its ends on."""
_SHOWN = 10
_FIXED = {"data", "valid", "format", "columns", "output", "ranges", "trials", "storage", "study"}


class TuneSettings(TrainSettings):
    """Settings of `tailora tune`: those of `tailora train`, which hold in every trial, and what to vary."""

    ranges: dict[str, Any]
    """What to vary: setting to values (a list, or a|b|c) or a range (1e-4..3e-3; by logarithm if tenfold or wider)."""
    trials: int = Field(20, ge=1)
    """Trials in all, those of other processes and earlier starts included."""
    storage: str | None = None
    """File, or database URL, that processes share; by default study.journal in the output folder."""
    study: str | None = None
    """Name of the study in its storage; by default that of the output folder."""
    output: Path | None = None
    """Folder of the trials and of what came of them; by default runs/DATA-tune."""

    @model_validator(mode="after")
    def _searchable(self) -> TuneSettings:
        if not self.ranges:
            raise SettingsError("nothing to vary", where="ranges", mend="give ranges like learning_rate: 1e-4..3e-3")
        for name, value in self.ranges.items():
            Range.of(name, value)
        return self


class Range(NamedTuple):
    """The values that a setting may take.

    Attributes:
        name: of the setting.
        choices: the values, or none where it is a range.
        low: least value of a range.
        high: largest value of a range.
        whole: whether it holds whole numbers only.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @classmethod
    def of(cls, name: str, value: Any) -> Range:
        """Read one entry of `ranges`.

        Raises:
            SettingsError: no such setting, not one to vary, or no values.
        """
        field = TrainSettings.model_fields.get(name)
        if field is None or name in _FIXED:
            raise SettingsError(f"{name} is no setting to vary", where="ranges", mend="see `tailora train --help`")
        if isinstance(value, str) and ".." in value:
            low, _, high = value.partition("..")
            kinds = {field.annotation, *get_args(field.annotation)}
            if not kinds & {int, float}:
                raise SettingsError(f"{name} takes no range", where="ranges", mend="give values: a|b|c")
            try:
                ends = float(low), float(high)
            except ValueError as error:
                mend = "write it as 1e-4..3e-3"
                raise SettingsError(f"{name}: {value} is no range", where="ranges", mend=mend) from error
            whole = float not in kinds
            if ends[0] >= ends[1] or (whole and not all(end.is_integer() for end in ends)):
                what = f"{name}: {value} is no range" + (" of whole numbers" if whole else "")
                raise SettingsError(what, where="ranges", mend="put the smaller end first")
            found = cls(name, (), *ends, whole)
        else:
            given = value if isinstance(value, list) else value.split("|") if isinstance(value, str) else [value]
            choices = [yaml.safe_load(each) if isinstance(each, str) else each for each in given]
            # YAML reads 1e-3 as text.
            found = cls(name, tuple(_number(each) if isinstance(each, str) else each for each in choices))
            if not choices or any(isinstance(each, list | dict) for each in choices):
                what = f"{name}: {value} holds no values to choose from"
                raise SettingsError(what, where="ranges", mend="write several targets as attention+mlp")
        for each in found.choices or (found.low, found.high):
            try:
                TrainSettings(data="", **{name: found.setting(each)})
            except SettingsError as error:
                raise SettingsError(f"{name}: {error.what}", where="ranges", mend=error.mend) from error
        return found

    @property
    def logarithmic(self) -> bool:
        """Whether a range is searched by its logarithm."""
        return self.low > 0 and self.high >= WIDE * self.low

    def suggest(self, trial: optuna.Trial) -> Any:
        """What Optuna takes for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.logarithmic)
        return trial.suggest_float(self.name, self.low, self.high, log=self.logarithmic)

    def holds(self, value: Any) -> bool:
        """Whether a value is among those to try."""
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high

    def setting(self, value: Any) -> Any:
        """A value as the settings class takes it."""
        if self.whole and isinstance(value, float):
            return int(value)
        several = TrainSettings.model_fields[self.name].annotation == tuple[str, ...]
        return tuple(str(value).split("+")) if several else value


def run(settings: TuneSettings) -> dict[str, Any]:
    """Run trials until there are as many as asked for, and write what came of the study.

    Returns:
        The trials, the best one and its settings, and how much each setting mattered; as in study.json.

    Raises:
        MissingExtraError: Optuna is not there.
        SettingsError: the storage holds a study of other settings, or there is nothing to validate on.
        TrainingError: no trial came to an end.
        KeyboardInterrupt: on Ctrl-C; the trial is left to the next start.
    """
    optuna = _optuna()
    console = Console(stderr=True)
    output = settings.output or Path("runs") / f"{Path(settings.data).name.split('.')[0] or 'data'}-tune"
    fixed = _fixed(settings)
    output.mkdir(parents=True, exist_ok=True)
    study = _open(optuna, settings, output, fixed)
    _take_over(study)
    while _begun(optuna, study) < settings.trials:
        # Other processes draw at the same time: each draws anew, from a number that is the trial's own.
        seed = settings.seed * 100_003 + len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        _try(optuna, study, settings, fixed, output, console)
    result = _account(optuna, study, output)
    if result["best"] is None:
        raise TrainingError("no trial came to its end", where=output, mend="narrow the ranges, or lower the rates")
    write_json(output / "study.json", result)
    recipe = {**fixed, **result["best"]["settings"]}
    write_text(output / "best.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    history_plot(result["trials"], output / "history.svg")
    importance_plot(result["importance"], output / "importance.svg")
    _tell(console, result, output)
    return {**result, "output": str(output), "recipe": str(output / "best.yaml")}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("tuning needs Optuna", mend="pip install 'tailora[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _fixed(settings: TuneSettings) -> dict[str, Any]:
    """What holds in every trial, as `tailora train` takes it from YAML."""
    own = set(TuneSettings.model_fields) - set(TrainSettings.model_fields) | {"output"}
    fixed = settings.model_dump(mode="json", exclude_unset=True, exclude=own | set(settings.ranges))
    if settings.eval_every is None and "eval_every" not in settings.ranges:
        train_records, valid = read_records(settings)
        if not valid:
            raise SettingsError("nothing to validate on", where="valid", mend="name records with --valid")
        examples = sum(len(record.references) for record in train_records)
        updates = settings.epochs * max(1, examples // settings.batch_size)
        fixed["eval_every"] = max(1, min(updates, settings.max_steps or updates) // VALIDATIONS)
    return fixed


def _open(optuna: Any, settings: TuneSettings, output: Path, fixed: dict[str, Any]) -> Any:
    place = settings.storage or str(output / "study.journal")
    storage: Any = place
    if "://" not in place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal
        # The lock is a file that is made exclusively, which works on network drives and on Windows.
        lock = backend.JournalFileOpenLock(place)
        storage = optuna.storages.JournalStorage(backend.JournalFileBackend(place, lock_obj=lock))
    study = optuna.create_study(
        study_name=settings.study or output.name,
        storage=storage,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP // 2),
    )
    job = json.dumps([fixed, settings.ranges], sort_keys=True)
    known = study.user_attrs.get("job")
    if known is None:
        study.set_user_attr("job", job)
        # What is tried first is what the user has, where it lies in the ranges.
        ranges = [Range.of(*item) for item in settings.ranges.items()]
        usual = {each.name: _told(getattr(settings, each.name)) for each in ranges}
        usual |= {"learning_rate": settings.peak_learning_rate} if "learning_rate" in usual else {}
        if all(each.holds(usual[each.name]) for each in ranges):
            study.enqueue_trial(usual)
    elif known != job:
        mend = "give those, or name another --output or --study"
        raise SettingsError("holds a study of other settings or ranges", where=place, mend=mend)
    return study


def _take_over(study: optuna.Study) -> None:
    """End the trials whose process is gone, and have their settings tried again."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name != "RUNNING" or trial.user_attrs.get("host") != platform.node():
            continue
        pid = trial.user_attrs["pid"]
        if pid == os.getpid() or not process_lives(pid):
            study.tell(trial.number, state=type(trial.state).FAIL)
            study.enqueue_trial(trial.params)


def _begun(optuna: Any, study: optuna.Study) -> int:
    """Trials that are done or under way."""
    states = optuna.trial.TrialState
    return len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED, states.RUNNING)))


def _try(
    optuna: Any, study: optuna.Study, settings: TuneSettings, fixed: dict[str, Any], output: Path, console: Console
) -> None:
    trial, states = study.ask(), optuna.trial.TrialState
    trial.set_user_attr("host", platform.node())
    trial.set_user_attr("pid", os.getpid())
    folder = output / f"trial-{trial.number:04}"
    ranges = [Range.of(*item) for item in settings.ranges.items()]
    chosen = {each.name: each.setting(each.suggest(trial)) for each in ranges}
    told = {name: _told(value) for name, value in chosen.items()}
    console.print(f"trial {trial.number}: {_listed(told)}", highlight=False)
    trial.set_user_attr("settings", {name: list(v) if isinstance(v, tuple) else v for name, v in chosen.items()})
    reached = 0

    def watch(step: int, loss: float) -> None:
        nonlocal reached
        if step:
            reached += 1
            trial.report(loss, reached)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        result = train(TrainSettings(**fixed, **chosen, output=folder), watch)
        loss = result["validation_loss"].get("exact") or result["validation_loss"]["after"]
        trial.set_user_attr("seconds", result["seconds"])
        study.tell(trial, loss)
    except optuna.TrialPruned:
        trial.set_user_attr("why", f"pruned after {reached} validations")
        study.tell(trial, state=states.PRUNED)
        console.print(f"trial {trial.number} is behind: pruned", highlight=False)
    except TrainingError as error:  # a rate too high, say: known to be bad, and not worth a second try
        trial.set_user_attr("why", str(error))
        study.tell(trial, state=states.PRUNED)
        console.print(f"trial {trial.number}: {error}", highlight=False, markup=False)
    except BaseException:
        study.tell(trial, state=states.FAIL)
        study.enqueue_trial(trial.params)
        raise


def _account(optuna: Any, study: optuna.Study, output: Path) -> dict[str, Any]:
    states = optuna.trial.TrialState
    trials = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "validation_loss": trial.value if trial.state == states.COMPLETE else None,
            "reported": list(trial.intermediate_values.values()),
            "settings": trial.user_attrs.get("settings", {}),
            "seconds": trial.user_attrs.get("seconds"),
            "why": trial.user_attrs.get("why"),
            "run": f"trial-{trial.number:04}",
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (states.COMPLETE, states.PRUNED)
    ]
    done = [trial for trial in trials if trial["validation_loss"] is not None]
    varied = len({json.dumps(trial["settings"], sort_keys=True) for trial in done}) > 1
    importance = optuna.importance.get_param_importances(study) if len(done) > STARTUP // 2 and varied else {}
    best = min(done, key=lambda trial: trial["validation_loss"], default=None)
    return {"study": study.study_name, "trials": trials, "best": best, "importance": dict(importance)}


def _tell(console: Console, result: dict[str, Any], output: Path) -> None:
    done = [trial for trial in result["trials"] if trial["validation_loss"] is not None]
    table = Table(title=f"{len(result['trials'])} trials, {len(result['trials']) - len(done)} of them pruned")
    for heading in ("trial", "validation loss", "seconds", "settings"):
        table.add_column(heading, justify="left" if heading == "settings" else "right")
    for trial in sorted(done, key=lambda trial: trial["validation_loss"])[:_SHOWN]:
        told = _listed({name: _told(value) for name, value in trial["settings"].items()})
        table.add_row(str(trial["number"]), f"{trial['validation_loss']:.4f}", f"{trial['seconds']:.0f}", told)
    console.print(table)
    if result["importance"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importance"].items())
        console.print(f"importance: {shares}", highlight=False)
    console.print(f"train with the best: tailora train {output / 'best.yaml'}", highlight=False, soft_wrap=True)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _told(value: Any) -> Any:
    """A setting's value as a choice is written."""
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else value


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
