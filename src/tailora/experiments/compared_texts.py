"""Texts of the models of a comparison and their scores. What an earlier start finished is kept.

`texts/NAME.made.json` says from what a model's texts were made, and has the results of each step as soon as it is done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tailora.core.errors import SettingsError
from tailora.core.files import read_json_object, write_json
from tailora.data import records as record_files
from tailora.data.columns import spell_columns
from tailora.data.prompts import PromptForm, usual_form
from tailora.data.tokenizer import Tokenizer
from tailora.experiments.processes import run_command
from tailora.models.catalog import resolve
from tailora.training.settings import Method, TrainSettings


@dataclass(frozen=True)
class Comparison:
    """The methods to compare, and the data.

    Attributes:
        training: the settings of every method; `limit` is the one of the final runs.
        rates: learning rates to try, by method.
        output: folder of the runs and the comparison.
        grid_limit: training records that the rates are tried on; None keeps the best run itself.
        test: records to write about and score; None uses the data's `test` split, or else the validation records.
        test_limit: use only the first N of them.
        max_new_tokens: longest text.
        metrics: names of the scores; by default those usually reported for such data.
        draws: bootstrap resamples for the intervals.
        tasks: number of tasks for which the report estimates the disk space.
        stated: the settings that the user set, for compare.json.
        seeds: seeds of further runs of each method at its best learning rate; that of `training` is the first.
    """

    training: TrainSettings
    rates: Mapping[Method, tuple[float, ...]]
    output: Path
    grid_limit: int | None = None
    test: str | None = None
    test_limit: int | None = None
    max_new_tokens: int = 80
    metrics: Sequence[str] = ()
    draws: int = 1000
    tasks: int = 10
    stated: Mapping[str, Any] | None = None
    seeds: Sequence[int] = ()


def texts_of(name: str, comparison: Comparison, console: Console, run: Path | None = None) -> dict[str, Any]:
    """Write greedy texts with a model and score them, as far as an earlier start has not.

    Args:
        name: of the model's files.
        comparison: the settings and the test records.
        console: for the line on the model.
        run: the run that trained it; None for the base alone.

    Returns:
        `decoding`, the number of texts, their tokens, backend, precision and device; and `scores`.

    Raises:
        CommandError: the texts cannot be written or scored.
    """
    output = comparison.output
    place = output / "texts" / f"{name}.jsonl"
    record = place.with_name(f"{name}.made.json")
    source = _made_from(comparison, run)
    kept = read_json_object(record, SettingsError, hint="delete it", optional=True)
    if kept.get("from") != source:
        kept = {"from": source}
        # A resume file of other settings would be an error.
        for path in (place, place.with_name(place.name + ".unfinished"), record):
            path.unlink(missing_ok=True)
        shutil.rmtree(output / "models" / name, ignore_errors=True)
    _write_model(name, comparison, run)
    place.parent.mkdir(exist_ok=True)
    write_if_new(record, kept)
    if "decoding" not in kept or not place.is_file() or _sha256(place) != kept["sha256"]:
        decoding = _generated(name, comparison, run, place)
        kept = {"from": source, "decoding": decoding, "sha256": _sha256(place)}
        write_json(record, kept)
    scoring = {"metrics": list(comparison.metrics), "draws": comparison.draws}
    if kept.get("scoring") != scoring:
        kept |= {"scores": _scored(name, comparison, place), "scoring": scoring}
        write_json(record, kept)
    console.print(f"  {name}: {kept['decoding']['records']} texts", highlight=False)
    return {"decoding": dict(kept["decoding"]), "scores": kept["scores"]}


def write_if_new(path: Path, value: Mapping[str, Any]) -> bool:
    """Write a JSON file unless it has this content; return whether it was written."""
    if path.is_file() and path.read_text(encoding="utf-8").strip() == json.dumps(value, indent=2, ensure_ascii=False):
        return False
    write_json(path, value)
    return True


def _made_from(comparison: Comparison, run: Path | None) -> dict[str, Any]:
    """Return everything that decides a model's texts."""
    training, (source, split) = comparison.training, test_source(comparison)
    finished = None
    if run is not None:
        finished = json.loads((run / "run.json").read_text(encoding="utf-8"))["finished"]
    return {
        "run": None if run is None else run.relative_to(comparison.output).as_posix(),
        "finished": finished,
        "base": training.base,
        "prompt_form": prompt_form(comparison),
        "linearization": training.linearization,
        "max_new_tokens": comparison.max_new_tokens,
        "test": _test_data(comparison),
        "digest": record_files.digest(source, split),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_model(name: str, comparison: Comparison, run: Path | None) -> None:
    """Write the whole model of a run that changed weights of its base, unless it is there."""
    whole = comparison.output / "models" / name
    if run is not None and not (run / "adapter").is_dir() and not (run / "model").is_dir() and not whole.is_dir():
        base = comparison.training.base
        run_command("merge", "--adapter", str(run), "--base", base, "--output", str(whole))


def model_of(name: str, comparison: Comparison, run: Path | None) -> tuple[str, Path | None]:
    """Return the base model and the adapter of a run, or of the base alone."""
    if run is None:
        return comparison.training.base, None
    if (run / "adapter").is_dir():
        return comparison.training.base, run / "adapter"
    whole = run / "model"
    return str(whole if whole.is_dir() else comparison.output / "models" / name), None


def _generated(name: str, comparison: Comparison, run: Path | None, texts: Path) -> dict[str, Any]:
    """Write greedy texts to a file; return their number, their tokens, and backend, precision and device."""
    form = ["--prompt-form", prompt_form(comparison), "--linearization", comparison.training.linearization]
    base, adapter = model_of(name, comparison, run)
    model = ["--base", base, *([] if adapter is None else ["--adapter", str(adapter)])]
    command = [*model, *form, "--max-new-tokens", str(comparison.max_new_tokens), "--output", str(texts), "--gather"]
    result = run_command("generate", *command, *_test_data(comparison))
    return {key: result[key] for key in ("records", "completion_tokens", "backend", "precision", "device")}


def _scored(name: str, comparison: Comparison, texts: Path) -> dict[str, Any]:
    folder = comparison.output / "scores" / name
    command = ["--texts", str(texts), "--output", str(folder), "--draws", str(comparison.draws)]
    metrics = ["--metrics", ",".join(comparison.metrics)] if comparison.metrics else []
    scores = run_command("evaluate", *command, *_test_data(comparison), *metrics, "--by", "none")["all"]
    return dict(scores)


def prompt_form(comparison: Comparison) -> PromptForm:
    """Return the prompt form of every method, which is also that of the base alone."""
    training = comparison.training
    if training.prompt_form is not None:
        return training.prompt_form
    source, split = test_source(comparison)
    records = record_files.load(source, split=split, texts="unused", **training.reader_options()).rows
    folder = resolve(training.base).folder
    return usual_form(records, Tokenizer.from_folder(folder), folder)


def test_source(comparison: Comparison) -> tuple[str, str | None]:
    """Return the source and the split of the test records."""
    training = comparison.training
    source = comparison.test or training.data
    splits = record_files.splits(source)
    if comparison.test is None and "test" not in splits:
        source = training.valid or training.data
        splits = record_files.splits(source)
    return source, ("test" if "test" in splits else "valid") if splits else None


def _test_data(comparison: Comparison) -> list[str]:
    """Return the flags that select the test records."""
    training = comparison.training
    source, split = test_source(comparison)
    flags = ["--input", source, *([] if split is None else ["--split", split])]
    if training.format is not None:
        flags += ["--format", training.format]
    if training.columns:
        flags += ["--columns", spell_columns(training.columns)]
    if training.language is not None:
        flags += ["--language", training.language]
    if training.all_texts:
        flags.append("--all-texts")
    limit = comparison.test_limit
    return flags if limit is None else [*flags, "--limit", str(limit)]
