"""From rows to records: what each is called, which rows are one record, and the same in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.core.errors import DataError
from tailora.data.records import DataFile, load

Row = dict[str, Any]
"""An id (or none), a name, and a text."""


def as_csv(rows: list[Row]) -> str:
    stream = io.StringIO()
    keys = [key for key in ("id", "group", "language", "name", "text") if any(key in row for row in rows)]
    writer = csv.DictWriter(stream, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def nested(row: Row) -> Row:
    return {"facts": {"name": row["name"]}} | {key: value for key, value in row.items() if key != "name"}


WRITERS: dict[str, Callable[[list[Row]], str]] = {
    "a.csv": as_csv,
    "a.jsonl": lambda rows: "".join(json.dumps(nested(row)) + "\n" for row in rows),
    "a.json": lambda rows: json.dumps(list(map(nested, rows))),
    "flat.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "flat.json": lambda rows: json.dumps(rows, indent=1),
}
every_format = pytest.mark.parametrize("name", WRITERS)


def loaded(folder: Path, name: str, rows: list[Row], **options: Any) -> DataFile:
    path = folder / name
    path.write_text(WRITERS[name](rows), encoding="utf-8")
    if "columns" not in options and name in ("a.csv", "flat.jsonl", "flat.json"):
        roles = [role for role in ("id", "group") if any(role in row for row in rows)]
        options["columns"] = {role: role for role in roles} or None
    return load(path, **options)


def row(name: str, text: str | None = None, **more: Any) -> Row:
    return {**more, "name": name, **({} if text is None else {"text": text})}


def row_ids(data: DataFile) -> list[str]:
    return [each.id for each in data.rows]


@every_format
def test_rows_without_ids_are_numbered_in_the_file_s_order(tmp_path: Path, name: str) -> None:
    data = loaded(tmp_path, name, [row("a", "A."), row("b", "B."), row("a", "AA."), row("c", "C.")])
    assert row_ids(data) == ["1", "2", "3", "4"]
    assert [(record.id, record.references) for record in data.records] == [
        ("1", ("A.", "AA.")),
        ("2", ("B.",)),
        ("4", ("C.",)),
    ]
    assert data.places == (0, 1, 0, 2)


@every_format
@pytest.mark.parametrize("ids", [["p7", "p8"], [7, 8], ["2", "1"], [0, "x y"], ["007", "7"]])
def test_given_ids_are_kept_numbers_or_not(tmp_path: Path, name: str, ids: list[Any]) -> None:
    data = loaded(tmp_path, name, [row(f"n{i}", "A.", id=i) for i in ids])
    assert row_ids(data) == [str(i) for i in ids]


@every_format
def test_a_number_that_another_row_has_as_its_id_is_not_given_to_a_second(tmp_path: Path, name: str) -> None:
    data = loaded(tmp_path, name, [row("a", "A.", id="2"), row("b", "B.", id=""), row("c", "C.", id="")])
    assert row_ids(data) == ["2", "row-2", "3"]


@every_format
def test_one_id_on_rows_that_differ_in_their_texts_is_one_record(tmp_path: Path, name: str) -> None:
    data = loaded(tmp_path, name, [row("a", "A.", id="x"), row("b", "B.", id="y"), row("a", "AA.", id="x")])
    assert [(record.id, record.references) for record in data.records] == [("x", ("A.", "AA.")), ("y", ("B.",))]
    assert row_ids(data) == ["x", "y", "x"]


@every_format
@pytest.mark.parametrize("ids", [("x", "x"), (1, "1"), (" x", "x")])
def test_one_id_on_rows_with_other_facts_is_an_error(tmp_path: Path, name: str, ids: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"the id '(x|1)' is on two rows with different content"):
        loaded(tmp_path, name, [row("a", "A.", id=ids[0]), row("b", "B.", id=ids[1])])


@every_format
def test_rows_with_equal_facts_and_other_ids_are_one_record(tmp_path: Path, name: str) -> None:
    data = loaded(tmp_path, name, [row("a", "A.", id="x"), row("a", "AA.", id="y")])
    assert [(record.id, record.references) for record in data.records] == [("x", ("A.", "AA."))]
    assert row_ids(data) == ["x", "y"]


@every_format
def test_rows_of_other_groups_are_other_records(tmp_path: Path, name: str) -> None:
    rows = [row("a", "A.", group="one"), row("a", "AA.", group="two"), row("a", "AAA.", group="one")]
    data = loaded(tmp_path, name, rows)
    assert [(record.group, record.references) for record in data.records] == [
        ("one", ("A.", "AAA.")),
        ("two", ("AA.",)),
    ]


@every_format
def test_equal_texts_are_kept_as_often_as_they_occur(tmp_path: Path, name: str) -> None:
    data = loaded(tmp_path, name, [row("a", "A."), row("a", "A.")])
    assert [record.references for record in data.records] == [("A.", "A.")]


@every_format
def test_each_row_is_written_about_texts_or_none(tmp_path: Path, name: str) -> None:
    rows = [row("a", "A."), row("a", ""), row("b", ""), row("a", "AA.")]
    data = loaded(tmp_path, name, rows, texts="unused")
    assert row_ids(data) == ["1", "2", "3", "4"]
    assert [each.facts[0].value for each in data.rows] == ["a", "a", "b", "a"]
    assert row_ids(loaded(tmp_path, name, [row("a"), row("a"), row("b")], texts="unused")) == ["1", "2", "3"]


NAMES = st.sampled_from(["a", "b", "c"])
IDS = st.sampled_from(["1", "2", "3", "row-2", "x"])


@given(st.lists(st.tuples(NAMES, st.sampled_from(["A.", "B."]), st.none() | IDS), min_size=1, max_size=6))
def test_every_format_gives_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str | None]]
) -> None:
    given_rows = [row(name, text, id=i) for name, text, i in rows]
    folder = tmp_path_factory.mktemp("formats")
    owners: dict[str | None, set[str]] = {}
    for name, _, i in rows:
        owners.setdefault(i, set()).add(name)
    if any(len(names) > 1 for i, names in owners.items() if i is not None):
        for name in WRITERS:
            with pytest.raises(DataError, match="different content"):
                loaded(folder, name, given_rows)
        return
    found = [loaded(folder, name, given_rows) for name in WRITERS]
    for data in found[1:]:
        assert (data.rows, data.records, data.places) == (found[0].rows, found[0].records, found[0].places)
    data = found[0]
    assert len(data.rows) == len(rows)
    assert len({each.id for each in data.records}) == len(data.records)
    assert [text for _, text, _ in rows] == [each.references[0] for each in data.rows]
    assert sorted(text for record in data.records for text in record.references) == sorted(t for _, t, _ in rows)
    assert all(data.records[place].facts == each.facts for each, place in zip(data.rows, data.places, strict=True))


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (None, [("ga", ("A.", "AAA.")), (None, ("AA.",))]),
        ("all", [("ga", ("A.", "AAA.")), (None, ("AA.",))]),
        ("ga", [("ga", ("A.", "AAA."))]),
        ("GA", [("ga", ("A.", "AAA."))]),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_a_row_that_names_no_language_is_not_given_another_s(
    tmp_path: Path, name: str, language: str | None, expected: list[tuple[str | None, tuple[str, ...]]]
) -> None:
    rows = [row("a", "A.", language="ga"), row("a", "AA."), row("a", "AAA.", language="ga")]
    options: dict[str, Any] = {"columns": {"language": "language"}} if name == "a.csv" else {}
    data = loaded(tmp_path, name, rows, language=language, **options)
    assert [(record.language, record.references) for record in data.records] == expected


@every_format
def test_other_orders_and_spellings_of_the_same_facts_are_one_record(tmp_path: Path, name: str) -> None:
    rows = [{"name": "Cốc", "kind": "bếp", "text": "A."}, {"kind": "bếp", "name": "Co\u0302\u0301c", "text": "B."}]
    if name.endswith(".csv"):  # one order for all rows
        rows[1] = {"name": rows[1]["name"], "kind": rows[1]["kind"], "text": "B."}
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("name,kind,text\n" + "".join(",".join(row.values()) + "\n" for row in rows), encoding="utf-8")
    elif name.startswith("flat"):
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        nested_rows = [{"facts": {k: v for k, v in row.items() if k != "text"}, "text": row["text"]} for row in rows]
        path.write_text("\n".join(map(json.dumps, nested_rows)), encoding="utf-8")
    data = load(path)
    (record,) = data.records
    assert record.references == ("A.", "B.")
    assert [(fact.attribute, fact.value) for fact in record.facts] == [("name", "Cốc"), ("kind", "bếp")]
    assert data.places == (0, 0)


def test_prompts_in_other_spellings_are_one_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "Cốc", "completion": "A."}, {"prompt": "Co\u0302\u0301c", "completion": "B."}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [record.references for record in load(path).records] == [("A.", "B.")]


def rows_in(*languages: str) -> list[Row]:
    return [row("a", f"{number}.", language=language) for number, language in enumerate(languages)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_language_tags_are_compared_without_case(tmp_path: Path, name: str) -> None:
    data = loaded(tmp_path, name, rows_in("EN", "en"))
    assert [(record.language, record.references) for record in data.records] == [("EN", ("0.", "1."))]
    for language, expected in {"en": ("0.", "1.", "3."), "en-us": ("1.",), "EN_US": ("1.",), "vi": ("2.",)}.items():
        data = loaded(tmp_path, name, rows_in("en", "en-US", "vi", "en_GB"), language=language)
        assert [record.references for record in data.records] == [expected]
    with pytest.raises(DataError, match="no text in the language 'e'"):
        loaded(tmp_path, name, rows_in("en", "vi"), language="e")
    with pytest.raises(DataError, match=r"\(vi: 2, en: 1\); choose one with --language vi or --language en or"):
        loaded(tmp_path, name, rows_in("en", "vi", "VI"))
