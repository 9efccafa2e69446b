"""The time of a training update in each precision, and the precision that `--precision auto` chooses."""

from __future__ import annotations

import random
from typing import Any, get_args

import torch

from tailora.core.errors import TrainingError
from tailora.data.examples import build_examples
from tailora.models.load import load_base
from tailora.training.loop import first_batch
from tailora.training.methods import prepare
from tailora.training.precision import ORDER, available
from tailora.training.precision_choice import fastest, measure
from tailora.training.run_data import read_records
from tailora.training.settings import Method, TrainSettings


def update_times(base: str, data: str, device: str, rounds: int, batch_size: int) -> dict[str, Any]:
    """Time the first update of a run of each method, all precisions in each round.

    Args:
        base: a base model's name or folder.
        data: records with texts.
        device: where.
        rounds: how often each is timed.
        batch_size: examples in an update.

    Returns:
        For each method the choice of each round, and the least time of each precision in milliseconds.
    """
    found: dict[str, Any] = {}
    for method in get_args(Method):
        settings = TrainSettings(data=data, base=base, method=method, batch_size=batch_size, limit=1000)
        loaded = load_base(base, dtype=torch.float32, device=device)
        records = random.Random(0).sample(read_records(settings)[0], 200)
        examples, _ = build_examples(records, loaded.tokenizer, form="arrow", style=settings.linearization)
        try:
            prepare(loaded, settings)
        except TrainingError as error:
            print(f"{method:<8} {error}")
            continue
        loaded.model.to(device)
        batch = first_batch(examples, settings)
        times = [measure(loaded.model, batch, settings, device, available(method, device)) for _ in range(rounds)]
        # A round leaves out a precision that is much slower than another; noise may make rounds differ in that.
        names = [name for name in ORDER if any(name in each for each in times)]
        least = {name: min(each[name] for each in times if name in each) for name in names}
        chosen = [fastest(each) for each in times]
        found[method] = {"chosen": chosen, "milliseconds": {name: 1000 * value for name, value in least.items()}}
        shown = "  ".join(f"{name} {value:7.1f} ms" for name, value in found[method]["milliseconds"].items())
        worst = max(least[name] for name in chosen) / min(least.values())
        print(f"{method:<8} {shown}  auto takes {', '.join(chosen)}: {worst:.2f} times the least")
    return found
