"""Lint finds what is wrong, and nothing in what is right."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tailora.commands.lint import LintSettings, run
from tailora.core.errors import CheckError, SettingsError
from tailora.data.lint import KINDS, lint
from tailora.data.records import load
from tailora.data.values import Fact, Record


def record(id: Any, text: str, *facts: Any) -> Record:
    return Record(id, tuple(Fact(None, *fact) for fact in facts), (text,) if text else ())


def test_findings() -> None:
    train = [
        record("1", "A pub in Rome.", ("name", "Rome"), ("area", "Oslo")),
        record("2", "CafÃ©.", ("name", "café"), ("name", "x"), ("area", "")),
        record("3", "", ("name", "y")),
        record("4", "y", ("name", "y")),
    ]
    report = lint({"train": train, "test": [train[0]]})
    expected = {"duplicate record", "empty fact", "conflict", "unsaid value", "no text", "mis-decoded", "leak"}
    assert set(report.counts()) == expected


def test_clean() -> None:
    assert str(lint([record("1", "A pub.", ("type", "pub"))])) == "1 record, 1 text: no findings"


def test_a_value_is_said_in_either_unicode_form() -> None:
    said = record("1", unicodedata.normalize("NFD", "Ở phố Huế."), ("phố", "Huế"))
    assert not lint([said]).counts().get("unsaid value")


def test_a_code_that_texts_say_in_other_words_is_no_finding() -> None:
    coded = [record(str(n), "A direct train.", ("changes", "none")) for n in range(5)]
    named = [record(f"n{n}", f"To Town {n}.", ("to", f"Town {n}")) for n in range(9)]
    lost = record("lost", "To nowhere.", ("to", "Oldbury"))
    found = [f for f in lint([*coded, *named, lost]).findings if f.kind == "unsaid value"]
    assert {f.detail for f in found if f.record == "lost"} == {"to: 'Oldbury'"}
    assert not any(f.detail.startswith("changes") for f in found)
    assert not any(f.record.startswith("n") for f in found)


def test_texts_that_break_off_are_found_where_most_are_sentences() -> None:
    whole = [record(str(n), f"Town {n} is there.", ("name", f"Town {n}")) for n in range(9)]
    broken = record("b", "Town 10 is ver", ("name", "Town 10"))
    report = lint([*whole, broken])
    assert [(finding.kind, finding.record) for finding in report.findings] == [("unfinished text", "b")]
    bare = [record(str(n), f"Town {n} is there", ("name", f"Town {n}")) for n in range(9)]
    assert not lint([*bare, broken]).findings, "no full stops is a way of writing too"


def test_lengths_in_tens_of_words() -> None:
    texts = ["a b c.", "a " * 25 + ".", "a."]
    report = lint([record(str(n), text, ("name", "a")) for n, text in enumerate(texts)])
    assert report.lengths == {"0-9": 2, "10-19": 0, "20-29": 1}
    assert lint([record("1", "", ("name", "x"))]).lengths == {}


@pytest.mark.parametrize("value", ["None", "NA", "N/A", "n/a", "#N/A", "nan", "null", "<NA>", "-", "--", "?"])
def test_words_for_a_missing_value_are_found(value: str) -> None:
    found = lint([record("1", "A pub.", ("type", "pub"), ("area", value))]).findings
    assert ("placeholder", "1", f"area: {value}") in [(f.kind, f.record, f.detail) for f in found]


@pytest.mark.parametrize("value", ["none", "na", "no", "0", "unknown town", "Nan", "Nancy"])
def test_words_that_may_be_values_are_no_placeholders(value: str) -> None:
    expected = value.casefold() == "nan"
    assert ("placeholder" in lint([record("1", "A pub.", ("area", value))]).counts()) is expected


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("number", ["4", "5", "6"]),
        ("page", ["https://a.example/1", "http://b.example", "www.c.example/x"]),
        ("place_id", ["x7", "k2", "b9"]),
        ("reference", ["A pub.", "An inn.", "A bar."]),
    ],
)
def test_an_attribute_that_is_probably_no_fact_is_reported_once(attribute: str, values: list[str]) -> None:
    rows = [record(str(n), f"Inn {value}.", ("name", "Inn"), (attribute, value)) for n, value in enumerate(values)]
    found = [f for f in lint({"train": rows, "test": rows[:1]}).findings if f.kind == "odd attribute"]
    assert [f.record for f in found] == [attribute]


def test_odd_attributes_of_triples_are_the_corpus_s_own() -> None:
    facts = tuple(Fact("A", "placeID", str(n)) for n in range(4))
    assert "odd attribute" not in lint([Record("1", facts, ("A 0 1 2 3.",))]).counts()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\t", "\r"])
def test_line_ends_and_tabs_in_texts_are_found(end: str) -> None:
    report = lint([record("1", f"A pub.{end}An inn.", ("type", "pub"))])
    assert report.counts() == {"line end or tab": 1}


def test_an_unclosed_quotation_mark_is_found_by_the_rows_that_it_swallows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('name,text\nInn,"An Inn.\nOak,An Oak."\nAsh,An Ash.\n', encoding="utf-8")
    assert "line end or tab" in lint(load(path).records).counts()


LISTED = {
    "a.jsonl": '{"facts": {"food": ["Thai", "Lao"]}, "text": "Thai and Lao."}\n',
    "flat.jsonl": '{"food": ["Thai", "Lao"], "text": "Thai and Lao."}\n',
    "a.json": '[{"food": ["Thai", "Lao"], "text": "Thai and Lao."}]',
}


@pytest.mark.parametrize("name", LISTED)
def test_a_list_of_values_is_no_conflict(tmp_path: Path, name: Any) -> None:
    path = tmp_path / name
    path.write_text(LISTED[name], encoding="utf-8")
    data = load(path)
    assert data.listed == {"food"}
    assert "conflict" not in lint(data.records, listed=data.listed).counts()
    assert run(LintSettings(data=str(path)))["findings"] == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"facts": [["food", "Thai"], ["food", "Lao"]], "text": "Thai and Lao."}\n'),
        ("a.csv", 'mr,ref\n"food[Thai], food[Lao]",Thai and Lao.\n'),
        ("a.txt", "food : Thai | food : Lao||Thai and Lao.\n"),
    ],
)
def test_two_values_that_are_no_list_are_a_conflict(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckError, match="conflict: 1"):
        run(LintSettings(data=str(path)))
    assert run(LintSettings(data=str(path), allow=("conflict",)))["findings"] == {"conflict": 1}


def test_every_kind_can_be_allowed() -> None:
    for kind in KINDS:
        assert LintSettings(data="x", allow=(kind,)).allow == (kind,)


def test_the_command_counts_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"facts": {"name": "Ada"}, "text": "Bob."}\n{"facts": {"name": "Cy"}, "text": "Cy."}\n', "utf-8")
    result = run(LintSettings(data=str(file), allow=("unsaid value",)))
    assert (result["records"], result["texts"]) == (2, 2)
    assert result["findings"] == {"unsaid value": 1}
    err = capsys.readouterr().err
    assert "all: 2 records, 2 texts" in err
    assert re.search(r"0-9 █+ 2", err)
    assert re.search(r"│ unsaid value │ +1 │ no text of the record", err)
    with pytest.raises(CheckError, match=r"1 finding \(unsaid value: 1\)") as failed:
        run(LintSettings(data=str(file)))
    assert failed.value.result == result
    with pytest.raises(SettingsError, match="'typo' is not a kind of finding"):
        LintSettings(data=str(file), allow=("typo",))


def test_one_of_anything_is_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,text\nAda,Ada.\n", encoding="utf-8")
    run(LintSettings(data=str(path)))
    assert "all: 1 record, 1 text\n" in capsys.readouterr().err


def test_records_without_texts_are_reported_once_for_each_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,text\n" + "".join(f"n{n},{'n0.' if n == 0 else ''}\n" for n in range(40)), encoding="utf-8")
    with pytest.raises(CheckError, match=r"39 findings \(no text: 39\)"):
        run(LintSettings(data=str(path)))
    assert capsys.readouterr().err.count("no text:\n  all: 39 of 40 records, the first with the id '2'\n") == 1


def test_the_same_facts_in_two_languages_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [("en", "A cup."), ("vi", "Cốc A."), ("vi", "Cái cốc A.")]
    lines = [{"facts": {"name": "A"}, "language": language, "text": text} for language, text in rows]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    result = run(LintSettings(data=str(path), language="all"))
    assert (result["records"], result["findings"]) == (2, {})


def test_other_orders_and_spellings_of_the_same_facts_are_duplicates() -> None:
    one, two = (("name", "Cốc"), ("type", "x")), (("type", "x"), ("name", "Co\u0302\u0301c"))
    assert lint([record("1", "Cốc x.", *one), record("2", "Cốc x.", *two)]).counts()["duplicate record"] == 1


def test_an_attribute_of_long_texts_is_reported() -> None:
    text = "Ada is a friendly little pub by the river that serves cheap Thai food to families, number"
    rows = [record(str(n), f"{text} {n}.", ("name", "Ada"), ("câu trả", f"{text} {n}")) for n in range(3)]
    assert lint(rows).counts() == {"odd attribute": 1, "near duplicate": 2}


def test_a_page_does_not_replace_data(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("name,text\nA,A is here.\nB,B is here.\n", encoding="utf-8")
    before = data.read_bytes()
    for page in (data, tmp_path / "." / "data.csv"):
        with pytest.raises(SettingsError, match="exists and is not an HTML page; choose another name"):
            run(LintSettings(data=str(data), allow=("all",), html=page))
    assert data.read_bytes() == before
    for _ in range(2):  # a page replaces a page
        run(LintSettings(data=str(data), allow=("all",), html=tmp_path / "page.html"))
