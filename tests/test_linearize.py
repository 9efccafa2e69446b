"""What linearize writes in the paper's style reads back, whatever stands in a value."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailora.data.linearize import linearize
from tailora.data.readers import piped
from tailora.data.values import Fact, Record

part = st.text("ab:|\\ £é", min_size=1).map(lambda text: " ".join(text.split())).filter(bool)


@given(st.lists(st.builds(Fact, st.none() | part, part, part), min_size=1).map(tuple))
def test_paper_style_reads_back(facts: Any) -> None:
    line = linearize(Record("1", facts, ()))
    (row,) = piped.parse(f"{line}||some text", "x").rows
    assert row.facts == facts


def test_paper_names() -> None:
    facts = (Fact(None, "name", "A"), Fact(None, "eatType", "pub"), Fact(None, "familyFriendly", "no"))
    assert linearize(Record("1", facts, ())) == "name : A | Type : pub | family friendly : no"
