"""`tailora.plan` and `tailora.train`, and the result of a training run."""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tailora.api.inputs import Place, Source, is_place, places_of
from tailora.commands.plan import PlanSettings, planned
from tailora.commands.plot import PlotSettings, curves_of_runs
from tailora.commands.train import TrainSettings
from tailora.commands.train import run as train_run
from tailora.core.errors import DataError
from tailora.reports.curves import Axis, read_metrics
from tailora.reports.plots import loss_figure, losses_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailora.api.options import TrainOptions


@dataclass(frozen=True)
class TrainingRun:
    """A finished training run: its run directory on disk, and the content of that.

    A run is small and can be pickled; it reads its files when they are asked for. It is a path-like object, so that it
    can be given wherever the path of an adapter is expected.

    Attributes:
        folder: the run directory.
        result: the content of run.json: settings, losses, speed, machine.
    """

    folder: Path
    result: dict[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> TrainingRun:
        """Open a run directory that `tailora.train` or `tailora train` wrote.

        Raises:
            DataError: the folder is not a run directory.
        """
        path = Path(folder)
        try:
            result = json.loads((path / "run.json").read_text(encoding="utf-8"))
            result["validation_loss"]["after"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "name the folder that `tailora train` reported"
            raise DataError("is not the directory of a finished training run", where=path, hint=hint) from error
        return cls(path, result)

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def adapter(self) -> Path:
        """The folder of the adapter, in PEFT's form; of the other methods, of what they saved."""
        return self.folder / str(self.result["saved"])

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: one for each update and one for each validation, in their order."""
        return read_metrics(self.folder / "metrics.jsonl")

    @property
    def validation_loss(self) -> float | None:
        """Mean nats per completion token after training, end-of-text token included; None without validation data."""
        loss: float | None = self.result["validation_loss"]["after"]
        return loss

    @property
    def interrupted(self) -> bool:
        """Whether the run was stopped by the user; its result so far is saved."""
        return bool(self.result["interrupted"])

    def plot(self) -> Figure:
        """Draw training and validation loss over the updates; a notebook shows the figure."""
        return loss_figure(self.folder / "metrics.jsonl")

    def _summary(self) -> dict[str, str]:
        settings, loss = self.result["settings"], self.result["validation_loss"]
        rows = {"base": settings["base"], "method": settings["method"], "updates": f"{self.result['steps']:,}"}
        if loss["after"] is not None:
            rows["validation loss"] = f"{loss['before']:.3f} before, {loss['after']:.3f} after (nats per token)"
        rows["saved"] = str(self.adapter)
        return rows

    def __repr__(self) -> str:
        return f"TrainingRun({', '.join(f'{name}: {value}' for name, value in self._summary().items())})"

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>"
            f"{html.escape(value)}</td></tr>"
            for name, value in self._summary().items()
        )
        return f"<table>{''.join(rows)}</table>"


def plan(data: Source, *, valid: Source | None = None, **settings: Unpack[TrainOptions]) -> dict[str, Any]:
    """Plan the memory and the time of a training run, without loading its base or writing anything.

    Args:
        data: see `tailora.train`.
        valid: see `tailora.train`.
        settings: those of `tailora.train`.

    Returns:
        The plan, as `tailora plan --json` prints it: `settings` has all settings of the run, recipe and learning rate
        included, `estimate` memory and time, and `fits` whether the run fits; None if that is not known. If it does not
        fit, `problem` and `hint` say why. `alternatives` lists further `settings` with which it
        would, for `tailora.train`, and the `peak` with each in bytes.

    Raises:
        UserError: see `tailora.train`.
    """
    with tempfile.TemporaryDirectory() as folder, places_of(Path(folder), data=data, valid=valid) as places:
        result = planned(PlanSettings.from_values({**settings, **places}))
    for name, source in (("data", data), ("valid", valid)):
        if source is not None and not is_place(source):
            del result["settings"][name]  # a temporary file
    return result


def train(data: Source, *, valid: Source | None = None, **settings: Unpack[TrainOptions]) -> TrainingRun:
    """Train an adapter, or a whole model, on records with texts.

    The settings are the flags of `tailora train`, with _ for -, and have the same defaults.

    Args:
        data: a file, a folder of splits, the name of a data set, or rows in memory: dictionaries with a "text" (or
            "texts"), `Record`s, or a data frame. Rows in memory are stored in `data`, next to the run directory.
        valid: records to validate on, likewise; by default the data's own split `valid`, if it has splits.
        settings: base, method, rank, targets, epochs, learning_rate, output, …; `tailora train --help` lists them.

    Returns:
        The run: `.adapter` is the folder of what was learnt, `.history` and `.plot()` show the losses.

    Raises:
        UserError: data, model or settings cannot be trained on.
        TrainingInterrupted: by Ctrl-C or the notebook's stop button, after the first update; what was learnt is saved,
            and `TrainingRun.open(error.folder)` opens it.
    """
    output = settings.get("output")
    folder = (Path("runs") if output is None else Path(output).expanduser().parent) / "data"
    with places_of(folder, data=data, valid=valid) as places:
        result = train_run(TrainSettings.from_values({**settings, **places}))
    return TrainingRun(Path(result["run"]), {name: value for name, value in result.items() if name != "run"})


def plot(runs: Place | Sequence[Place] | Mapping[str, Place], *, axis: Axis = "updates", smooth: int = 1) -> Figure:
    """Draw training and validation loss of several runs into one figure; a notebook shows it.

    Args:
        runs: run directories, or `TrainingRun`s; a mapping gives their names in the legend. They may be unfinished.
        axis: what the horizontal axis counts: "updates", "examples", or "seconds" of training without validations.
        smooth: number of updates over which the training loss is averaged, at least 1.

    Returns:
        The figure; `figure.savefig("losses.png")` writes it.

    Raises:
        DataError: a folder is not the directory of a training run, or its metrics are broken or empty.
        SettingsError: a run is given twice, or an option is not one of its values.
    """
    if isinstance(runs, str | os.PathLike):
        runs = [runs]
    places = runs.values() if isinstance(runs, Mapping) else runs
    labels = list(runs) if isinstance(runs, Mapping) else []
    values = {"runs": list(places), "labels": labels, "axis": axis, "smooth": smooth, "output": "figure.svg"}
    settings = PlotSettings.from_values(values)
    curves = curves_of_runs(settings.runs, settings.labels, settings.axis)
    return losses_figure(curves, axis=settings.axis, smooth=settings.smooth)
