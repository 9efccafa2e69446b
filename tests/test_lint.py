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


def test_texts_that_break_off_are_found_where_most_are_sentences():
    whole = [record(str(n), f"Town {n} is there.", ("name", f"Town {n}")) for n in range(9)]
    broken = record("b", "Town 10 is ver", ("name", "Town 10"))
    report = lint([*whole, broken])
    assert [(finding.kind, finding.record) for finding in report.findings] == [("unfinished text", "b")]
    bare = [record(str(n), f"Town {n} is there", ("name", f"Town {n}")) for n in range(9)]
    assert not lint([*bare, broken]).findings, "no full stops is a way of writing too"


def test_lengths_in_tens_of_words():
    texts = ["a b c.", "a " * 25 + ".", "a."]
    report = lint([record(str(n), text, ("name", "a")) for n, text in enumerate(texts)])
    assert report.lengths == {"0-9": 2, "10-19": 0, "20-29": 1}
    assert lint([record("1", "", ("name", "x"))]).lengths == {}
