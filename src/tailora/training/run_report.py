"""What a run prints and records while it trains: its plan, its progress with metrics.jsonl, and its result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tailora.core.console import draws_progress
from tailora.core.errors import TrainingError
from tailora.core.plural import plural
from tailora.training.loop import Outcome
from tailora.training.precision_choice import Choice

Watch = Callable[[int, float], object]
"""Takes the number of updates so far and the validation loss after them."""


def print_plan(console: Console, plan: dict[str, Any], choice: Choice) -> None:
    """Print what the run will do and an estimate of its time and memory.

    Args:
        console: where.
        plan: what run.json has under `account`.
        choice: the precision and why it was chosen.
    """
    table, tokens, estimate = plan["parameters"], plan["tokens_per_epoch"], plan["estimate"]
    shared = 100 * (1 - tokens["trees"] / tokens["sequences"])
    console.print(
        f"{plan['base']}: {table['total']:,} parameters, {table['trainable']:,} trainable "
        f"({table['percent']:.2f}%) on {plan['device']}\n"
        f"precision: {choice}\n"
        f"{plural(plan['examples'], 'example')}, {plural(plan['steps'], 'update')}; an epoch has "
        f"{tokens['sequences']:,} tokens, {tokens['trees']:,} with each common prefix once ({shared:.0f}% saved)\n"
        f"estimated: {_duration(estimate['seconds'])}{_memory(estimate['peak_memory_bytes'])}",
        highlight=False,
    )


def _duration(seconds: float) -> str:
    return plural(round(seconds / 60), "minute") if seconds >= 90 else plural(round(seconds), "second")


def _memory(amount: int | None) -> str:
    return "" if amount is None else f", {amount / 2**30:.1f} GiB of memory"


def print_result(console: Console, folder: Path, outcome: Outcome, exact: float | None) -> None:
    """Print the warnings, the losses and the speed of a run that is over.

    Args:
        console: where.
        folder: the run directory.
        outcome: of the run.
        exact: validation loss with the base's own weights, after an int8 run.
    """
    for warning in outcome.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False)
    rate = outcome.examples / outcome.seconds if outcome.seconds else 0.0
    loss = ""
    if outcome.initial_loss is not None:
        after = "not measured" if outcome.final_loss is None else f"{outcome.final_loss:.3f}"
        loss = f"; validation loss {outcome.initial_loss:.3f} before, {after} after"
        if exact is not None:
            loss += f" (both measured with the int8 base; {exact:.3f} with the original base)"
    if outcome.interrupted and outcome.failed is None:
        console.print(f"interrupted: the state after update {outcome.best_step} is saved", highlight=False)
    console.print(
        f"{plural(outcome.steps, 'update')} in {outcome.seconds:.0f} s, {rate:.1f} examples/s{loss}; see {folder}",
        highlight=False,
    )


class RunObserver:
    """Writes metrics.jsonl, saves each best state, and draws the progress bar; see `loop.Observer`.

    Args:
        folder: the run directory.
        steps: number of updates of the run.
        console: where the progress bar is drawn.
        save: saves the current state; takes its validation loss.
        watch: called after each validation.
    """

    def __init__(
        self, folder: Path, steps: int, console: Console, save: Callable[[float], object], watch: Watch | None
    ) -> None:
        self._save, self._watch = save, watch
        self._metrics = (folder / "metrics.jsonl").open("w", encoding="utf-8", newline="\n")
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not draws_progress(console),
        )
        self._task = self._progress.add_task("", total=steps, status="")
        self._examples = self._seconds = 0.0
        self._validation = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._metrics.close()

    def step(self, line: dict[str, Any]) -> None:
        """See `loop.Observer`."""
        self._write(line)
        self._examples += line["examples"]
        self._seconds += line["seconds"]
        rate = self._examples / self._seconds
        status = f"{rate:.1f} examples/s, loss {line['loss']:.3f}{self._validation}"
        self._progress.update(self._task, advance=1, status=status)

    def validated(self, line: dict[str, Any], best: bool) -> None:
        """See `loop.Observer`."""
        self._write(line)
        self._validation = f", validation {line['validation_loss']:.3f}"
        if best and line["step"]:
            with contextlib.suppress(TrainingError):  # an adapter that is still all zero: an error at the end only
                self._save(line["validation_loss"])
        if self._watch is not None:
            self._watch(line["step"], line["validation_loss"])

    def _write(self, line: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
