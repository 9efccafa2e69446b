"""The plot of a learning curve. Plain values in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from tailora.reports.plots import write_figure


def curve_plot(result: Mapping[str, Any], target: Path) -> None:
    """Draw measured and expected validation losses over the number of records, which is on a logarithmic axis.

    Args:
        result: the content of learning-curve.json.
        target: a .svg, .png or .pdf file.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    sizes = [run["records"] for run in result["runs"]]
    axes.scatter(sizes, [run["validation_loss"] for run in result["runs"]], color="#35618f", label="measured", zorder=3)
    rows, law = result["expected"], result["law"]
    line = np.geomspace(min(sizes), max(row["records"] for row in rows), 100)
    axes.plot(line, law["floor"] + law["factor"] * line ** -law["exponent"], color="#b3352b", label="power law")
    ahead = rows[1:]
    losses = np.asarray([row["validation_loss"] for row in ahead])
    below = losses - [row["lowest"] for row in ahead]
    above = np.asarray([row["highest"] for row in ahead]) - losses
    level = f"expected, {result['interval']['level']:.0%} interval"
    style: dict[str, Any] = {"fmt": "o", "color": "#b3352b", "capsize": 4, "markerfacecolor": "white"}
    axes.errorbar([row["records"] for row in ahead], losses, yerr=np.stack([below, above]), label=level, **style)
    axes.set_xscale("log")
    axes.set_xticks(sorted({*sizes, *(row["records"] for row in rows)}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_xlabel("training records")
    axes.set_ylabel("validation loss, nats per completion token")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    write_figure(figure, target)
