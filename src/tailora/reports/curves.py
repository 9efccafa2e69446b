"""The losses of a training run, read from its metrics.jsonl; no tensor, no drawing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tailora.core.errors import DataError

Axis = Literal["updates", "examples", "seconds"]


@dataclass(frozen=True)
class Curves:
    """The losses of a run in nats per completion token, each as points (position, loss) in their order.

    Attributes:
        training: the loss of every update.
        validation: the loss of every validation.
    """

    training: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]


_MOST = 2**53  # the largest whole number that a float holds exactly


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl.

    A last line without a line end is left out: a run is writing it, or was killed while it did.

    Raises:
        DataError: the file cannot be read, or a line is not what a run writes.
    """
    try:
        texts = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        hint = "name the directory of a training run"
        raise DataError("cannot be read as the metrics of a training run", where=path, hint=hint) from error
    lines = []
    for number, text in enumerate(texts, start=1):
        line = metrics_line(text)
        if line is None:
            raise DataError("is not a line that a training run writes", where=f"{path}:{number}")
        lines.append(line)
    return lines


def metrics_line(text: str) -> dict[str, Any] | None:
    """Return a line of a metrics.jsonl; None if it is not what a run writes."""
    try:
        line: dict[str, Any] = json.loads(text)
        numbers = [line["step"], *(line[name] for name in ("loss", "validation_loss") if name in line)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_known = all(isinstance(value, float) or (type(value) is int and abs(value) < _MOST) for value in numbers)
    return line if is_known else None


def curves_of(lines: Sequence[dict[str, Any]], axis: Axis = "updates") -> Curves:
    """Return the losses of a run.

    Args:
        lines: the lines of its metrics.jsonl.
        axis: what a position counts since the start: updates, examples, or seconds of training without validations.
    """
    training, validation = [], []
    total = 0.0
    for line in lines:
        if "loss" in line:
            total += float(line.get(axis, 0))
        position = float(line["step"]) if axis == "updates" else total
        if "loss" in line:
            training.append((position, float(line["loss"])))
        if "validation_loss" in line:
            validation.append((position, float(line["validation_loss"])))
    return Curves(tuple(training), tuple(validation))


def smoothed(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """Return points whose loss is the mean of the last `width` losses, or of all so far where there are fewer."""
    means, window = [], 0.0
    for number, (position, loss) in enumerate(points):
        window += loss - (points[number - width][1] if number >= width else 0.0)
        means.append((position, window / min(number + 1, width)))
    return means
