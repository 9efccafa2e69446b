"""`tailora train`: from settings to a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tailora.adapters import formats
from tailora.core.console import draws_progress
from tailora.core.errors import TrainingError
from tailora.core.files import write_json
from tailora.core.hardware.devices import peak_gpu_memory
from tailora.core.hardware.machine import describe
from tailora.core.hardware.memory import peak_rss
from tailora.data import records as record_files
from tailora.data.examples import Example, build_examples
from tailora.data.prompts import PromptFormat
from tailora.data.values import Record
from tailora.lora.inject import attach, parameter_table
from tailora.models.load import Base, load_base
from tailora.reports.plots import loss_plot
from tailora.training.estimate import arithmetic, peak_bytes, seconds, workload
from tailora.training.loop import Outcome, first_batch, fit, mean_loss
from tailora.training.methods import prepare, save_result
from tailora.training.precision import apply, device_for
from tailora.training.precision_choice import Choice, choose
from tailora.training.run_folder import run_folder, sigterm_interrupts
from tailora.training.settings import TrainSettings
from tailora.training.trees.check import ROUNDED, check_trees
from tailora.training.trees.forward import TreeModel
from tailora.training.trees.prefix_tree import build

Watch = Callable[[int, float], object]
"""Takes the number of updates so far and the validation loss after them."""


class TrainingInterrupted(KeyboardInterrupt):
    """A run that Ctrl-C or SIGTERM stopped; what it had learnt is saved.

    Attributes:
        folder: its run directory, complete up to the last update.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"training was interrupted; what it had learnt is in {folder}")
        self.folder = folder

    def __reduce__(self) -> tuple[type[TrainingInterrupted], tuple[Path]]:
        return TrainingInterrupted, (self.folder,)


def run(settings: TrainSettings, watch: Watch | None = None) -> dict[str, Any]:
    """Train, and write the run directory: adapter/ (or what the method learns), run.json, metrics.jsonl, loss.svg.

    Args:
        settings: of the run.
        watch: called after each validation; what it raises ends the run there, with nothing saved but run.json and
            metrics.jsonl so far, and the best state if it is better than the start.

    Raises:
        UserError: for data, models and settings that cannot be trained on.
        TrainingError: the loss is not finite; the best validation so far is saved first, and the error names it.
        TrainingInterrupted: on Ctrl-C or SIGTERM after the first update; the run directory is completed first.
        KeyboardInterrupt: before it.
    """
    console = Console(stderr=True)
    device = device_for(settings)
    with sigterm_interrupts(), run_folder(settings) as folder:
        result, outcome, saved, valid = _train(settings, folder, device, console, watch)
        if result["account"]["precision"] == "int8" and outcome.final_loss is not None and not outcome.interrupted:
            result["validation_loss"]["exact"] = _exact_loss(settings, saved, valid)
        result |= {"peak_memory_bytes": peak_rss(), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        write_json(folder / "run.json", result)
        for warning in outcome.warnings:
            console.print(f"warning: {warning}", style="yellow", highlight=False)
        _conclude(console, folder, outcome, result["validation_loss"].get("exact"))
    if outcome.failed is not None:
        kept = f"what update {outcome.best_step} had learnt is in {saved}"
        raise TrainingError(f"{outcome.failed.what}; {kept}", hint=outcome.failed.hint) from outcome.failed
    if outcome.interrupted:
        raise TrainingInterrupted(folder)
    return result | {"run": str(folder)}


def _train(
    settings: TrainSettings, folder: Path, device: str, console: Console, watch: Watch | None
) -> tuple[dict[str, Any], Outcome, Path, list[Example]]:
    """What run.json says, what came of the run, where that was saved, and the examples of the validation.

    The network is gone when this returns.
    """
    train_records, valid_records = read_records(settings)
    base = load_base(settings.base, dtype=torch.float32, device=device)
    prompts = prompts_of(base, settings, [*train_records, *valid_records])
    train, valid = examples_of(train_records, base, settings, console, prompts), []
    if valid_records:
        valid = examples_of(valid_records, base, settings, console, prompts)
    prepare(base, settings)
    base.model.to(device)
    check_trees(base.model, [*train, *valid])
    account = _account(base, train, settings) | {"prompts": prompts.meta}
    batch = first_batch(train, settings)
    choice = choose(base.model, batch, settings, device, account["operations"])
    arithmetic = apply(base.model, choice.precision, settings, build(train[: settings.batch_size]))
    if choice.precision in ("bf16", "int8"):
        texts, autocast, head = [*train, *valid], arithmetic.autocast, arithmetic.head
        check_trees(base.model, texts, autocast=autocast, head=head, bound=ROUNDED)
    account |= {"precision": choice.precision, "device": device, "choice": dataclasses.asdict(choice)}
    account["estimate"] = _estimate(base, account, choice, device)
    _announce(console, account, choice)
    write_json(folder / "run.json", {"settings": settings.model_dump(mode="json"), "account": account})

    def keep(loss: float | None) -> Path:
        meta = {
            **prompts.meta,
            **settings.reading_meta(),
            "data_fingerprint": account["data_fingerprint"],
            "scores": {"validation_loss": loss},
        }
        return save_result(base, settings, meta, folder)

    with _Observer(folder, account["steps"], console, keep, watch) as observer:
        outcome = fit(base.model, train, valid, settings, observer, arithmetic)
    saved = keep(outcome.final_loss)
    loss_plot(folder / "metrics.jsonl", folder / "loss.svg")
    return _result(settings, account, outcome, saved), outcome, saved, valid


def read_records(settings: TrainSettings) -> tuple[list[Record], list[Record]]:
    """The records to train on and those to validate on, which may be none.

    Raises:
        DataError: the data cannot be read.
    """
    names = record_files.splits(settings.data)
    train = settings.load(settings.data, "train" if names else None).records
    valid: Sequence[Record] = ()
    if settings.valid is not None:
        split = "valid" if record_files.splits(settings.valid) else None
        valid = settings.load(settings.valid, split).records
    elif "valid" in names:
        valid = settings.load(settings.data, "valid").records
    return list(train[: settings.limit]), list(valid[: settings.valid_limit])


def prompts_of(base: Base, settings: TrainSettings, records: Sequence[Record]) -> PromptFormat:
    """How a run writes the prompts of records.

    Raises:
        SettingsError: the base has no chat template, where the settings ask for it.
    """
    form, style = settings.prompt_form, settings.linearization
    return PromptFormat.of_training(base.tokenizer, form=form, style=style, folder=base.folder, records=records)


def examples_of(
    records: Sequence[Record],
    base: Base,
    settings: TrainSettings,
    console: Console,
    prompts: PromptFormat | None = None,
) -> list[Example]:
    """Examples of records for a base's tokenizer and context; what became of the records is printed.

    Raises:
        DataError: an example is too long, or none is left.
    """
    positions = getattr(base.model.config, "max_position_embeddings", None) or settings.max_length
    examples, report = build_examples(
        records,
        base.tokenizer,
        prompts=prompts or prompts_of(base, settings, records),
        max_length=min(settings.max_length, positions),
        overlong=settings.overlong,
    )
    console.print(str(report), highlight=False)
    return examples


def _account(base: Base, train: Sequence[Example], settings: TrainSettings) -> dict[str, Any]:
    """What the run will do, as far as it is known before the first step."""
    table = parameter_table(base.model)
    work = workload(train, settings)
    digest = hashlib.sha256()
    for example in train:
        digest.update(repr((example.prompt, example.completion)).encode())
    steps = settings.epochs * work.updates
    return {
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "data_fingerprint": digest.hexdigest(),
        "parameters": {"total": table.total, "trainable": table.trainable, "percent": table.percent},
        "examples": len(train),
        "steps": min(steps, settings.max_steps or steps),
        "operations": arithmetic(base, work, settings) * min(steps, settings.max_steps or steps) / work.updates,
        "tokens_per_epoch": {
            "sequences": sum(map(len, train)),
            "trees": work.nodes,
            "scored": work.scored,
            "completion": sum(len(example.completion) for example in train),
        },
        "largest_pass": work.largest_pass,
        "nodes": work.nodes * min(steps, settings.max_steps or steps) / work.updates,
    }


def _estimate(base: Base, account: dict[str, Any], choice: Choice, device: str) -> dict[str, Any]:
    """Peak memory (on a CPU) and the time of all updates, as far as they can be told before the first."""
    on_cpu = torch.device(device).type == "cpu"
    trainable = account["parameters"]["trainable"]
    if choice.seconds:
        took = choice.seconds[choice.precision] * account["nodes"] / choice.nodes
    else:
        took = seconds(account["operations"], choice.precision, device)
    return {
        "seconds": took,
        "peak_memory_bytes": peak_bytes(base.model, account["largest_pass"], trainable) if on_cpu else None,
    }


def _announce(console: Console, account: dict[str, Any], choice: Choice) -> None:
    table, tokens = account["parameters"], account["tokens_per_epoch"]
    saved = 100 * (1 - tokens["trees"] / tokens["sequences"])
    console.print(
        f"{account['base']}: {table['total']:,} parameters, {table['trainable']:,} trainable "
        f"({table['percent']:.2f}%) on {account['device']}\n"
        f"precision: {choice}\n"
        f"{account['examples']:,} examples, {account['steps']:,} updates; an epoch has {tokens['sequences']:,} tokens, "
        f"{tokens['trees']:,} with every common prefix once ({saved:.0f}% saved)\n"
        f"estimated: {_duration(account['estimate']['seconds'])}{_memory(account['estimate']['peak_memory_bytes'])}",
        highlight=False,
    )


def _duration(took: float) -> str:
    return f"{took / 60:.0f} minutes" if took >= 90 else f"{took:.0f} seconds"


def _memory(amount: int | None) -> str:
    return "" if amount is None else f", {amount / 2**30:.1f} GiB of memory"


def _result(settings: TrainSettings, account: dict[str, Any], outcome: Outcome, saved: Path) -> dict[str, Any]:
    return {
        "settings": settings.model_dump(mode="json"),
        "account": account,
        "steps": outcome.steps,
        "examples": outcome.examples,
        "seconds": outcome.seconds,
        "examples_per_second": outcome.examples / outcome.seconds if outcome.seconds else None,
        "validation_loss": {"before": outcome.initial_loss, "after": outcome.final_loss, "step": outcome.best_step},
        "peak_gpu_memory_bytes": peak_gpu_memory(account["device"]),
        "optimizer_bytes": outcome.optimizer_bytes,
        "saved": saved.name,
        "interrupted": outcome.interrupted,
        "failed": None if outcome.failed is None else str(outcome.failed),
        "warnings": outcome.warnings,
        "hardware": describe(),
    }


def _exact_loss(settings: TrainSettings, saved: Path, valid: Sequence[Example]) -> float:
    """The validation loss of the saved adapter on the base's own weights, which it was not trained through."""
    base, adapter = load_base(settings.base, dtype=torch.float32), formats.load(saved)
    attach(base.model, adapter.config, adapter, model_type=base.model_type)
    with TreeModel(base.model) as trees:
        return mean_loss(trees, valid, settings)


def _conclude(console: Console, folder: Path, outcome: Outcome, exact: float | None) -> None:
    rate = outcome.examples / outcome.seconds if outcome.seconds else 0.0
    loss = ""
    if outcome.initial_loss is not None:
        after = "not measured" if outcome.final_loss is None else f"{outcome.final_loss:.3f}"
        loss = f"; validation loss {outcome.initial_loss:.3f} before, {after} after"
        if exact is not None:
            loss += f", both through 8 bits, and {exact:.3f} on the base as it is"
    if outcome.interrupted and outcome.failed is None:
        console.print(f"interrupted: what update {outcome.best_step} left is kept", highlight=False)
    console.print(
        f"{outcome.steps} updates in {outcome.seconds:.0f} s, {rate:.1f} examples/s{loss}; see {folder}",
        highlight=False,
    )


class _Observer:
    """Writes metrics.jsonl and each best state, and draws the progress bar."""

    def __init__(
        self, folder: Path, steps: int, console: Console, keep: Callable[[float], object], watch: Watch | None
    ) -> None:
        self.keep, self.watch = keep, watch
        self.metrics = (folder / "metrics.jsonl").open("w", encoding="utf-8", newline="\n")
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not draws_progress(console),
        )
        self.task = self.progress.add_task("", total=steps, told="")
        self.examples = self.seconds = 0.0
        self.validation = ""

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.metrics.close()

    def step(self, line: dict[str, Any]) -> None:
        """See `loop.Observer`."""
        self._write(line)
        self.examples += line["examples"]
        self.seconds += line["seconds"]
        rate = self.examples / self.seconds
        self.progress.update(
            self.task, advance=1, told=f"{rate:.1f} examples/s, loss {line['loss']:.3f}{self.validation}"
        )

    def validated(self, line: dict[str, Any], best: bool) -> None:
        """See `loop.Observer`."""
        self._write(line)
        self.validation = f", validation {line['validation_loss']:.3f}"
        if best and line["step"]:
            with contextlib.suppress(TrainingError):  # still all zero: an error only at the end of the run
                self.keep(line["validation_loss"])
        if self.watch is not None:
            self.watch(line["step"], line["validation_loss"])

    def _write(self, line: dict[str, Any]) -> None:
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
