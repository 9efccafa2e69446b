"""A comparison of training methods as tables, page and plots, from the figures in compare.json. Plain values in."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tailora.core.files import atomic_path
from tailora.core.plural import plural
from tailora.core.sizes import size
from tailora.reports.html_page import html_page
from tailora.reports.tables import Sheet, Table, table_html

NAMES = {
    "lora": "LoRA",
    "full": "full fine-tuning",
    "bitfit": "biases only",
    "top2": "top two blocks",
    "adapter-h": "Houlsby's adapters",
    "adapter-l": "Lin's adapters",
    "prefix": "prefix tuning",
    "base": "base",
}
_COLOURS = {
    "lora": "#b3352b",
    "full": "#35618f",
    "bitfit": "#6b8e3d",
    "top2": "#c08a2d",
    "adapter-h": "#7a4f9e",
    "adapter-l": "#2f8f83",
    "prefix": "#c2588b",
    "base": "#888888",
}
_NONE = "–"
_MIB = 2**20
_CURVES = "<figcaption>Thin lines: training loss. Dots: validation loss.</figcaption>"


def sheet(result: Mapping[str, Any], scores: Mapping[str, tuple[str, float]]) -> Sheet:
    """Return the paragraphs and tables of the report.

    Args:
        result: the content of compare.json.
        scores: label and scale of each score that may be in it.
    """
    rows = result["methods"]
    machine = result["hardware"]
    settings = result["settings"]
    shown = ", ".join(
        f"{name} {_short(value)}" for name, value in settings.items() if name not in ("data", "base", "methods")
    )
    trained = [row for row in rows.values() if "run" in row]
    about = [
        f"Base model {result['base']}, records of {result['data']}"
        + (f"; {shown}" if shown else "")
        + f". Every method sees the same {trained[0]['examples']:,} examples in {trained[0]['steps']:,} updates.",
        f"Machine: {machine['cpu']}, {plural(machine['cores'], 'core')}. Every run is a separate process, whose peak "
        "memory is shown. All figures are measured, except the disk space of several tasks, which is computed from "
        "measured sizes.",
    ]
    seeds = next((row["seeds"] for row in trained if "seeds" in row), ())
    if seeds:
        about.append(
            f"Losses after training and scores are mean ± standard deviation of {len(seeds)} seeds "
            f"({', '.join(str(own['seed']) for own in seeds)}), each trained at the learning rate that was the best "
            "with the first one. Scores of the base have 95% intervals. All other figures are those of the first seed."
        )
    failed = [f"Not trained: {NAMES[name]} ({row['failed']})." for name, row in rows.items() if "failed" in row]
    edges = [
        f"For {NAMES[name]}, the {'highest' if edge == max else 'lowest'} learning rate tried was the best; "
        f"a {'higher' if edge == max else 'lower'} one may be better."
        for name, row in rows.items()
        for edge in (max, min)
        if "run" in row
        and len(row["grid"]) > 1
        and row["learning_rate"] == edge(trial["learning_rate"] for trial in row["grid"])
    ]
    return Sheet(
        "LoRA compared with other ways to fine-tune", [*about, *failed, *edges], [_main(result, scores), _grid(rows)]
    )


def _main(result: Mapping[str, Any], scores: Mapping[str, tuple[str, float]]) -> Table:
    rows = {name: row for name, row in result["methods"].items() if "failed" not in row}
    tasks = result["tasks"]

    def trained(figure: Any) -> list[str]:
        return [figure(row) if "run" in row else _NONE for row in rows.values()]

    table = [
        ["best learning rate", *trained(lambda row: f"{row['learning_rate']:.3g}")],
        ["trainable parameters", *trained(lambda row: f"{row['parameters']['trainable']:,}")],
        ["share of all parameters, %", *trained(lambda row: f"{row['parameters']['percent']:.2f}")],
        ["saved file", *trained(lambda row: size(row["saved_bytes"]))],
        [
            f"disk for {tasks} tasks with the base (computed)",
            *trained(lambda row: size(disk(row, result["base_bytes"], tasks))),
        ],
        ["peak memory of the process", *trained(lambda row: _size(row["peak_memory_bytes"]))],
        *(
            [["peak memory of the GPU", *trained(lambda row: _size(row.get("peak_gpu_memory_bytes")))]]
            if any(row.get("peak_gpu_memory_bytes") for row in rows.values())
            else []
        ),
        ["optimiser state", *trained(lambda row: size(row["optimizer_bytes"]))],
        ["precision", *trained(lambda row: row["precision"])],
        ["seconds per update (median)", *trained(lambda row: f"{row['seconds_per_step']:.3g}")],
        ["examples/s", *trained(lambda row: f"{row['examples_per_second']:.1f}")],
        ["validation loss before", *trained(lambda row: f"{row['validation_loss']['before']:.3f}")],
        ["validation loss after", *trained(_last_loss)],
    ]
    table += _speeds(rows)
    scored = dict.fromkeys(name for row in rows.values() for name in row["scores"])
    for name in scored:
        label, scale = scores[name]
        table.append([label, *(_score_of(row, name, scale) for row in rows.values())])
    return ("Measurements", ["", *(NAMES[name] for name in rows)], table)


def _speeds(rows: Mapping[str, Any]) -> list[list[str]]:
    """The rows of decoding speeds; none for a comparison without them."""
    speeds = [row.get("decoding", {}).get("speed") for row in rows.values()]
    measured = next((speed for speed in speeds if speed), None)
    if measured is None:
        return []
    label = f"decoding, tokens/s ({measured['texts']} texts in parallel; median of {measured['laps']} warm runs)"
    cells = [
        f"{s['tokens_per_second']:,.0f} ({s['lowest']:,.0f} to {s['highest']:,.0f})" if s else _NONE for s in speeds
    ]
    return [
        [label, *cells],
        ["decoding precision and backend", *(f"{s['precision']}, {s['backend']}" if s else _NONE for s in speeds)],
    ]


def _grid(rows: Mapping[str, Any]) -> Table:
    table = []
    for name, row in rows.items():
        for trial in row.get("grid", ()):
            loss = trial["failed"] if trial["validation_loss"] is None else f"{trial['validation_loss']:.4f}"
            table.append([NAMES[name], f"{trial['learning_rate']:.3g}", loss])
    return ("Learning rates tried", ["method", "learning rate", "validation loss"], table)


def disk(row: Mapping[str, Any], base_bytes: int, tasks: int) -> int:
    """Return the bytes that several tasks take: a whole model each, or one base and a saved file each."""
    whole = row["parameters"]["percent"] == 100
    return int(tasks * row["saved_bytes"] + (0 if whole else base_bytes))


def as_html(sheet: Sheet, plots: Sequence[str]) -> str:
    """Return the sheet as an HTML page.

    Args:
        sheet: paragraphs and tables.
        plots: contents of SVG files, shown after the first table; a first of two or more is that of the losses.
    """
    parts = []
    for number, table in enumerate(sheet.tables):
        parts.append(table_html(table))
        if number == 0:
            captions = [_CURVES if place == 0 and len(plots) > 1 else "" for place in range(len(plots))]
            parts += [
                f"<figure>{_inline(plot, place)}{caption}</figure>"
                for place, (plot, caption) in enumerate(zip(plots, captions, strict=True))
            ]
    return html_page(sheet.title, sheet.about, parts)


def _inline(plot: str, number: int) -> str:
    """Return an SVG file's element, with ids that differ from those of the other plots on the page."""
    element = plot[plot.index("<svg") :]
    element = re.sub(r'\bid="', f'id="plot{number}-', element)
    return re.sub(r'(href="|url\()#', rf"\1#plot{number}-", element)


def loss_curves(metrics: Mapping[str, Path], target: Path) -> None:
    """Draw each method's training loss (thin) and validation loss (dots) over the updates, to an SVG file."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    for name, path in metrics.items():
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
        axes.plot(*zip(*training, strict=True), color=_COLOURS[name], linewidth=0.8, alpha=0.6)
        axes.plot(*zip(*validation, strict=True), color=_COLOURS[name], marker="o", label=NAMES[name])
    axes.set_xlabel("updates")
    axes.set_ylabel("nats per completion token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    _save(figure, target)


def bar_plot(result: Mapping[str, Any], target: Path) -> None:
    """Draw cost and result of each method, one panel for each figure, to an SVG file."""
    rows = {name: row for name, row in result["methods"].items() if "run" in row}
    panels = {
        "saved file, MiB": [row["saved_bytes"] / _MIB for row in rows.values()],
        "peak memory, MiB": [(row["peak_memory_bytes"] or 0) / _MIB for row in rows.values()],
        "examples/s": [row["examples_per_second"] for row in rows.values()],
        "validation loss": [row["validation_loss"]["after"] for row in rows.values()],
    }
    figure = Figure(figsize=(10, 1.2 + 0.35 * len(rows)), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True)
    for axes, (title, values) in zip(all_axes, panels.items(), strict=True):
        axes.barh(range(len(rows)), values, color=[_COLOURS[name] for name in rows])
        axes.set_yticks(range(len(rows)), [NAMES[name] for name in rows], fontsize=9)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        for place, value in enumerate(values):
            axes.annotate(f" {value:,.3g}" if value < 1000 else f" {value:,.0f}", (value, place),
                          ha="left", va="center", fontsize=8)  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].invert_yaxis()  # the first method on top; the axis is shared
    _save(figure, target)


def _last_loss(row: Mapping[str, Any]) -> str:
    if "seeds" in row:
        return _spread([own["validation_loss"]["after"] for own in row["seeds"]], 3)
    return f"{row['validation_loss']['after']:.3f}"


def _score_of(row: Mapping[str, Any], name: str, scale: float) -> str:
    """Return a score with its interval, or with several seeds their mean and standard deviation."""
    scores = [own["scores"].get(name) for own in row.get("seeds", ())]
    values = [scale * score["value"] for score in scores if score is not None and score["value"] is not None]
    return _spread(values, 2 if scale == 1 else 1) if len(values) > 1 else _score(row["scores"].get(name), scale)


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _score(score: Mapping[str, Any] | None, scale: float) -> str:
    if score is None or score["value"] is None:
        return _NONE
    digits = 2 if scale == 1 else 1
    value, low, high = (f"{scale * score[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _size(amount: int | None) -> str:
    return _NONE if amount is None else size(amount)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _save(figure: Figure, target: Path) -> None:
    with atomic_path(target) as path:
        figure.savefig(path, format="svg", metadata={"Date": None})
