"""The learning curve of a data set: runs on parts of it, and what more data would bring.

The runs are run directories in one folder. Finished runs of an earlier start are reused, and an unfinished one
continues.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tailora.core.errors import SettingsError
from tailora.core.files import read_json_object, write_json, write_text
from tailora.data.readers import jsonl
from tailora.data.values import Record
from tailora.experiments.power_law import DRAWS, LEVEL, fit, forecast
from tailora.reports.learning_curve import curve_plot
from tailora.training.run import run as train
from tailora.training.run_data import read_records
from tailora.training.settings import TrainSettings

FACTORS = (2.0, 4.0)
"""Multiples of the data whose losses are extrapolated."""
_ANOTHER = "name another folder with --output"


@dataclass(frozen=True)
class LearningCurve:
    """The parts of the data to train on.

    Attributes:
        training: the settings of every run; its data is divided.
        percentages: parts of the records, in per cent, ascending, each above 0 and up to 100.
        repeats: number of runs of each part, on different random parts.
        output: folder of the runs and the result.
    """

    training: TrainSettings
    percentages: tuple[float, ...]
    repeats: int
    output: Path


def measure(curve: LearningCurve, console: Console) -> dict[str, Any]:
    """Train on parts of the data, fit the curve, and write learning-curve.json and learning-curve.svg.

    Returns:
        The content of learning-curve.json: the runs with their records and validation losses, the law, the expected
        losses of more data with their intervals, and the conclusion in one sentence.

    Raises:
        SettingsError: the parts would have equal sizes, there are no validation records, or the folder
            contains runs with other settings or data.
        UserError: the data, the model or the settings cannot be trained with.
        KeyboardInterrupt: on Ctrl-C; the same command continues.
    """
    training, output = curve.training, curve.output
    records, valid, _ = read_records(training)
    if not valid:
        raise SettingsError("there are no validation records", where="valid", hint="name records with --valid")
    sizes = _sizes(len(records), curve.percentages)
    _claim(curve, records, valid)
    validation = output / "data" / "valid.jsonl"
    _write_once(validation, valid)
    runs = []
    for size in sizes:
        for repeat in range(curve.repeats):
            name = f"{size}-{repeat}"
            part = output / "data" / f"{name}.jsonl"
            _write_once(part, _part(records, size, training.seed + repeat))
            loss = _loss(training, part, validation, output / "runs" / name, training.seed + repeat)
            console.print(f"{size:,} records: validation loss {loss:.4f}", highlight=False)
            runs.append({"records": size, "repeat": repeat, "validation_loss": loss, "run": f"runs/{name}"})
    result = _result(runs, seed=training.seed)
    write_json(output / "learning-curve.json", result)
    curve_plot(result, output / "learning-curve.svg")
    return result


def _sizes(count: int, percentages: Sequence[float]) -> list[int]:
    sizes = [max(1, round(count * percentage / 100)) for percentage in percentages]
    if len(set(sizes)) < len(sizes):
        what = f"{count} records are too few for {len(percentages)} parts"
        raise SettingsError(what, where="percentages", hint="name fewer parts, or give more records")
    return sizes


def _claim(curve: LearningCurve, records: Sequence[Record], valid: Sequence[Record]) -> None:
    """Raise `SettingsError` if the folder belongs to other settings or data; else note these."""
    digest = hashlib.sha256((jsonl.dump(records) + jsonl.dump(valid)).encode()).hexdigest()
    settings = curve.training.model_dump(mode="json", exclude={"output", "data", "valid", "resume", "save_every"})
    own = {"data": digest, "settings": settings}
    path = curve.output / "settings.json"
    kept = read_json_object(path, SettingsError, hint=_ANOTHER, optional=True)
    if kept and kept != own:
        other = "data" if kept.get("data") != digest else "settings"
        raise SettingsError(f"contains runs with other {other}", where=curve.output, hint=_ANOTHER)
    curve.output.mkdir(parents=True, exist_ok=True)
    write_json(path, own)


def _part(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """Return a random part of the records; a smaller part with the same seed is a part of it."""
    order = list(range(len(records)))
    random.Random(f"learning curve {seed}").shuffle(order)
    return [records[number] for number in sorted(order[:size])]


def _write_once(path: Path, records: Sequence[Record]) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, jsonl.dump(records))


def _loss(training: TrainSettings, part: Path, valid: Path, folder: Path, seed: int) -> float:
    """Return the validation loss of a run, which is trained unless it is finished."""
    path = folder / "run.json"
    if path.is_file():
        run = json.loads(path.read_text(encoding="utf-8"))
        if "finished" in run and not run["interrupted"]:
            return _kept_loss(run)
    own = {"columns", "limit", "valid_limit", "output"}
    if training.format != "text":  # records describe themselves, texts alone do not
        own.add("format")
    values = training.model_dump(mode="json", exclude_unset=True, exclude=own)
    values |= {"data": str(part), "valid": str(valid), "output": str(folder), "seed": seed}
    return _kept_loss(train(TrainSettings(**values)))


def _kept_loss(run: Mapping[str, Any]) -> float:
    loss = run["validation_loss"]
    return float(loss.get("exact") or loss["after"])


def _result(runs: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Any]:
    amounts = [float(run["records"]) for run in runs]
    law = fit(amounts, [run["validation_loss"] for run in runs])
    most = max(amounts)
    expected = forecast(law, amounts, [most, *(factor * most for factor in FACTORS)], seed=seed)
    rows = [
        {
            "records": round(factor * most),
            "validation_loss": future.loss,
            "lowest": future.lowest,
            "highest": future.highest,
        }
        for factor, future in zip((1.0, *FACTORS), expected, strict=True)
    ]
    return {
        "runs": list(runs),
        "law": {"floor": law.floor, "factor": law.factor, "exponent": law.exponent, "spread": law.spread},
        "expected": rows,
        "interval": {"level": LEVEL, "draws": DRAWS, "seed": seed},
        "conclusion": _conclusion(rows),
    }


def _conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what twice the data would bring, in one sentence."""
    current, double = rows[0], rows[1]
    loss, low, high = double["validation_loss"], double["lowest"], double["highest"]
    gain = 1 - math.exp(loss - current["validation_loss"])
    sentence = (
        f"Twice the data ({double['records']:,} records) would change the validation loss from about "
        f"{current['validation_loss']:.3f} to {loss:.3f} nats per token ({LEVEL:.0%} interval {low:.3f} to {high:.3f})"
    )
    if high >= current["validation_loss"]:
        return f"{sentence}, which may not be an improvement."
    return f"{sentence}, which lowers the perplexity by {gain:.1%}."
