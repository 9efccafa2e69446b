"""Cleaning: facts are annotated again from the texts, and the file keeps its format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import tailora
from tailora.commands.clean import CleanSettings, run
from tailora.core.errors import DataError, SettingsError
from tailora.data.records import load

LAST = "name[The Mill], eatType[pub], area[city centre]"
E2E = """mr,ref
"name[The Eagle], eatType[pub], food[English], area[riverside]","The Eagle is a pub by the river, French food, ""ok""."
"name[The Eagle], eatType[pub]",The Eagle is a pub.
"name[The Eagle], eatType[pub], priceRange[cheap]",The Eagle is a pub.
"name[The Mill], eatType[pub], area[city centre]",The Mill is a pub in the city centre. It is family friendly.
"name[The Mill], eatType[pub], area[city centre], familyFriendly[yes]",The Mill is a pub in the city centre.
"""


def clean(tmp_path: Path, content: str, name: str = "a.csv", **settings: Any) -> tuple[dict[str, Any], str]:
    (tmp_path / name).write_bytes(content.encode())
    output = tmp_path / f"clean-{name}"
    result = run(CleanSettings(data=str(tmp_path / name), output=output, **settings))
    return result, output.read_bytes().decode()


def test_e2e(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    result, written = clean(tmp_path, E2E, report=report)
    assert written.splitlines() == [
        "mr,ref",
        '"name[The Eagle], eatType[pub], food[French], area[riverside]",'
        '"The Eagle is a pub by the river, French food, ""ok""."',
        '"name[The Eagle], eatType[pub]",The Eagle is a pub.',
        '"name[The Mill], eatType[pub], area[city centre], familyFriendly[yes]",'
        "The Mill is a pub in the city centre. It is family friendly.",
        '"name[The Mill], eatType[pub], area[city centre]",The Mill is a pub in the city centre.',
    ]
    assert (result["texts"], result["unchanged"], result["changed"], result["duplicate"]) == (5, 1, 3, 1)
    assert result["before"]["attributes"]["priceRange"] == {"facts": 1, "missing": 1, "added": 0}
    assert (result["before"]["error_rate"], result["after"]["error_rate"]) == (4 / 16, 0)
    lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    assert (lines[0]["dropped"], lines[0]["added"]) == ([["food", "English"]], [["food", "French"]])


@pytest.mark.parametrize(
    ("only", "first", "last"),
    [
        (
            "missing",
            "name[The Eagle], eatType[pub], area[riverside]",
            "name[The Mill], eatType[pub], area[city centre]",
        ),
        (
            "added",
            "name[The Eagle], eatType[pub], food[English], food[French], area[riverside]",
            "name[The Mill], eatType[pub], area[city centre], familyFriendly[yes]",
        ),
    ],
)
def test_only_one_kind_of_error(tmp_path: Path, only: Any, first: str, last: str) -> None:
    _, written = clean(tmp_path, E2E, only=only, keep_duplicates=True)
    rows = written.splitlines()
    assert [row.split('"')[1] for row in (rows[1], rows[-1])] == [first, last]


def test_a_cleaned_file_stays_as_it_is(tmp_path: Path) -> None:
    _, once = clean(tmp_path, E2E)
    result, twice = clean(tmp_path, once, "b.csv")
    assert twice == once
    assert result["changed"] == 0


def test_rows_of_the_test_set_are_left_out_whatever_the_names(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text('mr,ref\n"name[Cotto], eatType[pub], food[Indian]",Cotto is a pub.\n', encoding="utf-8")
    result, written = clean(tmp_path, E2E, against=(str(test),))
    assert result["overlap"] == 1
    assert "The Eagle is a pub.\n" not in written


def test_piped(tmp_path: Path) -> None:
    lines = (
        "name : The Eagle | Type : pub | price : less than £ 20||The Eagle is a pub . \n"
        "name : The Mill | Type : pub||The Mill is a pub with prices of less than £ 20 .\n"
    )
    _, written = clean(tmp_path, lines, "a.txt")
    assert written == (
        "name : The Eagle | Type : pub||The Eagle is a pub .\n"
        "name : The Mill | Type : pub | price : less than £ 20||The Mill is a pub with prices of less than £ 20 .\n"
    )


def test_piped_keeps_the_names_of_attributes(tmp_path: Path) -> None:
    lines = (
        "name : The Eagle | eatType : pub | food : Indian||The Eagle is a pub.\n"
        "name : The Mill | familyFriendly : yes | a : x \\| y | area : riverside||The family-friendly Mill.\n"
        "name : The Oak||The Oak is a cheap place.\n"
    )
    _, written = clean(tmp_path, lines, "a.txt")
    assert written == (
        "name : The Eagle | eatType : pub||The Eagle is a pub.\n"
        "name : The Mill | familyFriendly : yes | a : x \\| y||The family-friendly Mill.\n"
        "name : The Oak | price : cheap||The Oak is a cheap place.\n"
    )


def test_json_keeps_objects_of_facts(tmp_path: Path) -> None:
    facts = [
        {"key": "name", "value": "The Eagle"},
        {"key": "food", "value": "English"},
        {"key": "area", "value": "riverside"},
    ]
    row = {"facts": facts, "text": "The Eagle has French food."}
    _, written = clean(tmp_path, json.dumps(row) + "\n", "a.jsonl")
    assert json.loads(written)["facts"] == [{"key": "name", "value": "The Eagle"}, {"key": "food", "value": "French"}]


def test_json_keeps_keys_numbers_and_untouched_rows(tmp_path: Path) -> None:
    rows = (
        '{"id": "a", "score": 1.50, "facts": {"name": "The Eagle", "eatType": "pub", "seats": 1.50}, '
        '"texts": ["The Eagle is a pub with 1.50 seats.", "The Eagle has 1.50 seats."]}\n'
        '{"id": "b", "facts": [["name", "The Mill"], ["food", "Thai"]], "text": "The Mill has Thai food."}\n'
    )
    _, written = clean(tmp_path, rows, "a.jsonl")
    assert written.splitlines() == [
        '{"id": "a", "score": 1.50, "facts": {"name": "The Eagle", "eatType": "pub", "seats": 1.50}, '
        '"texts": ["The Eagle is a pub with 1.50 seats."]}',
        '{"id": "a-2", "score": 1.50, "facts": {"name": "The Eagle", "seats": 1.50}, '
        '"texts": ["The Eagle has 1.50 seats."]}',
        '{"id": "b", "facts": [["name", "The Mill"], ["food", "Thai"]], "text": "The Mill has Thai food."}',
    ]
    listed = "[" + ", ".join(rows.splitlines()) + "]"
    _, written = clean(tmp_path, listed, "a.json")
    assert len(json.loads(written)) == 3


def test_columns_of_one_attribute_keep_their_values(tmp_path: Path) -> None:
    table = (
        "name,food 1,food 2,type,text\n"
        "The Eagle,English,Indian,pub,The Eagle has English and Indian food.\n"
        "The Mill,English,Indian,pub,The Mill is a pub with Indian food.\n"
        "The Oak,NaN,Indian,pub,The Oak is a pub with French food.\n"
    )
    facts = {"name": "name", "food 1": "food", "food 2": "food", "type": "eatType"}
    _, written = clean(tmp_path, table, columns={"text": "text", "facts": facts})
    assert written.splitlines()[1:] == [
        "The Eagle,English,Indian,,The Eagle has English and Indian food.",
        "The Mill,,Indian,pub,The Mill is a pub with Indian food.",
        "The Oak,French,,pub,The Oak is a pub with French food.",
    ]


def test_a_table_keeps_its_columns_and_reports_what_has_no_place(tmp_path: Path) -> None:
    table = (
        "no;name;eatType;familyFriendly;text\r\n"
        "1;The Eagle;pub;True;The Eagle is a family friendly pub.\r\n"
        "2;The Mill;pub;True;The Mill is by the riverside.\r\n"
        "3;Cotto;;;Cotto is a pub in the city centre.\r\n"
    )
    result, written = clean(tmp_path, table, columns={"text": "text", "ignore": ("no",)})
    assert written == (
        "no;name;eatType;familyFriendly;text\r\n"
        "1;The Eagle;pub;True;The Eagle is a family friendly pub.\r\n"
        "2;The Mill;;;The Mill is by the riverside.\r\n"
        "3;Cotto;pub;;Cotto is a pub in the city centre.\r\n"
    )
    assert result["undecided"] == 2


def test_plain_json_objects(tmp_path: Path) -> None:
    rows = '{"name": "The Eagle", "eatType": "pub", "area": "riverside", "text": "The Eagle, city centre."}\n'
    _, written = clean(tmp_path, rows, "a.jsonl")
    assert json.loads(written) == {"name": "The Eagle", "area": "city centre", "text": "The Eagle, city centre."}


def test_values_that_texts_say_in_other_words_are_undecided_and_kept(tmp_path: Path) -> None:
    rows = [{"facts": {"name": f"Bus {n}", "changes": "none"}, "text": f"Bus {n} is direct."} for n in range(5)]
    result, written = clean(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "a.jsonl")
    assert [json.loads(line) for line in written.splitlines()] == rows
    assert result["undecided"] == 5


def test_viggo(tmp_path: Path) -> None:
    table = 'mr,ref\n"inform(name[Celeste], genres[platformer, indie], esrb[T])",Celeste is an indie platformer.\n'
    _, written = clean(tmp_path, table + table.splitlines()[1].replace(", esrb[T]", "") + "\n")
    assert written.splitlines()[1].startswith('"inform(name[Celeste], genres[platformer, indie]')


def test_compressed(tmp_path: Path) -> None:
    _, written = clean(tmp_path, E2E, "a.csv")
    path = tmp_path / "b.csv.gz"
    path.write_bytes(gzip.compress(E2E.encode()))
    run(CleanSettings(data=str(path), output=tmp_path / "c.csv.gz"))
    assert gzip.decompress((tmp_path / "c.csv.gz").read_bytes()).decode() == written
    assert load(tmp_path / "c.csv.gz").format == "e2e"


WEBNLG = (
    '<benchmark><entries><entry category="City" eid="1" size="1"><modifiedtripleset><mtriple>Cork | country | Ireland'
    '</mtriple></modifiedtripleset><lex comment="good">Cork is in Ireland.</lex></entry></entries></benchmark>'
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", WEBNLG, "webnlg-xml cannot be written; give records with facts in one of the formats e2e, csv"),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n', "records without facts"),
        ("a.csv", "name,text\nThe Eagle,It is there.\n", "no row would be left"),
    ],
)
def test_what_cannot_be_cleaned(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        clean(tmp_path, content, name)
    assert not (tmp_path / f"clean-{name}").exists()


def test_from_python(tmp_path: Path) -> None:
    rows = [{"facts": {"name": "The Eagle", "eatType": "pub"}, "text": "The Eagle is by the riverside."}]
    result = tailora.clean(rows, tmp_path / "clean.jsonl")
    assert result["changed"] == 1
    (record,) = tailora.read_records(tmp_path / "clean.jsonl")
    assert record.facts == (tailora.Fact(None, "name", "The Eagle"), tailora.Fact(None, "area", "riverside"))


def test_overlap_can_be_kept(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text('mr,ref\n"name[Cotto], eatType[pub]",Cotto is a pub.\n', encoding="utf-8")
    result, written = clean(tmp_path, E2E, against=(str(test),), keep_overlap=True)
    assert (result["overlap"], result["overlapping"]) == (0, 2)
    assert "The Eagle is a pub.\n" in written


def test_one_language_of_several_is_refused(tmp_path: Path) -> None:
    rows = [{"facts": {"name": "Cork"}, "text": "Cork.", "language": language} for language in ("en", "ga")]
    with pytest.raises(DataError, match="several languages"):
        clean(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "a.jsonl", language="en")


def test_the_output_must_be_new(tmp_path: Path) -> None:
    clean(tmp_path, E2E)
    with pytest.raises(SettingsError, match="already exists"):
        clean(tmp_path, E2E)


def test_a_report_has_its_own_file(tmp_path: Path) -> None:
    source = tmp_path / "data.csv"
    source.write_text("name,text\nBlue Spice,Blue Spice is here.\n", encoding="utf-8")
    output = tmp_path / "clean.csv"
    with pytest.raises(SettingsError, match="report: is the output itself"):
        run(CleanSettings(data=str(source), output=output, report=tmp_path / "." / "clean.csv"))
    assert not output.exists()


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_kept(tmp_path: Path, bom: bytes) -> None:
    source = tmp_path / "data.csv"
    source.write_bytes(bom + "name,text\nPhở Hà Nội,Phở Hà Nội ở đây.\n".encode())
    run(CleanSettings(data=str(source), output=tmp_path / "clean.csv"))
    assert (tmp_path / "clean.csv").read_bytes() == source.read_bytes()


def test_a_value_that_the_text_says_takes_the_place_of_another(tmp_path: Path) -> None:
    source = tmp_path / "data.jsonl"
    rows = [
        {"facts": {"name": "Zizzi", "food": "Thai"}, "text": "Zizzi serves Italian food."},
        {"facts": {"name": "Alimentum", "food": "Thai"}, "text": "Alimentum has curries."},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run(CleanSettings(data=str(source), output=tmp_path / "clean.jsonl"))
    first = json.loads((tmp_path / "clean.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["facts"] == {"name": "Zizzi", "food": "Italian"}


def test_conversations_are_not_cleaned(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    source.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="conversations have no facts; give records with facts"):
        run(CleanSettings(data=str(source), output=tmp_path / "clean.jsonl"))
