"""`tailora tune`: a search, with Optuna, for the training settings with the lowest validation loss."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import SettingsError
from tailora.core.plural import plural
from tailora.core.settings import Unset
from tailora.data.hub_names import short_name
from tailora.experiments.ranges import Range, listed, written
from tailora.training.settings import TrainSettings

_SHOWN = 10


class TuneSettings(TrainSettings):
    """Settings of `tailora tune`: those of `tailora train`, which every trial uses, and those of the search."""

    heading = "search"
    ranges: dict[str, Any]
    """Settings to vary, as SETTING=RANGE: values (a|b|c, or a list in the configuration) or a range (1e-4..3e-3, which
    is logarithmic if its end is at least ten times its start)."""
    trials: int = Field(20, ge=1)
    """Total number of trials, including those of other processes and of earlier starts."""
    storage: Annotated[str | None, Unset("study.journal in the output folder")] = None
    """File or database URL, shared by all processes of the study."""
    study: Annotated[str | None, Unset("the name of the output folder")] = None
    """Name of the study in its storage."""
    output: Annotated[Path | None, Unset("runs/DATA-tune")] = None
    """Folder for the trials and the results of the study."""

    @model_validator(mode="after")
    def _searchable(self) -> TuneSettings:
        if not self.ranges:
            raise SettingsError(
                "there is nothing to vary", where="ranges", hint="give ranges like learning_rate: 1e-4..3e-3"
            )
        for name, value in self.ranges.items():
            Range.of(name, value)
        return self


def run(settings: TuneSettings) -> dict[str, Any]:
    """Run trials until their total number is reached, and write the results of the study.

    Returns:
        The trials, the best one and its settings, and how much each setting mattered; as in study.json.

    Raises:
        UserError: see `experiments.tuning.tune`.
        KeyboardInterrupt: on Ctrl-C; the next start repeats the unfinished trial.
    """
    from tailora.experiments.tuning import Tuning, tune  # loads PyTorch, which help does not need

    console = message_console()
    output = settings.output or Path("runs") / f"{short_name(settings.data)}-tune"
    own = set(TuneSettings.model_fields) - set(TrainSettings.model_fields) | {"output"}
    training = TrainSettings(**settings.model_dump(mode="json", exclude_unset=True, exclude=own))
    tuning = Tuning(training, settings.ranges, settings.trials, output, settings.storage, settings.study)
    result = tune(tuning, console)
    _print(console, result, output)
    return {**result, "output": str(output), "recipe": str(output / "best.yaml")}


def _print(console: Console, result: dict[str, Any], output: Path) -> None:
    done = [trial for trial in result["trials"] if trial["validation_loss"] is not None]
    trials = result["trials"]
    table = Table(title=f"{plural(len(trials), 'trial')}, {len(trials) - len(done)} of them pruned")
    for heading in ("trial", "validation loss", "seconds", "settings"):
        table.add_column(heading, justify="left" if heading == "settings" else "right")
    for trial in sorted(done, key=lambda trial: trial["validation_loss"])[:_SHOWN]:
        varied = listed({name: written(value) for name, value in trial["settings"].items()})
        table.add_row(str(trial["number"]), f"{trial['validation_loss']:.4f}", f"{trial['seconds']:.0f}", varied)
    console.print(table)
    if result["importance"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importance"].items())
        console.print(f"importance: {shares}", highlight=False)
    console.print(f"train with the best: tailora train {output / 'best.yaml'}", highlight=False, soft_wrap=True)
