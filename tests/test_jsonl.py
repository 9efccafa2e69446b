"""JSON records in every form that programs write: lines, lists, objects over several lines, packed, in any encoding."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.core.errors import DataError
from tailora.data.readers import jsonl
from tailora.data.records import DataFile, Fact, load, read

Row = dict[str, Any]

ROWS: list[Row] = [
    {"facts": {"name": "Blue Door", "food": ["Thai", "Lao"]}, "text": "Blue Door cooks Thai and Lao."},
    {"facts": {"name": "The Oak"}, "text": "The Oak – a café."},
    {"facts": {"name": "The Oak"}, "text": "There is The Oak."},
]


def json_lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMS: dict[str, Callable[[list[Row]], str]] = {
    "lines": json_lines,
    "lines in ASCII": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "no final line end": lambda rows: json_lines(rows).rstrip(),
    "blank lines": lambda rows: "\n" + json_lines(rows).replace("\n", "\n\n"),
    "list": lambda rows: json.dumps(rows, ensure_ascii=False),
    "indented list": lambda rows: json.dumps(rows, ensure_ascii=False, indent=2),
    "list of lines": lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
    "indented objects": lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "utf-32, big end first": lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
}
ENDS = {"\\n": "\n", "\\r\\n": "\r\n"}


def content_of(data: DataFile) -> list[tuple[object, ...]]:
    return [(record.id, record.facts, record.references) for record in data.records]


EXPECTED = [
    (
        "1",
        (Fact(None, "name", "Blue Door"), Fact(None, "food", "Thai"), Fact(None, "food", "Lao")),
        ("Blue Door cooks Thai and Lao.",),
    ),
    ("2", (Fact(None, "name", "The Oak"),), ("The Oak – a café.", "There is The Oak.")),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.txt", "a"])
def test_every_form_packed_or_not_under_any_name(tmp_path: Path, form: str, packed: str, name: str) -> None:
    path = tmp_path / (name + packed)
    path.write_bytes(PACKERS[packed](FORMS[form](ROWS).encode()))
    assert content_of(load(path)) == EXPECTED


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS)
def test_every_form_in_every_encoding(tmp_path: Path, form: str, encoding: str, end: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(ENCODINGS[encoding](FORMS[form](ROWS).replace("\n", ENDS[end])))
    assert content_of(load(path)) == EXPECTED
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert content_of(load(path)) == EXPECTED


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("delimiter", ",;\t|")
def test_tables_in_every_encoding(tmp_path: Path, encoding: str, end: str, delimiter: str) -> None:
    rows = [["name", "food", "text"], ["Blue Door", "phở", "Phở."], ["The Oak", "", "Café."]]
    path = tmp_path / "a.csv"
    path.write_bytes(ENCODINGS[encoding]("".join(delimiter.join(row) + ENDS[end] for row in rows)))
    assert [(record.facts, record.references) for record in read(path)] == [
        ((Fact(None, "name", "Blue Door"), Fact(None, "food", "phở")), ("Phở.",)),
        ((Fact(None, "name", "The Oak"),), ("Café.",)),
    ]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "null", '""', '" "', "[]"])
@pytest.mark.parametrize("place", ["facts", "flat"])
def test_what_is_no_value_makes_no_fact(tmp_path: Path, number: str, place: str) -> None:
    facts = f'"name": "Blue Door", "stars": {number}'
    row = f'{{"facts": {{{facts}}}, "text": "A."}}' if place == "facts" else f'{{{facts}, "text": "A."}}'
    path = tmp_path / "a.jsonl"
    path.write_text(row + "\n", encoding="utf-8")
    assert read(path)[0].facts == (Fact(None, "name", "Blue Door"),)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null"])
def test_what_is_no_value_is_no_text_id_or_group_either(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": {value}, "group": {value}, "facts": {{"a": "b"}}, "text": "A."}}\n', encoding="utf-8")
    (record,) = read(path)
    assert (record.id, record.group) == ("1", None)
    path.write_text(f'{{"facts": {{"a": "b"}}, "text": {value}}}\n', encoding="utf-8")
    with pytest.raises(DataError, match="the text is empty"):
        read(path)
    (record,) = read(path, texts="unused")
    assert record.references == ()


def test_numbers_and_truths_are_values(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 0, "b": 1.50, "c": true, "d": false, "e": -2, "text": "A."}\n', encoding="utf-8")
    assert [fact.value for fact in read(path)[0].facts] == ["0", "1.50", "yes", "no", "-2"]


@pytest.mark.parametrize("content", ['[{"facts": {"a": "b"}, "text": "A."}', '[{"facts": {"a": "b"}} {"x": 1}]'])
def test_a_list_that_is_cut_short_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"a.json:1: broken JSON"):
        read(path)


def test_more_after_a_list_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": "b", "text": "A."}]\n{"a": "c", "text": "B."}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.json:1: there is more text after the list"):
        read(path)


def test_errors_name_the_line_in_every_form(tmp_path: Path) -> None:
    broken = [*ROWS, {"facts": 5, "text": "A."}]
    for form, line in (("lines", 4), ("blank lines", 8), ("list of lines", 5), ("list", 1), ("lines in ASCII", 4)):
        path = tmp_path / "a.jsonl"
        path.write_text(FORMS[form](broken), encoding="utf-8")
        with pytest.raises(DataError, match=rf"a.jsonl:{line}: 'facts' cannot be read"):
            read(path)


CELLS = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(",;|\"' :[]{}\\#=<>"), min_size=1, max_size=9
).filter(lambda cell: cell.strip() == cell and cell not in ("NaN", "nan", "null", "NULL", "<NA>"))
TABLES = st.lists(st.tuples(CELLS, CELLS | st.just(""), CELLS), min_size=1, max_size=5)


def table(rows: list[tuple[str, str, str]], delimiter: str, quoting: Any, end: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(
        [("name", "food", "text"), *rows]
    )
    return stream.getvalue()


def flat(rows: list[tuple[str, str, str]]) -> list[Row]:
    return [{"name": name, "food": food or None, "text": text} for name, food, text in rows]


def nested(rows: list[tuple[str, str, str]]) -> list[Row]:
    return [{"facts": {"name": name, "food": food or None}, "text": text} for name, food, text in rows]


@given(
    rows=TABLES,
    form=st.sampled_from([*FORMS, *(f"table {mark}" for mark in ",;\t|")]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    shape=st.sampled_from([flat, nested]),
    packed=st.sampled_from(list(PACKERS)),
    encoding=st.sampled_from(list(ENCODINGS)),
    end=st.sampled_from(list(ENDS)),
)
def test_a_table_comes_back_from_every_form(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    form: str,
    quoting: Any,
    shape: Callable[[list[tuple[str, str, str]]], list[Row]],
    packed: str,
    encoding: str,
    end: str,
) -> None:
    tabular = form.startswith("table")
    text = table(rows, form[-1], quoting, ENDS[end]) if tabular else FORMS[form](shape(rows)).replace("\n", ENDS[end])
    path = tmp_path_factory.mktemp("forms") / f"a{'.csv' if tabular else '.jsonl'}{packed}"
    path.write_bytes(PACKERS[packed](ENCODINGS[encoding](text)))
    found = [(row.facts, row.references) for row in load(path).rows]
    assert found == [
        ((Fact(None, "name", name), *((Fact(None, "food", food),) if food else ())), (text,))
        for name, food, text in rows
    ]


BY_COLUMN = {
    "lists": {"name": ["Blue Door", "The Oak"], "text": ["A.", "B."]},
    "objects, as pandas writes them": {"name": {"0": "Blue Door", "1": "The Oak"}, "text": {"0": "A.", "1": "B."}},
    "split, as pandas writes it": {"columns": ["name", "text"], "index": [0], "data": [["Blue Door", "A."]]},
    "rows in an object": {"data": [{"name": "Blue Door", "text": "A."}]},
}


@pytest.mark.parametrize("form", BY_COLUMN)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("texts", ["required", "unused"])
def test_a_table_that_is_one_object_is_not_taken_for_one_record(
    tmp_path: Path, form: str, indent: int | None, texts: Any
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(BY_COLUMN[form], indent=indent), encoding="utf-8")
    with pytest.raises(DataError, match=r"a.json:1: is one object, .*write one object for each row"):
        load(path, texts=texts)


@pytest.mark.parametrize(
    "record",
    [
        {"name": "Blue Door", "text": "A."},
        {"food": ["Thai", "Lao"], "text": "A."},
        {"food": ["Thai", "Lao"], "name": ["Blue Door"], "texts": ["A.", "B."]},
        {"food": ["Thai", "Lao"], "texts": ["A.", "B."], "id": "x"},
        {"facts": [["name", "Blue Door"], ["food", "Thai"]], "texts": ["A.", "B."]},
    ],
)
def test_one_record_may_have_lists(tmp_path: Path, record: Row) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    assert len(load(path).records) == 1


@pytest.mark.parametrize("key", ["facts", "prompt"])
def test_a_null_is_a_key_that_is_not_there(tmp_path: Path, key: str) -> None:
    row: dict[str, object] = {"facts": {"name": "Blue Door"}, "prompt": "Write:", "text": "Blue Door."}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row | {key: None}), encoding="utf-8")
    (record,) = read(path)
    assert (record.facts == ()) == (key == "facts")
    assert (record.prompt is None) == (key == "prompt")
    path.write_text(json.dumps(row | {"facts": None, "prompt": None}), encoding="utf-8")
    with pytest.raises(DataError, match="has neither 'facts' nor 'prompt'"):
        read(path)


@pytest.mark.parametrize(
    "text", ["[", '[{"facts": {"a": "b"}, "text": "x"},', '[{"facts": {"a": "b"}, "text": "x"}, \n']
)
def test_a_list_that_is_cut_short_is_not_read_as_a_shorter_one(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="the list does not end; the file may be cut short"):
        load(path)


@pytest.mark.parametrize(
    ("row", "facts", "prompt"),
    [
        ({"facts": {"a": "b"}, "prompt": None, "text": "x"}, (Fact(None, "a", "b"),), None),
        ({"facts": None, "prompt": "a =>", "completion": "x"}, (), "a =>"),
        ({"facts": None, "prompt": None, "a": "b", "text": "x"}, (Fact(None, "a", "b"),), None),
        ({"prompt": None, "a": "b", "text": "x"}, (Fact(None, "a", "b"),), None),
    ],
)
def test_a_key_that_is_null_in_every_row_is_absent(
    row: Row, facts: tuple[Fact, ...], prompt: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json_lines([row]), encoding="utf-8")
    (record,) = load(path).records
    assert (record.facts, record.prompt, record.references) == (facts, prompt, ("x",))


def test_a_prompt_whose_answer_has_another_key_says_which_key(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"prompt": "a =>", "response": "b", "source": "c"}]', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"'response' next to the facts or the prompt .*--columns prompt=prompt,text=response"
    ):
        load(path)
    (record,) = load(path, columns={"prompt": "prompt", "text": "response"}).records
    assert (record.prompt, record.references) == ("a =>", ("b",))


@pytest.mark.parametrize("value", ["NaN", "nan", "null", "NULL", "<NA>"])
@pytest.mark.parametrize("form", ["facts", "pairs", "row"])
def test_a_word_for_a_missing_value_is_no_fact_in_json_as_in_a_table(form: str, value: str, tmp_path: Path) -> None:
    pairs = {"name": "Cup", "size": value}
    rows: dict[str, Row] = {
        "facts": {"facts": pairs},
        "pairs": {"facts": [[*pair] for pair in pairs.items()]},
        "row": pairs,
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json_lines([rows[form] | {"text": "A cup."}]), encoding="utf-8")
    (record,) = load(path).records
    assert record.facts == (Fact(None, "name", "Cup"),)


@pytest.mark.parametrize("text", ["[]", " [ ]\n"])
def test_an_empty_list_has_no_records(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="contains no records"):
        load(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"facts": {"a": "b"}, "id": "1", "id": "1"}', "rows.jsonl:1: broken JSON .the key 'id' occurs twice"),
        ('{"facts": {"a": "b", "a": "b"}}', "the key 'a' occurs twice in one object"),
        ('{"facts": {"a": "b"}, "adapter": {"one": 1, "one": 1}}', "the key 'one' occurs twice in one object"),
        ('{"facts": {"caf\u00e9": "b", "cafe\u0301": "c"}}', "'café' occurs twice in one object, in two Unicode forms"),
    ],
)
def test_a_key_that_occurs_twice_is_refused_whatever_its_values(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        jsonl.parse(line, "rows.jsonl")


def test_texts_alone_are_written_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A mug.\nA bowl.\nA mug.\n", encoding="utf-8")
    records = read(path, format="text")
    path.write_text(jsonl.dump(records), encoding="utf-8")
    assert [record.references for record in read(path, format="text")] == [("A mug.",), ("A bowl.",), ("A mug.",)]
    assert read(path, format="text") == records


OBJECTS = [
    (
        [{"attribute": "name", "value": "Mill"}, {"attribute": "rooms", "value": 3}],
        [(None, "name", "Mill"), (None, "rooms", "3")],
    ),
    ([{"subject": "Cork", "predicate": "country", "object": "Ireland"}], [("Cork", "country", "Ireland")]),
    ([{"object": "Ireland", "property": "country", "subject": "Cork"}], [("Cork", "country", "Ireland")]),
    ([{"subject": None, "name": "food", "value": "Thai"}, {"name": "area", "value": None}], [(None, "food", "Thai")]),
    ([{"slot": "food", "value": True}], [(None, "food", "yes")]),
]


@pytest.mark.parametrize(("value", "wanted"), OBJECTS)
def test_facts_may_be_objects(tmp_path: Path, value: list[Row], wanted: list[tuple[Any, ...]]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"facts": value, "text": "A."}), encoding="utf-8")
    assert [(fact.subject, fact.attribute, fact.value) for fact in read(path)[0].facts] == wanted


@pytest.mark.parametrize(
    "value",
    [
        [{"attribute": "name", "value": "Mill", "unit": "m"}],
        [{"attribute": "name"}],
        [{"name": "Mill", "food": "Thai"}],
        [{"attribute": "a", "key": "b", "value": "c"}],
        [{"attribute": "a", "value": "b"}, ["c", "d"]],
    ],
)
def test_objects_that_are_not_facts_are_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"facts": value, "text": "A."}), encoding="utf-8")
    with pytest.raises(DataError, match="'facts' cannot be read"):
        read(path)
