"""The time of a training update in each precision, and the precision that `--precision auto` chooses."""

from __future__ import annotations

import random
from typing import Any, get_args

from tailora.core.errors import TrainingError
from tailora.data.examples import build_examples
from tailora.models.load import outline
from tailora.training.block_timing import precision_seconds
from tailora.training.loop import first_batch
from tailora.training.methods import prepare
from tailora.training.pass_memory import without_values
from tailora.training.precision import available
from tailora.training.precision_choice import fastest
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
        with without_values():
            outlined = outline(base)
        records = random.Random(0).sample(read_records(settings)[0], 200)
        examples, _ = build_examples(records, outlined.tokenizer, form="arrow", style=settings.linearization)
        try:
            with without_values():
                prepare(outlined, settings)
        except TrainingError as error:
            print(f"{method:<8} {error}")
            continue
        batch = first_batch(examples, settings)
        names = available(method, device)
        times = [precision_seconds(outlined, batch, settings, device, names) for _ in range(rounds)]
        least = {name: min(each[name] for each in times) for name in names}
        chosen = [fastest(each) for each in times]
        found[method] = {"chosen": chosen, "milliseconds": {name: 1000 * value for name, value in least.items()}}
        shown = "  ".join(f"{name} {value:7.1f} ms" for name, value in found[method]["milliseconds"].items())
        worst = max(least[name] for name in chosen) / min(least.values())
        print(f"{method:<8} {shown}  auto takes {', '.join(chosen)}: {worst:.2f} times the least")
    return found
