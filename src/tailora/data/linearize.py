"""Records as one line of text, the input of a model."""

from __future__ import annotations

import re
from typing import Literal, get_args

from tailora.core.errors import SettingsError
from tailora.data.readers.piped import escape
from tailora.data.values import Record

Linearization = Literal["paper", "plain"]
STYLES: tuple[Linearization, ...] = get_args(Linearization)

# The names that the LoRA paper's E2E files use (microsoft/LoRA, examples/NLG).
_PAPER_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def linearize(record: Record, style: str = "paper") -> str:
    """Return the facts of a record as one line.

    Args:
        record: a record with a ready prompt gives that prompt.
        style: "paper" is the LoRA paper's form, `name : Blue Spice | Type : pub`, and for triples
            `subject : predicate : object | …`; a part that contains a separator is escaped, so that the line reads
            back (`data.readers.piped`). "plain" is for people's own tables and small vocabularies:
            `name: Blue Spice; eat type: pub`, names split into words; it does not read back.

    Values stay as they are: the paper's own files have them tokenised ("£ 30" for "£30").
    """
    if style not in STYLES:
        raise SettingsError(f"there is no linearisation {style!r}", hint=f"use one of {', '.join(STYLES)}")
    if record.prompt is not None:
        return record.prompt
    if style == "paper":
        return " | ".join(
            " : ".join(
                escape(part)
                for part in (fact.subject, written_name(fact.attribute, style), fact.value)
                if part is not None
            )
            for fact in record.facts
        )
    return "; ".join(
        ("" if fact.subject is None else f"{_words(fact.subject)}, ")
        + f"{written_name(fact.attribute, style)}: {_words(fact.value)}"
        for fact in record.facts
    )


def written_name(attribute: str, style: str) -> str:
    """Return the name of an attribute as a style writes it."""
    if style == "paper":
        return _PAPER_NAMES.get(attribute, attribute)
    return _words(_CAMEL.sub(" ", attribute)).lower()


def _words(text: str) -> str:
    return " ".join(text.replace("_", " ").split())
