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
