"""Plots from a run's files; knows no tensor and needs no display."""

from __future__ import annotations

import io
import json
from pathlib import Path

from matplotlib.figure import Figure

from tailora.core.files import atomic_path


class NotebookFigure(Figure):
    """A figure that a notebook shows as a picture, also before pyplot has set up the notebook's own display."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def loss_plot(metrics: Path, target: Path) -> None:
    """Draw `loss_figure` to an SVG file."""
    with atomic_path(target) as path:
        loss_figure(metrics).savefig(path, format="svg", metadata={"Date": None})


def loss_figure(metrics: Path) -> Figure:
    """Training and validation loss in nats per completion token over the updates, from metrics.jsonl."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = NotebookFigure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    if training:
        axes.plot(*zip(*training, strict=True), color="#8aa4c8", linewidth=1, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="#b3352b", marker="o", markersize=4, label="validation")
    axes.set_xlabel("updates")
    axes.set_ylabel("nats per completion token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    if training or validation:
        axes.legend(frameon=False)
    return figure
