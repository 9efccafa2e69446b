"""`tailora train`: from settings to a run directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from tailora.adapters import formats
from tailora.data import records as record_files
from tailora.data.examples import Example, build_examples
from tailora.data.prefix_tree import build
from tailora.data.prompts import PromptFormat
from tailora.data.values import Record
from tailora.errors import SettingsError
from tailora.files import write_json
from tailora.hardware import bf16_is_faster, choose_device, describe, peak_gpu_memory, peak_rss
from tailora.lora.inject import attach, parameter_table
from tailora.models.load import Base, load_base
from tailora.reports.plots import loss_plot
from tailora.train import int8
from tailora.train.check import check_trees
from tailora.train.estimate import arithmetic, peak_bytes, seconds, workload
from tailora.train.forward import TreeModel
from tailora.train.loop import Outcome, fit, mean_loss
from tailora.train.loss import FrozenHead
from tailora.train.methods import prepare, save_checkpoint, save_result
from tailora.train.settings import TrainSettings

LEAST_INT8_WIDTH = 512
"""Hidden size from which the products of a network repay the rounding of their inputs to 8 bits."""

Autocast = Callable[[], AbstractContextManager[Any]]
Watch = Callable[[int, float], object]
"""Takes the number of updates so far and the validation loss after them."""


def run(settings: TrainSettings, watch: Watch | None = None) -> dict[str, Any]:
    """Train, and write the run directory: adapter, run.json, metrics.jsonl, loss.svg, checkpoints/.

    Args:
        settings: of the run.
        watch: told of each validation; what it raises ends the run there, with nothing saved but run.json and
            metrics.jsonl so far.

    Raises:
        UserError: for data, models and settings that cannot be trained on.
        KeyboardInterrupt: on Ctrl-C; after the first update, the run directory is made whole first.
    """
    console = Console(stderr=True)
    folder = _new_folder(settings)
    train_records, valid_records = read_records(settings)
    device = choose_device(settings.device)
    base = load_base(settings.base, dtype=torch.float32, device=device)
    prompts = prompts_of(base, settings, [*train_records, *valid_records])
    train, valid = examples_of(train_records, base, settings, console, prompts), []
    if valid_records:
        valid = examples_of(valid_records, base, settings, console, prompts)
    prepare(base, settings)
    base.model.to(device)
    check_trees(base.model, train)
    account = _account(base, train, settings) | {"prompts": prompts.meta}
    precision, autocast, head = _set_precision(base.model, train, settings, device)
    account |= {"precision": precision, "device": device, "estimate": _estimate(base, account, precision, device)}
    _announce(console, account)
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"settings": settings.model_dump(mode="json"), "account": account})
    with _Observer(base.model, folder, account["steps"], console, watch) as observer:
        outcome = fit(base.model, train, valid, settings, observer, autocast=autocast, head=head)
    meta = {
        **prompts.meta,
        "data_fingerprint": account["data_fingerprint"],
        "scores": {"validation_loss": outcome.final_loss},
    }
    saved = save_result(base, settings, meta, folder)
    loss_plot(folder / "metrics.jsonl", folder / "loss.svg")
    result = _result(base, settings, account, outcome, saved)
    if precision == "int8" and outcome.final_loss is not None and not outcome.interrupted:
        result["validation_loss"]["exact"] = _exact_loss(settings, saved, valid)
    write_json(folder / "run.json", result)
    for warning in outcome.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False)
    _conclude(console, folder, outcome, result["validation_loss"].get("exact"))
    if outcome.interrupted:
        raise KeyboardInterrupt
    return result | {"run": str(folder)}


def _new_folder(settings: TrainSettings) -> Path:
    if settings.output is not None:
        if settings.output.exists():
            raise SettingsError("exists already", where=settings.output, mend="name a new run directory with --output")
        return settings.output
    name = Path(settings.data).name.split(".")[0] or "data"
    number = 1
    while (folder := Path("runs") / f"{name}-{settings.method}-{number}").exists():
        number += 1
    return folder


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


def _set_precision(
    model: nn.Module, train: Sequence[Example], settings: TrainSettings, device: str
) -> tuple[str, Autocast, FrozenHead | None]:
    """Narrow the frozen weights once where only adapters learn; elsewhere narrow each product by autocast."""
    wanted = settings.precision
    if wanted == "auto" and settings.method == "lora" and device == "cpu":
        wide = int(getattr(cast(Any, model).config, "hidden_size", 0)) >= LEAST_INT8_WIDTH
        wanted = "int8" if wide and int8.pays() else "auto"
    if wanted == "int8":
        int8.require()
        return "int8", contextlib.nullcontext, int8.quantise_frozen(model, build(train[: settings.batch_size]))
    narrow = wanted == "bf16" or (wanted == "auto" and bf16_is_faster(device))
    if not narrow:
        return "fp32", contextlib.nullcontext, None
    if settings.method == "lora" and settings.bias == "none":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
        return "bf16", contextlib.nullcontext, None
    return "bf16", lambda: torch.autocast(torch.device(device).type, torch.bfloat16), None


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
    }


def _estimate(base: Base, account: dict[str, Any], precision: str, device: str) -> dict[str, Any]:
    """Peak memory (on a CPU) and the time of all updates, as far as they can be told before the first."""
    on_cpu = torch.device(device).type == "cpu"
    trainable = account["parameters"]["trainable"]
    return {
        "seconds": seconds(account["operations"], precision, device),
        "peak_memory_bytes": peak_bytes(base.model, account["largest_pass"], trainable) if on_cpu else None,
    }


def _announce(console: Console, account: dict[str, Any]) -> None:
    table, tokens = account["parameters"], account["tokens_per_epoch"]
    saved = 100 * (1 - tokens["trees"] / tokens["sequences"])
    console.print(
        f"{account['base']}: {table['total']:,} parameters, {table['trainable']:,} trainable "
        f"({table['percent']:.2f}%), {account['precision']} on {account['device']}\n"
        f"{account['examples']:,} examples, {account['steps']:,} updates; an epoch has {tokens['sequences']:,} tokens, "
        f"{tokens['trees']:,} with every common prefix once ({saved:.0f}% saved)\n"
        f"estimated: {_duration(account['estimate']['seconds'])}{_memory(account['estimate']['peak_memory_bytes'])}",
        highlight=False,
    )


def _duration(took: float) -> str:
    return f"{took / 60:.0f} minutes" if took >= 90 else f"{took:.0f} seconds"


def _memory(amount: int | None) -> str:
    return "" if amount is None else f", {amount / 2**30:.1f} GiB of memory"


def _result(
    base: Base, settings: TrainSettings, account: dict[str, Any], outcome: Outcome, saved: Path
) -> dict[str, Any]:
    return {
        "settings": settings.model_dump(mode="json"),
        "account": account,
        "steps": outcome.steps,
        "examples": outcome.examples,
        "seconds": outcome.seconds,
        "examples_per_second": outcome.examples / outcome.seconds if outcome.seconds else None,
        "validation_loss": {"before": outcome.initial_loss, "after": outcome.final_loss, "step": outcome.best_step},
        "peak_memory_bytes": peak_rss(),
        "peak_gpu_memory_bytes": peak_gpu_memory() if account["device"] != "cpu" else None,
        "optimizer_bytes": outcome.optimizer_bytes,
        "saved": saved.name,
        "interrupted": outcome.interrupted,
        "warnings": outcome.warnings,
        "hardware": describe(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
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
    if outcome.interrupted:
        console.print(f"interrupted: what update {outcome.best_step} left is kept", highlight=False)
    console.print(
        f"{outcome.steps} updates in {outcome.seconds:.0f} s, {rate:.1f} examples/s{loss}; see {folder}",
        highlight=False,
    )


class _Observer:
    """Writes metrics.jsonl and the best checkpoint, and draws the progress bar."""

    def __init__(self, model: nn.Module, folder: Path, steps: int, console: Console, watch: Watch | None) -> None:
        self.model, self.folder, self.watch = model, folder, watch
        self.metrics = (folder / "metrics.jsonl").open("w", encoding="utf-8", newline="\n")
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
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
            save_checkpoint(self.model, self.folder / "checkpoints" / "best.safetensors")
        if self.watch is not None:
            self.watch(line["step"], line["validation_loss"])

    def _write(self, line: dict[str, Any]) -> None:
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
