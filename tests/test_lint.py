"""Lint finds what is wrong, and nothing in what is right."""

from tailora.data.lint import lint
from tailora.data.values import Fact, Record


def record(id, text, *facts):
    return Record(id, tuple(Fact(None, *fact) for fact in facts), (text,) if text else ())


def test_findings():
    train = [
        record("1", "A pub in Rome.", ("name", "Rome"), ("area", "Oslo")),
        record("2", "CafÃ©.", ("name", "café"), ("name", "x"), ("area", "")),
        record("3", "", ("name", "y")),
        record("4", "y", ("name", "y")),
    ]
    report = lint({"train": train, "test": [train[0]]})
    expected = {"duplicate record", "empty fact", "conflict", "unsaid value", "no text", "mis-decoded", "leak"}
    assert set(report.counts()) == expected


def test_clean():
    assert str(lint([record("1", "A pub.", ("type", "pub"))])) == "1 records, 1 texts: nothing found"


def test_a_code_that_texts_say_in_other_words_is_no_finding():
    coded = [record(str(n), "A direct train.", ("changes", "none")) for n in range(5)]
    named = [record(f"n{n}", f"To Town {n}.", ("to", f"Town {n}")) for n in range(9)]
    lost = record("lost", "To nowhere.", ("to", "Oldbury"))
    found = [f for f in lint([*coded, *named, lost]).findings if f.kind == "unsaid value"]
    assert {f.detail for f in found if f.record == "lost"} == {"to: 'Oldbury'"}
    assert not any(f.detail.startswith("changes") for f in found)
    assert not any(f.record.startswith("n") for f in found)
