"""Plots of a study: how the best loss fell, and how much each setting mattered. Plain values in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tailora.core.files import atomic_path


def history_plot(trials: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Draw each trial's validation loss and the best so far, to an SVG file; pruned trials at their last report."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    done = [(trial["number"], trial["validation_loss"]) for trial in trials if trial["validation_loss"] is not None]
    pruned = [
        (trial["number"], trial["reported"][-1])
        for trial in trials
        if trial["validation_loss"] is None and trial["reported"] and trial["reported"][-1] is not None
    ]
    if done:
        numbers, losses = zip(*done, strict=True)
        axes.scatter(numbers, losses, color="#35618f", label="finished")
        axes.step(numbers, list(accumulate(losses, min)), where="post", color="#b3352b", label="best so far")
    if pruned:
        axes.scatter(*zip(*pruned, strict=True), color="#999999", marker="x", label="pruned, at its last validation")
    axes.set_xlabel("trial")
    axes.set_ylabel("validation loss, nats per completion token")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    _save(figure, target)


def importance_plot(importance: Mapping[str, float], target: Path) -> None:
    """Draw how much of the differences in loss each setting explains, to an SVG file."""
    figure = Figure(figsize=(7, 0.5 * max(2, len(importance)) + 1), layout="constrained")
    axes = figure.subplots()
    if importance:
        names, shares = zip(*sorted(importance.items(), key=lambda item: item[1]), strict=True)
        axes.barh(names, [100 * share for share in shares], color="#35618f")
    else:
        axes.text(0.5, 0.5, "too few finished trials", ha="center", transform=axes.transAxes)
    axes.set_xlabel("importance, %")
    _save(figure, target)


def _save(figure: Figure, target: Path) -> None:
    with atomic_path(target) as path:
        figure.savefig(path, format="svg", metadata={"Date": None})
