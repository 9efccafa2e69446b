"""A comparison of methods as tables, as a page and as plots, from the figures in compare.json. Plain values in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tailora.core.files import atomic_path
from tailora.reports.tables import Sheet, Table, table_html

NAMES = {"lora": "LoRA", "full": "full fine-tuning", "bitfit": "biases only", "top2": "top two blocks", "base": "base"}
_COLOURS = {"lora": "#b3352b", "full": "#35618f", "bitfit": "#6b8e3d", "top2": "#c08a2d", "base": "#888888"}
_NONE = "–"
_MIB = 2**20
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
figure { margin: 1rem 0; background: #fff; }
figure svg { max-width: 100%; height: auto; }
"""


def sheet(result: Mapping[str, Any], scores: Mapping[str, tuple[str, float]]) -> Sheet:
    """The words and tables of a report.

    Args:
        result: what compare.json holds.
        scores: label and scale of each score that may be in it.
    """
    rows = result["methods"]
    machine = result["hardware"]
    settings = result["settings"]
    told = ", ".join(f"{name} {_short(value)}" for name, value in settings.items() if name not in ("data", "base"))
    trained = [row for row in rows.values() if "run" in row]
    about = [
        f"Base model {result['base']}, records of {result['data']}"
        + (f"; {told}" if told else "")
        + f". {trained[0]['examples']:,} examples in {trained[0]['steps']} updates, the same ones with every method.",
        f"Machine: {machine['cpu']}, {machine['cores']} cores. Every run was a process of its own; peak memory is "
        "that process's. All figures are measured, but for the disk of several tasks, reckoned from measured sizes.",
    ]
    failed = [f"{NAMES[name]} could not be trained: {row['failed']}" for name, row in rows.items() if "failed" in row]
    edges = [
        f"With {NAMES[name]} the {'highest' if edge == max else 'lowest'} learning rate tried was the best: "
        "one beyond it may be better still."
        for name, row in rows.items()
        for edge in (max, min)
        if "run" in row
        and len(row["grid"]) > 1
        and row["learning_rate"] == edge(each["learning_rate"] for each in row["grid"])
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
        ["learning rate, the best tried", *trained(lambda row: f"{row['learning_rate']:.3g}")],
        ["trainable parameters", *trained(lambda row: f"{row['parameters']['trainable']:,}")],
        ["of all, %", *trained(lambda row: f"{row['parameters']['percent']:.2f}")],
        ["saved, MB", *trained(lambda row: f"{row['saved_bytes'] / _MIB:,.2f}")],
        [
            f"disk for {tasks} tasks with the base, MB (reckoned)",
            *trained(lambda row: f"{disk(row, result['base_bytes'], tasks) / _MIB:,.1f}"),
        ],
        ["peak memory of the process, MB", *trained(lambda row: _megabytes(row["peak_memory_bytes"]))],
        *(
            [["peak memory of the GPU, MB", *trained(lambda row: _megabytes(row.get("peak_gpu_memory_bytes")))]]
            if any(row.get("peak_gpu_memory_bytes") for row in rows.values())
            else []
        ),
        ["optimiser state, MB", *trained(lambda row: f"{row['optimizer_bytes'] / _MIB:,.2f}")],
        ["products in", *trained(lambda row: row["precision"])],
        ["a step, s (median)", *trained(lambda row: f"{row['seconds_per_step']:.3g}")],
        ["examples/s", *trained(lambda row: f"{row['examples_per_second']:.1f}")],
        ["validation loss before", *trained(lambda row: f"{row['validation_loss']['before']:.3f}")],
        ["validation loss after", *trained(lambda row: f"{row['validation_loss']['after']:.3f}")],
    ]
    table += _speeds(rows)
    scored = dict.fromkeys(name for row in rows.values() for name in row["scores"])
    for name in scored:
        label, scale = scores[name]
        table.append([label, *(_score(row["scores"].get(name), scale) for row in rows.values())])
    return ("Measured", ["", *(NAMES[name] for name in rows)], table)


def _speeds(rows: Mapping[str, Any]) -> list[list[str]]:
    """The rows of decoding speeds; none for a comparison without them."""
    speeds = [row.get("decoding", {}).get("speed") for row in rows.values()]
    measured = next((speed for speed in speeds if speed), None)
    if measured is None:
        return []
    label = f"decoding, tokens/s ({measured['texts']} texts at once; median of {measured['laps']} warm laps)"
    cells = [
        f"{s['tokens_per_second']:,.0f} ({s['lowest']:,.0f} to {s['highest']:,.0f})" if s else _NONE for s in speeds
    ]
    return [[label, *cells], ["decoded in", *(f"{s['precision']}, {s['backend']}" if s else _NONE for s in speeds)]]


def _grid(rows: Mapping[str, Any]) -> Table:
    table = []
    for name, row in rows.items():
        for each in row.get("grid", ()):
            loss = each["failed"] if each["validation_loss"] is None else f"{each['validation_loss']:.4f}"
            table.append([NAMES[name], f"{each['learning_rate']:.3g}", loss])
    return ("Learning rates tried", ["method", "learning rate", "validation loss"], table)


def disk(row: Mapping[str, Any], base_bytes: int, tasks: int) -> int:
    """Bytes that several tasks take: whole models each, or one base and what each saves."""
    whole = row["parameters"]["percent"] == 100
    return int(tasks * row["saved_bytes"] + (0 if whole else base_bytes))


def as_html(told: Sheet, plots: Sequence[str]) -> str:
    """The sheet as a page of its own, SVG plots between its tables."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(told.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(told.title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in told.about),
    ]
    for number, table in enumerate(told.tables):
        parts.append(table_html(table))
        if number == 0:
            parts += [f"<figure>{_inline(plot, place)}</figure>" for place, plot in enumerate(plots)]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _inline(plot: str, number: int) -> str:
    """An SVG file's element, its names made different from those of the other plots on the page."""
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
    """Draw what each method takes and gives, a panel a figure, to an SVG file."""
    rows = {name: row for name, row in result["methods"].items() if "run" in row}
    panels = {
        "saved, MB": [row["saved_bytes"] / _MIB for row in rows.values()],
        "peak memory, MB": [(row["peak_memory_bytes"] or 0) / _MIB for row in rows.values()],
        "examples/s": [row["examples_per_second"] for row in rows.values()],
        "validation loss": [row["validation_loss"]["after"] for row in rows.values()],
    }
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.bar(range(len(rows)), values, color=[_COLOURS[name] for name in rows])
        axes.set_xticks(range(len(rows)), [NAMES[name].replace(" ", "\n", 1) for name in rows], fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(y=0.15)
        for place, value in enumerate(values):
            axes.annotate(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", (place, value),
                          ha="center", va="bottom", fontsize=8)  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, target)


def _score(found: Mapping[str, Any] | None, scale: float) -> str:
    if found is None or found["value"] is None:
        return _NONE
    digits = 2 if scale == 1 else 1
    value, low, high = (f"{scale * found[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _megabytes(amount: int | None) -> str:
    return _NONE if amount is None else f"{amount / _MIB:,.0f}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)


def _save(figure: Figure, target: Path) -> None:
    with atomic_path(target) as path:
        figure.savefig(path, format="svg", metadata={"Date": None})
