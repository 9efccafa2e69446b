"""`tailora compare`: LoRA, full fine-tuning, biases only and the top two blocks, on the same data, by measurement.

Each method takes the best of several learning rates by validation loss. Every run is a process of its own, `tailora
train` itself, so that a peak of memory is that method's; what is there from an earlier start is used again.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tailora.core.errors import SettingsError, TrainingError
from tailora.core.files import write_json, write_text
from tailora.core.hardware.machine import describe
from tailora.data import records as record_files
from tailora.data.columns import spell_columns
from tailora.metrics.suite import METRICS, MetricName
from tailora.models.catalog import resolve
from tailora.models.weights import weight_files
from tailora.reports.comparison import as_html, bar_plot, loss_curves, sheet
from tailora.reports.tables import as_markdown
from tailora.training.settings import LEARNING_RATE, Method, TrainSettings

METHODS: tuple[Method, ...] = ("lora", "full", "bitfit", "top2")


class CompareSettings(TrainSettings):
    """Settings of `tailora compare`: those of `tailora train`, which hold for every method, and what to compare."""

    without_flag = frozenset({"method", "learning_rate"})
    methods: tuple[Method, ...] = METHODS
    """What to compare."""
    learning_rates: dict[str, Any] = Field(default_factory=dict)
    """Rates to try: method to values (a list, or a|b|c); by default a third of its own, that, and three times it."""
    grid_limit: int | None = Field(None, ge=1)
    """Try the rates on so many records, and train again with the best; by default the best run itself is kept."""
    test: str | None = None
    """Records to write about and score; by default the data's `test` split, else those to validate on."""
    test_limit: int | None = Field(None, ge=1)
    """Only so many of them, from the start."""
    max_new_tokens: int = Field(80, ge=1)
    """Most tokens a text may have; texts are written greedily."""
    metrics: tuple[MetricName, ...] = ()
    """Which scores; by default those that the field reports of such data."""
    draws: int = Field(1000, ge=100)
    """Resamples of the records that intervals come from."""
    tasks: int = Field(10, ge=1)
    """Tasks to reckon the disk for."""
    output: Path | None = None
    """Folder of the runs and the comparison; by default runs/DATA-compare."""

    @model_validator(mode="after")
    def _comparable(self) -> CompareSettings:
        for name, instead in (("method", "methods"), ("learning_rate", "learning_rates")):
            if name in self.model_fields_set:
                raise SettingsError("each method has its own", where=name, hint=f"give --{instead.replace('_', '-')}")
        if not self.methods:
            raise SettingsError("nothing to compare", where="methods", hint=f"name some of {', '.join(METHODS)}")
        for name in self.learning_rates:
            if name not in get_args(Method):
                raise SettingsError(f"no method {name}", where="learning_rates", hint=f"name {', '.join(METHODS)}")
        for method in self.methods:
            self.rates(method)
        return self

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates to try with a method."""
        given = self.learning_rates.get(method)
        if given is None:
            own = LEARNING_RATE[method]
            return (own / 3, own, 3 * own)
        values = given if isinstance(given, list) else str(given).split("|")
        try:
            rates = tuple(float(value) for value in values)
        except (TypeError, ValueError) as error:
            what = f"{method}: {given} are no numbers"
            raise SettingsError(what, where="learning_rates", hint="write them as 1e-4|3e-4|1e-3") from error
        if not rates or min(rates) <= 0:
            raise SettingsError(f"{method}: rates are above 0", where="learning_rates")
        return rates


class _RunError(TrainingError):
    """One of the processes ended with a mistake that it told in a line."""


def run(settings: CompareSettings) -> dict[str, Any]:
    """Train with every method, write and score texts, and write compare.json, compare.md and compare.html.

    Returns:
        What is in compare.json: for each method its grid, sizes, times, memory, losses and scores.

    Raises:
        SettingsError: the folder holds runs of other settings.
        TrainingError: no method could be trained.
        KeyboardInterrupt: on Ctrl-C; what is done is kept, and the same command goes on from there.
    """
    console = Console(stderr=True)
    output = settings.output or Path("runs") / f"{Path(settings.data).name.split('.')[0] or 'data'}-compare"
    output.mkdir(parents=True, exist_ok=True)
    base = resolve(settings.base)
    rows: dict[str, dict[str, Any]] = {}
    for method in settings.methods:
        console.print(f"{method}:", highlight=False)
        rows[method] = _measured(method, settings, output, console)
    failed = [row["failed"] for row in rows.values() if "failed" in row]
    if len(failed) == len(rows):
        raise TrainingError(f"no method could be trained; {settings.methods[0]}: {failed[0]}", where=output)
    rows["base"] = _written("base", ["--base", settings.base], settings, output, console)
    result = {
        "base": base.name,
        "base_bytes": sum(path.stat().st_size for path in weight_files(base.folder)),
        "data": settings.data,
        "tasks": settings.tasks,
        "settings": settings.model_dump(mode="json", exclude_unset=True, exclude={"output"}),
        "methods": rows,
        "hardware": describe(),
    }
    write_json(output / "compare.json", result)
    loss_curves({name: output / row["run"] / "metrics.jsonl" for name, row in rows.items() if "run" in row},
                output / "losses.svg")  # fmt: skip
    bar_plot(result, output / "bars.svg")
    told = sheet(result, METRICS)
    write_text(output / "compare.md", as_markdown(told))
    plots = [(output / name).read_text(encoding="utf-8") for name in ("losses.svg", "bars.svg")]
    write_text(output / "compare.html", as_html(told, plots))
    _tell(console, told.tables[0], output)
    return {**result, "output": str(output), "report": str(output / "compare.html")}


def _measured(method: Method, settings: CompareSettings, output: Path, console: Console) -> dict[str, Any]:
    """Everything about a method; what cannot be trained says why under `failed`."""
    grid: list[dict[str, Any]] = []
    for rate in settings.rates(method):
        folder = output / "grid" / f"{method}-{rate:.3g}"
        try:
            found = _trained(folder, _training(method, rate, settings, settings.grid_limit or settings.limit))
        except _RunError as error:
            grid.append({"learning_rate": rate, "validation_loss": None, "failed": str(error)})
            console.print(f"  learning rate {rate:.3g}: {error}", highlight=False, markup=False)
            continue
        grid.append({"learning_rate": rate, "validation_loss": _loss(found), "folder": folder})
        told = f"validation loss {_loss(found):.4f} in {found['seconds']:.0f} s"
        console.print(f"  learning rate {rate:.3g}: {told}", highlight=False)
    done = [each for each in grid if each["validation_loss"] is not None]
    if not done:
        return {"failed": grid[0]["failed"], "grid": grid}
    best = min(done, key=lambda each: each["validation_loss"])
    folder = best["folder"]
    if settings.grid_limit is not None:
        folder = output / "runs" / method
        try:
            _trained(folder, _training(method, best["learning_rate"], settings, settings.limit))
        except _RunError as error:
            return {"failed": str(error), "grid": _plain(grid)}
    return {"grid": _plain(grid), **_account(folder, output), **_texts(method, folder, settings, output, console)}


def _plain(grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.items() if name != "folder"} for each in grid]


def _loss(found: Mapping[str, Any]) -> float:
    """A run's validation loss, on the base as it is where that was measured."""
    loss = found["validation_loss"]
    return float(loss.get("exact") or loss["after"])


def _training(method: Method, rate: float, settings: CompareSettings, limit: int | None) -> TrainSettings:
    """The settings of one run."""
    own = set(CompareSettings.model_fields) - set(TrainSettings.model_fields) | {"output", "limit"}
    held = settings.model_dump(mode="json", exclude_unset=True, exclude=own)
    if settings.precision == "int8" and method != "lora":
        held["precision"] = "auto"  # whole numbers do not learn
    return TrainSettings(**held, method=method, learning_rate=rate, limit=limit)


def _trained(folder: Path, wanted: TrainSettings) -> dict[str, Any]:
    """What run.json of a finished run says; the run is made unless it is there."""
    account = folder / "run.json"
    wanted = wanted.model_copy(update={"output": folder})
    if account.is_file():
        found: dict[str, Any] = json.loads(account.read_text(encoding="utf-8"))
        # The same folder may have another name from another working directory.
        if {**found["settings"], "output": None} != {**wanted.model_dump(mode="json"), "output": None}:
            raise SettingsError("holds a run of other settings", where=folder, hint="name another folder with --output")
        if "finished" in found and not found["interrupted"]:
            return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_name(folder.name + ".yaml")
    write_text(config, wanted.to_yaml())
    found = _tailora("train", str(config))
    if found["validation_loss"]["after"] is None:
        raise SettingsError("nothing to validate on", where="valid", hint="name records with --valid")
    return found


def _account(folder: Path, output: Path) -> dict[str, Any]:
    """A run's sizes, times and memory."""
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    saved = folder / found["saved"]
    files = [saved] if saved.is_file() else [path for path in saved.rglob("*") if path.is_file()]
    return {
        "run": folder.relative_to(output).as_posix(),
        "learning_rate": found["settings"]["learning_rate"],
        "parameters": found["account"]["parameters"],
        "saved_bytes": sum(path.stat().st_size for path in files),
        "peak_memory_bytes": found["peak_memory_bytes"],
        "peak_gpu_memory_bytes": found.get("peak_gpu_memory_bytes"),
        "optimizer_bytes": found["optimizer_bytes"],
        "seconds_per_step": statistics.median(seconds[1:] or seconds),  # the first makes buffers
        "examples_per_second": found["examples_per_second"],
        "steps": found["steps"],
        "examples": found["examples"],
        "seconds": found["seconds"],
        "validation_loss": {"before": found["validation_loss"]["before"], "after": _loss(found)},
        "precision": found["account"]["precision"],
        "device": found["account"]["device"],
    }


def _texts(method: Method, run: Path, settings: CompareSettings, output: Path, console: Console) -> dict[str, Any]:
    """Texts with what was learnt, scored."""
    if method == "lora":
        model = ["--base", settings.base, "--adapter", str(run / "adapter")]
        return _written(method, model, settings, output, console)
    whole = run / "model"
    if method != "full":
        whole = output / "models" / method
        shutil.rmtree(whole, ignore_errors=True)
        _tailora("merge", "--adapter", str(run), "--base", settings.base, "--output", str(whole))
    return _written(method, ["--base", str(whole)], settings, output, console)


def _written(
    name: str, model: Sequence[str], settings: CompareSettings, output: Path, console: Console
) -> dict[str, Any]:
    decoding = _generated(name, model, settings, output)
    folder = output / "scores" / name
    texts = str(output / "texts" / f"{name}.jsonl")
    command = ["--texts", texts, "--output", str(folder), "--draws", str(settings.draws), *_test_data(settings)]
    metrics = ["--metrics", ",".join(settings.metrics)] if settings.metrics else []
    scores = _tailora("evaluate", *command, *metrics)["all"]
    console.print(f"  {name}: {decoding['records']} texts", highlight=False)
    return {"decoding": decoding, "scores": scores}


def _generated(name: str, model: Sequence[str], settings: CompareSettings, output: Path) -> dict[str, Any]:
    """Write greedy texts into a file: how many, and what computed them.

    Their speed is not kept: one cold run of a few texts measures the machine's warm-up more than the method.
    """
    texts = output / "texts" / f"{name}.jsonl"
    texts.parent.mkdir(exist_ok=True)
    # An unfinished file of an earlier start may be one of other settings, which would be refused.
    texts.with_name(texts.name + ".unfinished").unlink(missing_ok=True)
    form = ["--prompt-form", settings.prompt_form, "--linearization", settings.linearization]
    command = [*model, *form, "--max-new-tokens", str(settings.max_new_tokens), "--output", str(texts), "--gather"]
    made = _tailora("generate", *command, *_test_data(settings))
    kept = ("records", "completion_tokens", "backend", "precision", "device")
    return {key: made[key] for key in kept}


def _test_data(settings: CompareSettings) -> list[str]:
    """The flags that name the records to write about."""
    source = settings.test or settings.data
    splits = record_files.splits(source)
    if settings.test is None and "test" not in splits:
        source = settings.valid or settings.data
        splits = record_files.splits(source)
    flags = ["--input", source]
    if splits:
        flags += ["--split", "test" if "test" in splits else "valid"]
    if settings.format is not None:
        flags += ["--format", settings.format]
    if settings.columns:
        flags += ["--columns", spell_columns(settings.columns)]
    if settings.language is not None:
        flags += ["--language", settings.language]
    if settings.all_texts:
        flags.append("--all-texts")
    limit = settings.test_limit
    return flags if limit is None else [*flags, "--limit", str(limit)]


def _tailora(*arguments: str) -> dict[str, Any]:
    """Run a verb in a process of its own, and take its result.

    Raises:
        _RunError: it ended with a mistake, or was killed.
        RuntimeError: it ended with a bug of ours.
    """
    command = [sys.executable, "-P", "-m", "tailora", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == 2:
        raise _RunError(last.removeprefix("tailora: "))
    if done.returncode < 0:
        raise _RunError(f"killed by signal {-done.returncode}, as for want of memory")
    if done.returncode == 130:
        raise KeyboardInterrupt
    raise RuntimeError(f"tailora {arguments[0]} ended with {done.returncode}: {done.stderr}")


def _tell(console: Console, table: tuple[str, Sequence[str], Sequence[Sequence[str]]], output: Path) -> None:
    title, head, rows = table
    shown = Table(title=title)
    for number, heading in enumerate(head):
        shown.add_column(heading, justify="right" if number else "left")
    for name, *cells in rows:
        shown.add_row(name, *(cell.partition(" (")[0] for cell in cells))  # without the intervals
    console.print(shown)
    console.print(f"see {output / 'compare.html'}", highlight=False, soft_wrap=True)
