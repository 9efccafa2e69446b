"""The values that `tailora tune` tries for a setting: a list, or a range of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import yaml

from tailora.core.errors import SettingsError
from tailora.training.settings import TrainSettings

if TYPE_CHECKING:
    import optuna

WIDE = 10
"""Ranges with at least this ratio of their ends are searched on a logarithmic scale."""
_READ = {"data", "valid", "format", "columns", "language", "all_texts"}
_FIXED = {*_READ, "output", "track", "ranges", "trials", "storage", "study"}


class Range(NamedTuple):
    """The values that a setting may take.

    Attributes:
        name: of the setting.
        choices: the values; empty for a range.
        low: smallest value of a range.
        high: largest value of a range.
        whole: whether the range contains integers only.
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
            SettingsError: the setting does not exist or cannot be varied, or there are no values.
        """
        field = TrainSettings.model_fields.get(name)
        if field is None or name in _FIXED:
            raise SettingsError(
                f"{name} is not a setting that can be varied", where="ranges", hint="see `tailora train --help`"
            )
        if isinstance(value, str) and ".." in value:
            low, _, high = value.partition("..")
            kinds = {field.annotation, *get_args(field.annotation)}
            if not kinds & {int, float}:
                raise SettingsError(f"{name} does not accept a range", where="ranges", hint="list values as a|b|c")
            try:
                ends = float(low), float(high)
            except ValueError as error:
                hint = "write it as 1e-4..3e-3"
                raise SettingsError(f"{name}: {value} is not a range", where="ranges", hint=hint) from error
            whole = float not in kinds
            if ends[0] >= ends[1] or (whole and not all(end.is_integer() for end in ends)):
                what = f"{name}: {value} is not a range" + (" of integers" if whole else "")
                raise SettingsError(what, where="ranges", hint="put the smaller end first")
            varied = cls(name, (), *ends, whole)
        else:
            texts = value if isinstance(value, list) else value.split("|") if isinstance(value, str) else [value]
            choices = [yaml.safe_load(item) if isinstance(item, str) else item for item in texts]
            # YAML reads 1e-3 as text.
            varied = cls(name, tuple(_number(choice) if isinstance(choice, str) else choice for choice in choices))
            if not choices or any(isinstance(choice, list | dict) for choice in choices):
                what = f"{name}: {value} has no values to choose from"
                raise SettingsError(what, where="ranges", hint="write several targets as attention+mlp")
        for end in varied.ends:
            try:
                TrainSettings(data="", **{name: varied.setting(end)})
            except SettingsError as error:
                raise SettingsError(f"{name}: {error.what}", where="ranges", hint=error.hint) from error
        return varied

    @property
    def ends(self) -> tuple[Any, ...]:
        """The choices, or the ends of a range."""
        return self.choices or (self.low, self.high)

    @property
    def logarithmic(self) -> bool:
        """Whether a range is searched on a logarithmic scale."""
        return self.low > 0 and self.high >= WIDE * self.low

    def suggest(self, trial: optuna.Trial) -> Any:
        """Let Optuna choose a value for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.logarithmic)
        return trial.suggest_float(self.name, self.low, self.high, log=self.logarithmic)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the choices, or in the range."""
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high

    def change_from(self, other: Range) -> str | None:
        """Why a study with the other range cannot continue with this one; None if it can."""
        if self.choices or other.choices:
            same = self.choices == other.choices
            return (
                None
                if same
                else f"{self.name} is searched in {'|'.join(map(str, other.choices)) or 'a range'} in that study"
            )
        if self.logarithmic != other.logarithmic:
            return f"{self.name} is searched on a logarithmic scale in one of the two ranges only"
        return None

    def setting(self, value: Any) -> Any:
        """Convert a value to the type of the setting."""
        if self.whole and isinstance(value, float):
            return int(value)
        several = TrainSettings.model_fields[self.name].annotation == tuple[str, ...]
        return tuple(str(value).split("+")) if several else value


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def written(value: Any) -> Any:
    """Return a setting's value in the form of a choice: several targets as attention+mlp."""
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else value


def listed(settings: Mapping[str, Any]) -> str:
    """Return settings and their values in one line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
