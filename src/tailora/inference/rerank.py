"""Rank a record's candidates by their slot errors."""

from __future__ import annotations

from collections.abc import Mapping

from tailora.data.values import Record
from tailora.inference.texts import Generation, generation_from
from tailora.metrics.slot_rules import Rules, Vocabulary
from tailora.metrics.slots import SlotReport, slot_report


def by_fidelity(record: Record, made: Generation, vocabulary: Vocabulary, rules: Rules) -> Generation:
    """The same candidates, those with fewer slot errors first; equal ones stay in order of likelihood."""
    return fewest_errors_first(made, candidate_reports(record, made, vocabulary, rules))


def candidate_reports(record: Record, made: Generation, vocabulary: Vocabulary, rules: Rules) -> dict[str, SlotReport]:
    """The slot report of each candidate's text, by the text."""
    texts = dict.fromkeys(candidate.text for candidate in made.candidates)
    return {text: slot_report(record, text, vocabulary, rules) for text in texts}


def fewest_errors_first(made: Generation, reports: Mapping[str, SlotReport]) -> Generation:
    """The same candidates ordered by slot errors; equal ones stay in order of likelihood."""
    order = sorted(made.candidates, key=lambda candidate: reports[candidate.text].errors)
    return generation_from(tuple(order), made.prompt_tokens)
