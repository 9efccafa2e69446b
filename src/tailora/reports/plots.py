"""Plots from a run's files; knows no tensor and needs no display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tailora.core.files import atomic_path
from tailora.reports.curves import Axis, Curves, curves_of, read_metrics, smoothed

FORMATS = ("svg", "png", "pdf")
"""Endings of the files that a figure can be written to."""
_AXES: dict[Axis, str] = {
    "updates": "updates",
    "examples": "examples",
    "seconds": "seconds of training",
}
_COLOURS = 10
_STYLES = ("-", "--", ":", "-.")
_GREY = "#606060"


class NotebookFigure(Figure):
    """A figure that a notebook shows as a picture, also before pyplot has set up the notebook's own display."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def write_figure(figure: Figure, target: Path) -> None:
    """Write a figure in the format of the file's ending, without a date, so that equal figures are equal files."""
    kind = target.suffix.removeprefix(".").lower()
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with atomic_path(target) as path:
        figure.savefig(path, format=kind, dpi=150, metadata=date)


def loss_plot(metrics: Path, target: Path) -> None:
    """Draw `loss_figure` to a file."""
    write_figure(loss_figure(metrics), target)


def loss_figure(metrics: Path) -> Figure:
    """Training and validation loss in nats per completion token over the updates, from metrics.jsonl."""
    curves = curves_of(read_metrics(metrics))
    figure, axes = _figure("updates", height=4)
    if curves.training:
        axes.plot(*zip(*curves.training, strict=True), color="#8aa4c8", linewidth=1, label="training")
    if curves.validation:
        axes.plot(*zip(*curves.validation, strict=True), color="#b3352b", marker="o", markersize=4, label="validation")
    axes.set_ylim(bottom=0)
    if curves.training or curves.validation:
        axes.legend(frameon=False)
    return figure


def losses_figure(runs: Mapping[str, Curves], *, axis: Axis = "updates", smooth: int = 1) -> Figure:
    """Training and validation loss of several runs, in nats per completion token, with one colour for each run.

    Args:
        runs: the losses by the run's name in the legend.
        axis: what the positions of the losses count.
        smooth: number of updates over which the training loss is averaged.
    """
    figure, axes = _figure(axis, height=4.5)
    handles = []
    for number, (name, curves) in enumerate(runs.items()):
        colour, style = f"C{number % _COLOURS}", _STYLES[number // _COLOURS % len(_STYLES)]
        if curves.training:
            training = smoothed(curves.training, smooth)
            axes.plot(*zip(*training, strict=True), color=colour, linestyle=style, linewidth=0.8, alpha=0.5)
        if curves.validation:
            points = list(zip(*curves.validation, strict=True))
            axes.plot(*points, color=colour, linestyle=style, linewidth=1.6, marker="o", markersize=3.5)
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=2, label=_legend_text(name)))
    if any(curves.training for curves in runs.values()):
        handles.append(Line2D([], [], color=_GREY, linewidth=0.8, alpha=0.6, label="training"))
    if any(curves.validation for curves in runs.values()):
        handles.append(Line2D([], [], color=_GREY, linewidth=1.6, marker="o", markersize=3.5, label="validation"))
    place = {"loc": "outside right upper"} if len(handles) > 8 else {}
    (figure if place else axes).legend(handles=handles, frameon=False, fontsize="small", **place)
    return figure


def _figure(axis: Axis, *, height: float) -> tuple[NotebookFigure, Axes]:
    figure = NotebookFigure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(_AXES[axis])
    axes.set_ylabel("nats per completion token")
    axes.grid(alpha=0.25)
    return figure, axes


def _legend_text(name: str) -> str:
    """Return a name that Matplotlib shows as it is: it hides labels with a leading _, and reads $ as mathematics."""
    return ("\u200a" if name.startswith("_") else "") + name.replace("$", r"\$")
