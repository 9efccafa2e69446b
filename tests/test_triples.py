"""WebNLG of 2017, 2020 and 2023, and DART: comments, languages, and both forms of their files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

from tailora.core.errors import DataError
from tailora.data.reading import ReadingSettings
from tailora.data.records import DataFile, Fact, load, read

Lex = tuple[str, dict[str, str]]
"""A text and its attributes."""

GOOD = {"comment": "good"}


def xml(*entries: list[Lex]) -> str:
    def element(lex: Lex) -> str:
        text, attributes = lex
        return f"<lex {' '.join(f'{name}={quoteattr(value)}' for name, value in attributes.items())}>{text}</lex>"

    body = "".join(
        f'<entry category="City" eid="Id{number}" size="1"><modifiedtripleset>'
        f"<mtriple>{escape(f'Town_{number}')} | country | Eire</mtriple></modifiedtripleset>"
        f"{''.join(map(element, lexes))}</entry>"
        for number, lexes in enumerate(entries, start=1)
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<benchmark><entries>{body}</entries></benchmark>\n'


def as_json(*entries: list[Lex]) -> str:
    made = [
        {
            str(number): {
                "category": "City",
                "modifiedtripleset": [{"subject": f"Town_{number}", "property": "country", "object": "Eire"}],
                "lexicalisations": [
                    {"lex": text, **{name.removeprefix("xml:"): value for name, value in attributes.items()}}
                    for text, attributes in lexes
                ],
            }
        }
        for number, lexes in enumerate(entries, start=1)
    ]
    return json.dumps({"entries": made})


FORMS = {"a.xml": xml, "a.json": as_json}
both_forms = pytest.mark.parametrize("name", FORMS)


def saved(folder: Path, name: str, *entries: list[Lex]) -> Path:
    path = folder / name
    path.write_text(FORMS[name](*entries), encoding="utf-8")
    return path


def texts(data: DataFile) -> list[tuple[str, ...]]:
    return [record.references for record in data.records]


@both_forms
@pytest.mark.parametrize("given", [{"comment": ""}, {}], ids=["empty", "none"])
def test_texts_without_a_comment_are_not_marked(tmp_path: Path, name: str, given: dict[str, str]) -> None:
    data = load(saved(tmp_path, name, [("A.", given), ("B.", given)], [("C.", given)]))
    assert texts(data) == [("A.", "B."), ("C.",)]
    assert data.left_out == 0


@both_forms
def test_marked_texts_are_left_out_and_counted(tmp_path: Path, name: str) -> None:
    entry = [("A.", GOOD), ("B.", {"comment": "toFix"}), ("C.", {"comment": "bad"}), ("D.", {"comment": ""})]
    path = saved(tmp_path, name, entry, [("E.", {"comment": "to fix"}), ("F.", {"comment": " Good "})])
    data = load(path)
    assert texts(data) == [("A.", "D."), ("F.",)]
    assert data.left_out == 3
    whole = load(path, all_texts=True)
    assert texts(whole) == [("A.", "B.", "C.", "D."), ("E.", "F.")]
    assert whole.left_out == 0


@both_forms
def test_the_user_is_told_how_many_texts_are_left_out(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, name, [("A.", GOOD), ("B.", {"comment": "bad"})])
    ReadingSettings().load(str(path))
    assert "1 texts that annotators marked as faulty are left out (--all-texts)" in capsys.readouterr().err
    ReadingSettings(all_texts=True).load(str(path))
    assert "left out" not in capsys.readouterr().err


@both_forms
def test_comments_that_are_no_judgements_leave_nothing_out(tmp_path: Path, name: str) -> None:
    entry = [("A.", {"comment": "WikiTableQuestions_lily"}), ("B.", {"comment": "e2e"})]
    assert texts(load(saved(tmp_path, name, entry))) == [("A.", "B.")]


@both_forms
def test_an_entry_whose_texts_are_all_marked_is_still_written_about(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, name, [("A.", {"comment": "bad"})], [("B.", GOOD)])
    assert len(read(path, texts="unused")) == 2
    assert texts(load(path)) == [(), ("B.",)]


IRISH = {"comment": "", "lang": "ga"}
MIXED = ([("An A.", IRISH), ("A.", GOOD | {"lang": ""}), ("B.", GOOD)], [("C.", GOOD | {"lang": ""})])


@both_forms
def test_texts_in_several_languages_are_refused_until_one_is_chosen(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, name, *MIXED)
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert "several languages (en: 3, ga: 1)" in message
    assert message.endswith("choose one with --language en or --language ga or --language all")
    assert "--language all" in message
    irish = load(path, language="ga")
    assert texts(irish) == [("An A.",)]
    assert [record.language for record in irish.records] == ["ga"]
    assert texts(load(path, language="GA")) == texts(irish)
    english = load(path, language="en")
    assert texts(english) == [("A.", "B."), ("C.",)]
    assert {record.language for record in english.records} == {"en"}


@both_forms
def test_every_language_has_a_record_of_its_own(tmp_path: Path, name: str) -> None:
    data = load(saved(tmp_path, name, *MIXED), language="all")
    assert [(record.language, record.references) for record in data.records] == [
        ("ga", ("An A.",)),
        ("en", ("A.", "B.")),
        ("en", ("C.",)),
    ]
    assert len({record.id for record in data.records}) == 3


@both_forms
def test_a_language_that_is_not_there_names_those_that_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no text in the language 'ru'.*en: 3, ga: 1"):
        load(saved(tmp_path, name, *MIXED), language="ru")
    with pytest.raises(DataError, match="leave --language out: it names none"):
        load(saved(tmp_path, name, [("A.", GOOD)]), language="ru")


@both_forms
def test_each_entry_is_written_about_once_whatever_its_languages(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, name, *MIXED)
    assert len(read(path, texts="unused")) == 2
    assert len(read(path, texts="unused", language="ga")) == 2, "an entry without Irish can be written about in it"


@both_forms
@pytest.mark.parametrize("attribute", ["lang", "xml:lang"])
def test_one_language_needs_no_choice(tmp_path: Path, name: str, attribute: str) -> None:
    data = load(saved(tmp_path, name, [("А.", {attribute: "ru"})], [("Б.", {attribute: "ru"})]))
    assert [(record.language, record.references) for record in data.records] == [("ru", ("А.",)), ("ru", ("Б.",))]


def test_xml_lang_is_a_language(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.xml", [("A.", {"xml:lang": "en"}), ("An A.", {"xml:lang": "ga"})])
    assert texts(load(path, language="ga")) == [("An A.",)]


def test_markup_within_texts_and_triples_cuts_nothing_off(tmp_path: Path) -> None:
    content = xml([("Ice is <i>frozen</i> H<sub>2</sub>O.", GOOD), ("<text>It is <b>cold</b>.</text><note/>", GOOD)])
    path = tmp_path / "a.xml"
    path.write_text(content.replace("Eire", "H<sub>2</sub>O"), encoding="utf-8")
    (record,) = read(path)
    assert record.references == ("Ice is frozen H2O.", "It is cold.")
    assert record.facts == (Fact("Town_1", "country", "H2O"),)


def test_both_forms_hold_the_same(tmp_path: Path) -> None:
    one, other = (load(saved(tmp_path, name, *MIXED), language="all") for name in FORMS)
    assert [(r.facts, r.references, r.group, r.language) for r in one.records] == [
        (r.facts, r.references, r.group, r.language) for r in other.records
    ]


def test_equal_triples_in_two_entries_stay_two_records(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    entry = xml([("A.", GOOD)]).partition("<entries>")[2].partition("</entries>")[0]
    path.write_text(f"<benchmark><entries>{entry}{entry}</entries></benchmark>", encoding="utf-8")
    data = load(path)
    assert [record.facts for record in data.records] == [(Fact("Town_1", "country", "Eire"),)] * 2
    assert len({record.id for record in data.records}) == 2


def test_real_files_of_2023(shared: Path) -> None:
    counts = {"ga": {"ga": 1665, "en": 4458}, "ru": {"ru": 2065, "en": 2065}}
    for name, languages in counts.items():
        path = shared / "data" / "webnlg_2023" / f"{name}_dev.xml.gz"
        with pytest.raises(DataError, match="several languages") as caught:
            read(path)
        assert all(f"{language}: {count:,}" in str(caught.value) for language, count in languages.items())
        for language, count in languages.items():
            records = read(path, language=language)
            assert sum(len(record.references) for record in records) == count
            assert {record.language for record in records} == {language}
        whole = read(path, language="all")
        assert sum(len(record.references) for record in whole) == sum(languages.values())


def test_real_xml_and_json_of_dart_hold_the_same_texts(shared: Path) -> None:
    folder = shared / "data" / "dart"
    by_form = [
        sorted(text for record in read(folder / f"dart-v1.1.1-full-dev.{form}.gz") for text in record.references)
        for form in ("json", "xml")
    ]
    assert len(by_form[0]) == 6980
    assert by_form[0] == by_form[1]
