"""Decoding speed of several models, measured in rounds and in separate processes.

A round measures every model once, one after the other, so that a temporary slowdown of the machine affects all of them.
Run as a program with a JSON description of one model, this module measures the model and prints the result.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailora.core.errors import UserError
from tailora.data.reading import ReadingSettings
from tailora.experiments.processes import run_module
from tailora.inference.decoding_speed import measure_speed
from tailora.inference.record_prompts import prompts_of_records
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine

ROUNDS = 3
LAPS = 3  # per round
TEXTS = 16  # side by side
TOKENS = 32  # per text


def speeds_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Measure several models in rounds.

    Args:
        models: the argument of `measure`, by the name of the model.

    Returns:
        For each model: the median of all laps in tokens per second, the lowest and the highest median of a round, the
        numbers of laps and rounds, the numbers of texts and of tokens per text, backend, precision and device.

    Raises:
        CommandError: a process ended with a `UserError`, or was killed.
    """
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            rounds[name].append(run_module("tailora.experiments.decoding_runs", json.dumps(model)))
    return {name: _combined(measured) for name, measured in rounds.items()}


def _combined(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    medians = [statistics.median(measured["laps"]) for measured in rounds]
    return {
        "tokens_per_second": statistics.median([lap for measured in rounds for lap in measured["laps"]]),
        "lowest": min(medians),
        "highest": max(medians),
        "laps": sum(len(measured["laps"]) for measured in rounds),
        "rounds": len(rounds),
        **{key: rounds[-1][key] for key in ("texts", "tokens", "backend", "precision", "device")},
    }


def measure(model: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one model in this process.

    Args:
        model: `base` and `adapter` (or None), `input`, `split` and `reading` of the records, `prompt_form`,
            `linearization`.

    Returns:
        Tokens per second of all laps, the numbers of texts and of tokens per text, backend, precision and device.

    Raises:
        UserError: the model or the records cannot be read.
    """
    adapters = {} if model["adapter"] is None else {"adapter": Path(model["adapter"])}
    setup = resolve_models(model["base"], adapters)
    data = ReadingSettings(**model["reading"]).load(model["input"], model["split"], texts="unused")
    records = [data.records[number % len(data.records)] for number in range(TEXTS)]
    prompts = prompts_of_records(records, setup, form=model["prompt_form"], style=model["linearization"])
    running = start_engine(setup, sequences=TEXTS)
    tokens = min(TOKENS, running.engine.backend.context - max(len(prompt.tokens) for prompt in prompts))
    speed = measure_speed(running, prompts, tokens, laps=LAPS)
    return {
        "laps": list(speed.laps),
        "texts": speed.texts,
        "tokens": speed.tokens,
        "backend": running.backend,
        "precision": running.precision,
        "device": running.device,
    }


if __name__ == "__main__":
    try:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    except UserError as error:
        print(f"tailora: {error}", file=sys.stderr)
        sys.exit(2)
