"""`tailora learning-curve`: the validation loss over the amount of data, and what more data would bring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.problems import FieldError
from tailora.core.settings import Unset
from tailora.data.hub_names import short_name
from tailora.training.settings import TrainSettings


class LearningCurveSettings(TrainSettings):
    """Settings of `tailora learning-curve`: those of `tailora train`, which every run uses, and the parts."""

    heading = "search"
    headings: ClassVar = {"output": "output"}
    percentages: tuple[float, ...] = (12.5, 25.0, 50.0, 100.0)
    """Parts of the training records to train on, in per cent, at least three, separated by commas."""
    repeats: int = Field(1, ge=1)
    """Number of runs of each part, each on another random part and with another seed. Several make the interval more
    reliable."""
    output: Annotated[Path | None, Unset("runs/DATA-learning-curve")] = None
    """Folder for the runs and the curve."""

    @field_validator("percentages")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < 3:
            raise FieldError("names fewer than three different parts", "give at least three, such as 25,50,100")
        if not all(0 < percentage <= 100 for percentage in value):
            raise FieldError("every part must be above 0 and at most 100 per cent", "give for example 25,50,100")
        return tuple(sorted(set(value)))


def run(settings: LearningCurveSettings) -> dict[str, Any]:
    """Train on parts of the data, and print the curve; see `experiments.learning_curve.measure`."""
    from tailora.experiments.learning_curve import LearningCurve, measure  # loads PyTorch, which help does not need

    console = message_console()
    output = settings.output or Path("runs") / f"{short_name(settings.data)}-learning-curve"
    own = set(LearningCurveSettings.model_fields) - set(TrainSettings.model_fields) | {"output"}
    training = TrainSettings(**settings.model_dump(mode="json", exclude_unset=True, exclude=own))
    result = measure(LearningCurve(training, settings.percentages, settings.repeats, output), console)
    table = Table()
    for heading in ("records", "validation loss", "interval"):
        table.add_column(heading, justify="right")
    for measured in result["runs"]:
        table.add_row(f"{measured['records']:,}", f"{measured['validation_loss']:.4f}", "measured")
    for row in result["expected"][1:]:
        interval = f"{row['lowest']:.4f} to {row['highest']:.4f}"
        table.add_row(f"{row['records']:,}", f"{row['validation_loss']:.4f}", interval)
    console.print(table)
    console.print(result["conclusion"], highlight=False, soft_wrap=True)
    console.print(f"see {output / 'learning-curve.svg'}", highlight=False, markup=False, soft_wrap=True)
    return {**result, "output": str(output)}
