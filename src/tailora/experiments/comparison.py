"""Compare training methods on the same data, by measurement.

Each method gets the best of several learning rates by validation loss. Every run is a `tailora train` in its own
process, so that the peak memory is that of the method. Finished runs of an earlier start are reused, and an unfinished
one continues.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tailora.core.errors import SettingsError, TrainingError
from tailora.core.files import read_json_object, write_json, write_text
from tailora.core.hardware.machine import describe
from tailora.data import records as record_files
from tailora.data.reading import ReadingSettings
from tailora.data.records import SplitName
from tailora.experiments.compared_texts import Comparison, model_of, prompt_form, test_source, texts_of, write_if_new
from tailora.experiments.decoding_runs import speeds_of
from tailora.experiments.processes import CommandError, run_command
from tailora.metrics.suite import METRICS
from tailora.models.catalog import Resolved, resolve
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.weights import weight_files
from tailora.reports.comparison import as_html, bar_plot, loss_curves, sheet
from tailora.reports.tables import as_markdown
from tailora.training.resume import completed, is_unfinished
from tailora.training.run_data import read_records
from tailora.training.settings import Method, TrainSettings


def compare(comparison: Comparison, console: Console) -> dict[str, Any]:
    """Train with every method, write and score texts, and write compare.json, compare.md and compare.html.

    Returns:
        The content of compare.json: for each method its grid, sizes, times, memory, losses and scores. With several
        seeds, these are those of the first one, and `seeds` has the loss and the scores of each.

    Raises:
        SettingsError: the folder contains runs with other settings, data or weights.
        DataError: the data cannot be read.
        TrainingError: no method could be trained.
        KeyboardInterrupt: on Ctrl-C; finished runs are kept, and the same command continues.
    """
    output, training = comparison.output, comparison.training
    read_records(training)  # so that a mistake in the data is reported once, and before the first run
    output.mkdir(parents=True, exist_ok=True)
    base = resolve(training.base)
    _check_sources(comparison, base)
    rows: dict[str, dict[str, Any]] = {}
    for method in comparison.rates:
        console.print(f"{method}:", highlight=False)
        rows[method] = _measured(method, comparison, console)
    failed = [row["failed"] for row in rows.values() if "failed" in row]
    if len(failed) == len(rows):
        raise TrainingError(f"no method could be trained; {next(iter(rows))}: {failed[0]}", where=output)
    rows["base"] = texts_of("base", comparison, console)
    _measure_speeds(rows, comparison, console)
    result: dict[str, Any] = {
        "base": base.name,
        "base_bytes": sum(path.stat().st_size for path in weight_files(base.folder)),
        "data": training.data,
        "tasks": comparison.tasks,
        "settings": dict(comparison.stated or {}),
        "methods": rows,
    }
    earlier = read_json_object(output / "compare.json", SettingsError, hint="delete it", optional=True)
    if all(earlier.get(key) == value for key, value in result.items()) and (output / "compare.html").is_file():
        return earlier
    result["hardware"] = describe()
    write_json(output / "compare.json", result)
    _report(result, output)
    return result


def _check_sources(comparison: Comparison, base: Resolved) -> None:
    """Reject a folder whose runs used other data or weights of the same names; keep the digests of what is used."""
    training, path = comparison.training, comparison.output / "sources.json"
    digests = {"training data": _split_digest(training.data, "train")}
    if training.valid is not None:
        digests["validation data"] = _split_digest(training.valid, "valid")
    elif "valid" in record_files.splits(training.data):
        digests["validation data"] = _split_digest(training.data, "valid")
    sources = {"base": fingerprint_folder(base.folder)}
    sources |= {name: digest for name, digest in digests.items() if digest is not None}
    kept = read_json_object(path, SettingsError, hint="name another folder with --output", optional=True)
    changed = [name for name in kept if sources.get(name) != kept[name]]
    if changed:
        what = f"contains runs that were made before the {changed[0]} changed"
        raise SettingsError(what, where=comparison.output, hint="name another folder with --output")
    write_if_new(path, sources)


def _split_digest(source: str, split: SplitName) -> str | None:
    return record_files.digest(source, split if record_files.splits(source) else None)


def _report(result: Mapping[str, Any], output: Path) -> None:
    """Write compare.md, compare.html and their plots."""
    rows = result["methods"]
    runs = {name: output / row["run"] / "metrics.jsonl" for name, row in rows.items() if "run" in row}
    loss_curves(runs, output / "losses.svg")
    bar_plot(result, output / "bars.svg")
    report = sheet(result, METRICS)
    write_text(output / "compare.md", as_markdown(report))
    plots = [(output / name).read_text(encoding="utf-8") for name in ("losses.svg", "bars.svg")]
    write_text(output / "compare.html", as_html(report, plots))


def _measured(method: Method, comparison: Comparison, console: Console) -> dict[str, Any]:
    """Return the figures of a method, or the reason under `failed` if it cannot be trained."""
    training, output = comparison.training, comparison.output
    grid: list[dict[str, Any]] = []
    for rate in comparison.rates[method]:
        folder = output / "grid" / f"{method}-{rate:.3g}"
        try:
            run = _trained(folder, _training(method, rate, comparison, comparison.grid_limit or training.limit))
        except CommandError as error:
            grid.append({"learning_rate": rate, "validation_loss": None, "failed": str(error)})
            console.print(f"  learning rate {rate:.3g}: {error}", highlight=False, markup=False)
            continue
        grid.append({"learning_rate": rate, "validation_loss": _loss(run), "folder": folder})
        console.print(
            f"  learning rate {rate:.3g}: validation loss {_loss(run):.4f} in {run['seconds']:.0f} s", highlight=False
        )
    done = [entry for entry in grid if entry["validation_loss"] is not None]
    if not done:
        return {"failed": grid[0]["failed"], "grid": grid}
    best = min(done, key=lambda entry: entry["validation_loss"])
    folder = best["folder"] if comparison.grid_limit is None else output / "runs" / method
    try:
        if comparison.grid_limit is not None:
            _trained(folder, _training(method, best["learning_rate"], comparison, training.limit))
        row = {"grid": _plain(grid), **_figures(folder, output), **texts_of(method, comparison, console, folder)}
        return row | _repeated(method, row, comparison, console)
    except CommandError as error:
        return {"failed": str(error), "grid": _plain(grid)}


def _repeated(method: Method, row: dict[str, Any], comparison: Comparison, console: Console) -> dict[str, Any]:
    """Run a method with the other seeds, and return the figures of all seeds under `seeds`; nothing if there is one.

    Raises:
        CommandError: a run failed, or the model is no better than the base.
    """
    training, output = comparison.training, comparison.output
    if not comparison.seeds:
        return {}
    figures = {training.seed: row}
    for seed in comparison.seeds:
        name = f"{method}-seed{seed}"
        folder = output / "runs" / name
        wanted = _training(method, row["learning_rate"], comparison, training.limit)
        run = _trained(folder, wanted.model_copy(update={"seed": seed}))
        console.print(f"  seed {seed}: validation loss {_loss(run):.4f} in {run['seconds']:.0f} s", highlight=False)
        figures[seed] = _figures(folder, output) | texts_of(name, comparison, console, folder)
    shown = ("run", "validation_loss", "scores", "seconds")
    return {"seeds": [{"seed": seed} | {key: own[key] for key in shown} for seed, own in figures.items()]}


def _plain(grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name != "folder"} for entry in grid]


def _loss(run: Mapping[str, Any]) -> float:
    """Return a run's validation loss, on the exact base if it was measured."""
    loss = run["validation_loss"]
    return float(loss.get("exact") or loss["after"])


def _training(method: Method, rate: float, comparison: Comparison, limit: int | None) -> TrainSettings:
    """Return the settings of one run."""
    values = comparison.training.model_dump(mode="json", exclude_unset=True, exclude={"output", "limit"})
    if comparison.training.precision == "int8" and method != "lora":
        values["precision"] = "auto"  # integers cannot be trained
    return TrainSettings(**values, method=method, learning_rate=rate, limit=limit)


def _trained(folder: Path, wanted: TrainSettings) -> dict[str, Any]:
    """Return run.json of a finished run. It is started, or continued from its last state, unless it has finished."""
    record = folder / "run.json"
    wanted = wanted.model_copy(update={"output": folder})
    if record.is_file():
        run: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        # The output is compared separately: its path depends on the working directory.
        if {**completed(run["settings"]), "output": None} != {**wanted.model_dump(mode="json"), "output": None}:
            raise SettingsError(
                "contains a run with other settings", where=folder, hint="name another folder with --output"
            )
        if "finished" in run and not run["interrupted"]:
            return run
    if not is_unfinished(folder):
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_name(folder.name + ".yaml")
    write_text(config, wanted.to_yaml())
    run = run_command("train", str(config))
    if run["validation_loss"]["after"] is None:
        raise SettingsError("there are no validation records", where="valid", hint="name records with --valid")
    return run


def _figures(folder: Path, output: Path) -> dict[str, Any]:
    """Return a run's sizes, times and memory."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    saved = folder / run["saved"]
    files = [saved] if saved.is_file() else [path for path in saved.rglob("*") if path.is_file()]
    return {
        "run": folder.relative_to(output).as_posix(),
        "learning_rate": run["settings"]["learning_rate"],
        "parameters": run["account"]["parameters"],
        "saved_bytes": sum(path.stat().st_size for path in files),
        "peak_memory_bytes": run["peak_memory_bytes"],
        "peak_gpu_memory_bytes": run.get("peak_gpu_memory_bytes"),
        "optimizer_bytes": run["optimizer_bytes"],
        "seconds_per_step": statistics.median(seconds[1:] or seconds),  # the first allocates buffers
        "examples_per_second": run["examples_per_second"],
        "steps": run["steps"],
        "examples": run["examples"],
        "seconds": run["seconds"],
        "validation_loss": {"before": run["validation_loss"]["before"], "after": _loss(run)},
        "precision": run["account"]["precision"],
        "device": run["account"]["device"],
    }


def _measure_speeds(rows: Mapping[str, dict[str, Any]], comparison: Comparison, console: Console) -> None:
    """Measure the decoding speed of every model that wrote texts, and add it to the model's row."""
    training = comparison.training
    source, split = test_source(comparison)
    models = {}
    for name, row in rows.items():
        if "failed" in row:
            continue
        base, adapter = model_of(name, comparison, comparison.output / row["run"] if "run" in row else None)
        models[name] = {
            "base": base,
            "adapter": None if adapter is None else str(adapter),
            "input": source,
            "split": split,
            "reading": training.model_dump(mode="json", include=set(ReadingSettings.model_fields)),
            "prompt_form": prompt_form(comparison),
            "linearization": training.linearization,
        }
    console.print("decoding speed:", highlight=False)
    runs = {name: comparison.output / rows[name]["run"] for name in models if "run" in rows[name]}
    for name, speed in _speeds(models, runs, comparison.output).items():
        rows[name]["decoding"]["speed"] = speed
        spread = f"{speed['lowest']:,.0f} to {speed['highest']:,.0f}"
        console.print(f"  {name}: {speed['tokens_per_second']:,.0f} tokens/s ({spread})", highlight=False)


def _speeds(models: Mapping[str, Any], runs: Mapping[str, Path], output: Path) -> dict[str, dict[str, Any]]:
    """Return the decoding speeds of models; those of an earlier start are kept if runs and machine are the same."""
    finished = {
        name: json.loads((run / "run.json").read_text(encoding="utf-8"))["finished"] for name, run in runs.items()
    }
    machine = {name: value for name, value in describe().items() if name in ("packages", "cpu", "cores", "gpu")}
    measured = {"models": dict(models), "finished": finished, "machine": machine}
    path = output / "speeds.json"
    kept = read_json_object(path, SettingsError, hint="delete it", optional=True)
    if any(kept.get(key) != value for key, value in measured.items()):
        kept = {**measured, "speeds": speeds_of(models)}
        write_json(path, kept)
    return dict(kept["speeds"])
