"""`tailora plot`: the losses of several training runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from tailora.core.console import message_console
from tailora.core.errors import DataError, SettingsError
from tailora.core.plural import plural
from tailora.core.problems import FieldError
from tailora.core.settings import Settings, Unset, Verbatim
from tailora.reports.curves import Axis, Curves, curves_of, read_metrics
from tailora.reports.plots import FORMATS, losses_figure, write_figure


class PlotSettings(Settings):
    """Settings of `tailora plot`."""

    heading = "options"
    headings: ClassVar = {"runs": "data", "labels": "data"}
    first = "runs"
    runs: Annotated[tuple[Path, ...], Verbatim(), Field(min_length=1)]
    """Run directories of `tailora train`, in the order of the legend. Unfinished runs are drawn as far as they are."""
    labels: Annotated[tuple[str, ...], Unset("the names of the run directories")] = ()
    """Names of the runs in the legend, one for each run."""
    axis: Axis = "updates"
    """What the horizontal axis counts: updates, examples, or seconds of training without validations."""
    smooth: int = Field(1, ge=1)
    """Number of updates over which the training loss is averaged."""
    output: Path
    """Figure to write, a .svg, .png or .pdf file. An existing file is replaced."""

    @field_validator("output")
    @classmethod
    def _known(cls, value: Path) -> Path:
        if value.suffix.removeprefix(".").lower() not in FORMATS:
            raise FieldError(f"{value.name!r} does not end in .svg, .png or .pdf", "name a file with such an ending")
        return value


def run(settings: PlotSettings) -> dict[str, Any]:
    """Draw training and validation loss of the runs and write the figure.

    Returns:
        The file, and for each run its directory, its number of updates, and its lowest validation loss, in nats per
        completion token, with the update after which it was measured.

    Raises:
        DataError: a folder is not the directory of a training run, or its metrics are broken or empty.
        SettingsError: a run is named twice, or the number of labels is not that of the runs.
    """
    curves = curves_of_runs(settings.runs, settings.labels, settings.axis)
    write_figure(losses_figure(curves, axis=settings.axis, smooth=settings.smooth), settings.output)
    text = f"{plural(len(curves), 'run')} drawn to {settings.output}"
    message_console().print(text, highlight=False, markup=False, soft_wrap=True)
    return {"output": str(settings.output), "runs": [_summary(folder) for folder in settings.runs]}


def curves_of_runs(folders: Sequence[Path], labels: Sequence[str] = (), axis: Axis = "updates") -> dict[str, Curves]:
    """Return the losses of runs by their names in a legend.

    Args:
        folders: run directories.
        labels: the names; empty for those of the directories, with as many parent folders as tell them apart.
        axis: what the positions of the losses count.

    Raises:
        DataError: a folder is not the directory of a training run, or its metrics are broken or empty.
        SettingsError: a run or a label is given twice, or the number of labels is not that of the runs.
    """
    whole = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, whole, strict=True):
        if whole.count(place) > 1:
            raise SettingsError(f"{folder} is given twice", where="runs", hint="name each run once")
    if labels and len(labels) != len(folders):
        what = f"{plural(len(labels), 'label')} for {plural(len(folders), 'run')}"
        raise SettingsError(what, where="labels", hint="give one label for each run")
    if len(set(labels)) < len(labels):
        raise SettingsError("a label is given twice", where="labels", hint="give each run its own label")
    names = labels or _names(whole)
    return {name: curves_of(_metrics(folder), axis) for name, folder in zip(names, folders, strict=True)}


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of different folders, with as many of their parents as tell them apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = [Path(*folder.parts[-depth:]).as_posix() for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        hint = "name a directory that `tailora train` wrote"
        raise DataError("is not the directory of a training run", where=folder, hint=hint)
    lines = read_metrics(path)
    if not lines:
        raise DataError("the run has not measured a loss yet", where=path, hint="wait for its first update")
    return lines


def _summary(folder: Path) -> dict[str, Any]:
    lines = _metrics(folder)
    losses = [(line["validation_loss"], line["step"]) for line in lines if "validation_loss" in line]
    loss, step = min(losses, default=(None, None))
    return {"run": str(folder), "updates": lines[-1]["step"], "validation_loss": loss, "step": step}
