"""Texts of reports, with what they say of the facts of their records."""

from __future__ import annotations

from collections.abc import Sequence

from tailora.data.values import Record
from tailora.metrics.slots import SlotReport
from tailora.reports.marked_texts import Item


def marked_item(
    record: Record, text: str, report: SlotReport, *, references: Sequence[str] = (), note: str = ""
) -> Item:
    """Return a text for a report.

    Args:
        record: its record.
        text: the text.
        report: what it says of the record's facts.
        references: texts to show below it.
        note: what to say about it.
    """
    return Item(
        id=record.id,
        text=text,
        facts=_facts(record, report),
        marks=[(m.start, m.end, f"{m.fact.attribute}: {m.fact.value}", m.added) for m in report.mentions],
        references=references,
        note=note,
    )


def _facts(record: Record, report: SlotReport) -> list[tuple[str, str, str]]:
    states = {**dict.fromkeys(report.repeated, "repeated"), **dict.fromkeys(report.missing, "missing")}
    own = [(fact.attribute, fact.value, states.get(fact, "said")) for fact in record.facts]
    others = [(fact, "added") for fact in report.added] + [(fact, "leaked") for fact in report.leaked]
    return own + [(fact.attribute, fact.value, state) for fact, state in others]
