"""Write the bundled sample tasks: `python tools/make_samples.py` reproduces src/tailora/data/samples byte for byte.

Each task is a grammar in `sample_tasks/`: values, and six to ten sentence plans that express the same facts in
different orders and words. A record gets three or four texts from different plans, drawn by weight, so that one plan
is the most frequent and a small model can learn it. Everything is drawn from a seed; names, values and wording are our
own.

The splits are disjoint in these ways (`sample_tasks.grammar.belongs`, checked by tests/test_samples.py):
- no record, as a set of facts, is in two splits;
- one name in eight is in `test` only and one in eight in `valid` only;
- of the combinations of certain attribute pairs (in restaurants: food and area, name and near), one in eight is in
  `test` only and one in eight in `valid` only, the others are in `train` only;
- every record of `valid` and `test` has at least one name or combination that is held out for its split.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from sample_tasks import products, restaurants, trains
from sample_tasks.grammar import SPLITS, Task, belongs, draw, write_texts
from tailora.core.files import write_text
from tailora.data.readers import jsonl
from tailora.data.values import Fact, Record

TASKS = (restaurants.TASK, trains.TASK, products.TASK)
SIZES = {"train": 600, "valid": 80, "test": 80}
FOLDER = Path(__file__).parents[1] / "src" / "tailora" / "data" / "samples"


def make(task: Task, seed: int = 1) -> dict[str, list[Record]]:
    """Return the records of each split of a task."""
    rng = random.Random(f"{task.name}/{seed}")
    seen: set[frozenset[tuple[str, str]]] = set()
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for split, records in splits.items():
        while len(records) < SIZES[split]:
            facts = draw(task, rng)
            key = frozenset(facts.items())
            if key in seen or not belongs(task, facts, split):
                continue
            texts = write_texts(task, facts, rng.choice((3, 4)) if split == "train" else 4, rng)
            if len(texts) < 3:
                continue
            seen.add(key)
            as_facts = tuple(Fact(None, attribute, value) for attribute, value in facts.items())
            records.append(Record(f"{split}-{len(records) + 1}", as_facts, tuple(texts)))
    return splits


def main() -> None:
    parser = argparse.ArgumentParser(description="write the bundled sample tasks")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    for task in TASKS:
        for split, records in make(task).items():
            write_text(folder / task.name / f"{split}.jsonl", jsonl.dump(records))
            print(f"{task.name}/{split}: {len(records)} records, {sum(len(r.references) for r in records)} texts")


if __name__ == "__main__":
    main()
