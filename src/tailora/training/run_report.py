"""What a run prints and records while it trains: its plan, its progress with metrics.jsonl, and its result."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tailora.core import launch
from tailora.core.console import draws_progress
from tailora.core.errors import TrainingError
from tailora.core.files import atomic_path
from tailora.core.hardware.processor import cores
from tailora.core.plural import plural
from tailora.core.sizes import size
from tailora.reports.curves import metrics_line, read_metrics
from tailora.training.loop import Outcome
from tailora.training.precision_choice import PrecisionChoice
from tailora.training.resume import FOLDER, Job, LoadedState
from tailora.training.state_file import RunState

MEMORY = {
    "learning": "trained weights",
    "gradients": "their gradients",
    "optimizer": "state of AdamW",
    "best": "copy of the best validation",
    "average": "average over the last updates",
    "activations": "activations, logits and loss of a pass",
    "process": "Python, libraries and data",
    "updating": "peak while updating",
    "loading": "peak while loading",
    "peak": "peak of the run",
}
"""What `memory_plan.MemoryPlan.to_dict` has besides the frozen weights, in words."""

REFINED = 10
"""Number of updates after which a run without a progress bar prints the time that is left."""

LONG = 90
"""Seconds of a run that are worth the line."""

Watch = Callable[[int, float], object]
"""Takes the number of updates so far and the validation loss after them."""


def print_plan(console: Console, plan: dict[str, Any], choice: PrecisionChoice) -> None:
    """Print what the run will do and an estimate of its time and memory.

    Args:
        console: where to print.
        plan: the content of `account` in run.json.
        choice: the precision and why it was chosen.
    """
    table, tokens, estimate = plan["parameters"], plan["tokens_per_epoch"], plan["estimate"]
    shared = 100 * (1 - tokens["trees"] / tokens["sequences"])
    console.print(
        f"{plan['base']}: {table['total']:,} parameters, {table['trainable']:,} trainable "
        f"({table['percent']:.2f}%) on {plan['device']}{_processes(plan)}\n"
        f"precision: {choice}\n"
        f"{plural(plan['examples'], 'example')}, {plural(plan['steps'], 'update')}; an epoch has "
        f"{tokens['sequences']:,} tokens, {tokens['trees']:,} with each common prefix once ({shared:.0f}% saved)\n"
        f"estimated: {_duration(estimate['seconds'])}{_memory(estimate['peak_memory_bytes'])}",
        highlight=False,
    )


def _processes(plan: dict[str, Any]) -> str:
    """Describe the processes of a run; empty for a run in one."""
    size, threads = plan["processes"], plan["threads"]
    if size == 1:
        return ""
    available = cores() // launch.local_size()
    unused = torch.device(plan["device"]).type == "cpu" and threads < available
    hint = f" (OMP_NUM_THREADS={available} would use all cores)" if unused else ""
    return f", in {size} processes with {plural(threads, 'thread')} each{hint}"


def _duration(seconds: float) -> str:
    return plural(round(seconds / 60), "minute") if seconds >= 90 else plural(round(seconds), "second")


def _memory(amount: int | None) -> str:
    return "" if amount is None else f", {size(amount)} of memory"


def print_memory(console: Console, estimate: Mapping[str, Any]) -> None:
    """Print a table of what occupies the memory of a run, its peak, and its limit.

    Args:
        console: where to print.
        estimate: the content of `account.estimate` in run.json.
    """
    memory, limit = estimate["memory"], estimate["memory_limit_bytes"]
    if memory is None:
        print_warning(console, estimate["warning"])
        return
    table = Table("memory", box=None, pad_edge=False)
    table.add_column("", justify="right")
    rows = {f"frozen weights in {name}": amount for name, amount in memory["weights"].items()}
    rows |= {label: memory[name] for name, label in MEMORY.items()}
    rows |= {} if limit is None else {"available": limit}
    largest = max(rows.values())
    for label, amount in rows.items():
        if amount:
            table.add_row(label, size(amount, like=largest))
    console.print(table, highlight=False)


def print_continuation(console: Console, folder: Path, loaded: LoadedState, job: Job) -> None:
    """Print that an unfinished run continues.

    Args:
        console: where to print.
        folder: the run directory.
        loaded: the state that it continues from.
        job: the job that continues it.
    """
    for problem in loaded.problems:
        print_warning(console, f"{folder / FOLDER}: {problem}; the run continues from an earlier state")
    text = f"continuing {folder} after update {loaded.state.step} (--resume never starts a new run)"
    before = loaded.job.threads
    if before != job.threads:
        text += f"; the number of threads is {job.threads} instead of {before}, so the last bits may differ"
    console.print(text, highlight=False, soft_wrap=True)


def print_restart(console: Console, folder: Path) -> None:
    """Print that a run directory has the metrics of a run but no state of it."""
    print_warning(console, f"{folder / FOLDER} contains no saved state, so the run starts from the beginning")


def print_warning(console: Console, text: str) -> None:
    """Print a warning on one line."""
    console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def print_result(console: Console, folder: Path, outcome: Outcome, exact: float | None) -> None:
    """Print the warnings, the losses and the speed of a run that has ended.

    Args:
        console: where to print.
        folder: the run directory.
        outcome: the outcome of the run.
        exact: validation loss with the base's own weights, after an int8 run.
    """
    for warning in outcome.warnings:
        print_warning(console, warning)
    rate = outcome.examples / outcome.seconds if outcome.seconds else 0.0
    loss = ""
    if outcome.initial_loss is not None:
        after = "not measured" if outcome.final_loss is None else f"{outcome.final_loss:.3f}"
        loss = f"; validation loss {outcome.initial_loss:.3f} before, {after} after"
        if outcome.averaged:
            loss += f" with the average over the last {plural(outcome.averaged, 'update')}"
        if exact is not None:
            loss += f" (both measured with the int8 base; {exact:.3f} with the original base)"
    if outcome.interrupted and outcome.failed is None:
        saved = f"interrupted: the state after update {outcome.best_step} is saved; the same command continues the run"
        console.print(saved, highlight=False, soft_wrap=True)
    console.print(
        f"{plural(outcome.steps, 'update')} in {outcome.seconds:.0f} s, {rate:.1f} examples/s{loss}; see {folder}",
        highlight=False,
    )


class SilentObserver:
    """The observer of a process that does not write; see `loop.Observer`.

    Args:
        save: takes part in saving the current state; takes its validation loss.
    """

    def __init__(self, save: Callable[[float], object]) -> None:
        self._save = save

    def step(self, line: dict[str, Any]) -> None:
        """See `loop.Observer`."""

    def validated(self, line: dict[str, Any], best: bool) -> None:
        """See `loop.Observer`."""
        if best and line["step"]:
            self._save(line["validation_loss"])


class RunObserver:
    """Writes metrics.jsonl, saves each best state, and draws the progress bar; see `loop.Observer`.

    Args:
        folder: the run directory.
        steps: number of updates of the run.
        console: where the progress bar is drawn.
        save: saves the current state; takes its validation loss.
        watch: called after each validation.
        state: what the run continues from; metrics.jsonl is cut to its lines.
        log: called with each line of metrics.jsonl, also with those that the run continues from.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        console: Console,
        save: Callable[[float], object],
        watch: Watch | None,
        state: RunState | None = None,
        log: Callable[[dict[str, Any]], object] = lambda line: None,
    ) -> None:
        self._save, self._watch, self._log = save, watch, log
        path = folder / "metrics.jsonl"
        self._digest = hashlib.sha256()
        if state is not None:
            for line in self._continued(path, state, console):
                log(line)
        self._metrics = path.open("w" if state is None else "a", encoding="utf-8", newline="\n")
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not draws_progress(console),
        )
        done = 0 if state is None else state.step
        self._task = self._progress.add_task("", total=steps, completed=done, status="")
        self._examples = self._seconds = 0.0
        self._durations, self._left, self._console = list[float](), steps - done, console
        self._validation = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._metrics.close()

    def _continued(self, path: Path, state: RunState, console: Console) -> list[dict[str, Any]]:
        """Cut metrics.jsonl to what it was when the state was saved, without damaged lines; return its lines."""
        content = path.read_bytes() if path.exists() else b""
        content = content[: state.metrics_bytes]
        if hashlib.sha256(content).hexdigest() != state.metrics_digest:
            print_warning(console, f"{path} is damaged; figures up to update {state.step} are missing or wrong")
            texts = content.decode("utf-8", "replace").split("\n")[:-1]
            content = "".join(f"{text}\n" for text in texts if metrics_line(text) is not None).encode()
        if not path.exists() or content != path.read_bytes():
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        self._digest.update(content)
        return read_metrics(path)

    def synchronise(self) -> tuple[int, str]:
        """Flush metrics.jsonl to the disk; return its length in bytes and its SHA-256."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return os.fstat(self._metrics.fileno()).st_size, self._digest.hexdigest()

    def step(self, line: dict[str, Any]) -> None:
        """See `loop.Observer`."""
        self._write(line)
        self._examples += line["examples"]
        self._seconds += line["seconds"]
        rate = self._examples / self._seconds
        status = f"{rate:.1f} examples/s, loss {line['loss']:.3f}{self._validation}"
        self._progress.update(self._task, advance=1, status=status)
        self._left -= 1
        if len(self._durations) < REFINED:
            self._durations.append(line["seconds"])
            self._refine()

    def _refine(self) -> None:
        """After the first updates, print how long the others take; a progress bar says so itself."""
        left = statistics.median(self._durations) * self._left
        if len(self._durations) == REFINED and self._progress.disable and left >= LONG:
            self._console.print(f"estimated after {REFINED} updates: {_duration(left)} left", highlight=False)

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
        text = json.dumps(line) + "\n"
        self._digest.update(text.encode())
        self._metrics.write(text)
        self._metrics.flush()
        self._log(line)
