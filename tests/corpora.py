"""Made-up corpora of texts and references for the tests of scores."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

WORDS = [
    "the",
    "Mill",
    "pub",
    "family-friendly",
    "£20-25",
    "5",
    "out",
    "of",
    "riverside.",
    "isn't",
    "café",
    "a,b",
    '"x"',
]


def corpora() -> st.SearchStrategy[tuple[list[str], list[list[str]]]]:
    """One to four texts, each with one to three references, of a few words that are hard to cut."""
    text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
    own: Any = st.tuples(text, st.lists(text, min_size=1, max_size=3))
    return st.lists(own, min_size=1, max_size=4).map(lambda pairs: ([t for t, _ in pairs], [r for _, r in pairs]))


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: by their place, None where a text has no more."""
    return [[own[n] if n < len(own) else None for own in references] for n in range(max(map(len, references)))]
