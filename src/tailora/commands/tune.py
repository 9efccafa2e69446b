"""`tailora tune`: look for the settings of `tailora train` that validate best, with Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tailora.core.errors import SettingsError
from tailora.experiments.ranges import Range, written
from tailora.experiments.tuning import Tuning, listed, tune
from tailora.training.settings import TrainSettings

_SHOWN = 10


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
            raise SettingsError("nothing to vary", where="ranges", hint="give ranges like learning_rate: 1e-4..3e-3")
        for name, value in self.ranges.items():
            Range.of(name, value)
        return self


def run(settings: TuneSettings) -> dict[str, Any]:
    """Run trials until there are as many as asked for, and write what came of the study.

    Returns:
        The trials, the best one and its settings, and how much each setting mattered; as in study.json.

    Raises:
        UserError: see `experiments.tuning.tune`.
        KeyboardInterrupt: on Ctrl-C; the trial is left to the next start.
    """
    console = Console(stderr=True)
    output = settings.output or Path("runs") / f"{Path(settings.data).name.split('.')[0] or 'data'}-tune"
    own = set(TuneSettings.model_fields) - set(TrainSettings.model_fields) | {"output"}
    training = TrainSettings(**settings.model_dump(mode="json", exclude_unset=True, exclude=own))
    tuning = Tuning(training, settings.ranges, settings.trials, output, settings.storage, settings.study)
    result = tune(tuning, console)
    _tell(console, result, output)
    return {**result, "output": str(output), "recipe": str(output / "best.yaml")}


def _tell(console: Console, result: dict[str, Any], output: Path) -> None:
    done = [trial for trial in result["trials"] if trial["validation_loss"] is not None]
    table = Table(title=f"{len(result['trials'])} trials, {len(result['trials']) - len(done)} of them pruned")
    for heading in ("trial", "validation loss", "seconds", "settings"):
        table.add_column(heading, justify="left" if heading == "settings" else "right")
    for trial in sorted(done, key=lambda trial: trial["validation_loss"])[:_SHOWN]:
        told = listed({name: written(value) for name, value in trial["settings"].items()})
        table.add_row(str(trial["number"]), f"{trial['validation_loss']:.4f}", f"{trial['seconds']:.0f}", told)
    console.print(table)
    if result["importance"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importance"].items())
        console.print(f"importance: {shares}", highlight=False)
    console.print(f"train with the best: tailora train {output / 'best.yaml'}", highlight=False, soft_wrap=True)
