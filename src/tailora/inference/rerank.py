"""Rank a record's candidates by their slot errors."""

from __future__ import annotations

from collections.abc import Mapping

from tailora.data.values import Record
from tailora.inference.texts import Generation, generation_from
from tailora.metrics.slot_rules import Rules, Vocabulary
from tailora.metrics.slots import SlotReport, slot_report


def by_fidelity(record: Record, generation: Generation, vocabulary: Vocabulary, rules: Rules) -> Generation:
    """Order the candidates by slot errors, fewest first; candidates with equal errors keep their order."""
    return fewest_errors_first(generation, candidate_reports(record, generation, vocabulary, rules))


def candidate_reports(
    record: Record, generation: Generation, vocabulary: Vocabulary, rules: Rules
) -> dict[str, SlotReport]:
    """Return the slot report of each candidate, by its text."""
    texts = dict.fromkeys(candidate.text for candidate in generation.candidates)
    return {text: slot_report(record, text, vocabulary, rules) for text in texts}


def fewest_errors_first(generation: Generation, reports: Mapping[str, SlotReport]) -> Generation:
    """Like `by_fidelity`, for slot reports that are already computed."""
    order = sorted(generation.candidates, key=lambda candidate: reports[candidate.text].errors)
    return generation_from(tuple(order), generation.prompt_tokens)
