"""The bundled samples: splits that hold apart what they say they do, and enough ways of saying it."""

from __future__ import annotations

from typing import Any

import pytest

import make_samples
from sample_tasks.grammar import belongs
from tailora.data.records import read, splits
from tailora.metrics.slots import slot_error_rate


@pytest.mark.parametrize("task", make_samples.TASKS, ids=lambda task: task.name)
def test_splits_share_no_record_and_no_held_out_choice(task: Any) -> None:
    seen = set()
    for split in splits(task.name):
        for record in read(task.name, split=split):
            key = frozenset(record.facts)
            assert key not in seen
            seen.add(key)
            assert belongs(task, {fact.attribute: fact.value for fact in record.facts}, split)
            assert len(set(record.references)) == len(record.references) >= 3


@pytest.mark.parametrize("task", make_samples.TASKS, ids=lambda task: task.name)
def test_files_are_what_the_tool_makes(task: Any) -> None:
    for split, records in make_samples.make(task).items():
        assert read(task.name, split=split) == records


def test_restaurant_texts_have_no_slot_errors() -> None:
    pairs = [(record, text) for record in read("restaurants", split="test") for text in record.references]
    assert slot_error_rate([record for record, _ in pairs], [text for _, text in pairs]).errors == 0
