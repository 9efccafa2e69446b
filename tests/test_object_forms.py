"""Rows of other programs: the hub's WebNLG and DART, GEM's tasks, the LoRA paper's objects, and forms without facts."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailora.core.errors import DataError
from tailora.data.records import DataFile, Fact, load, parse, read
from tailora.data.rewriting import Version, rewriter_of

SHARED = Path(__file__).parents[2] / "shared" / "data"
CORK = [["Cork", "country", "Ireland"], ["Cork", "river", "Lee"]]
TEXTS = ["Cork, on the Lee, is in Ireland.", "Ireland has a city on the Lee: Cork."]


def lines(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> DataFile:
    return load(lines(tmp_path, *rows), **options)


WEB_NLG = {
    "category": "City",
    "size": 2,
    "eid": "Id7",
    "original_triple_sets": {"otriple_set": [["Cork | country | Republic_of_Ireland", "Cork | river | Lee"]]},
    "modified_triple_sets": {"mtriple_set": [[" | ".join(triple) for triple in CORK]]},
    "lex": {
        "comment": ["good", "good", "toFix"],
        "lid": ["Id1", "Id2", "Id3"],
        "text": [*TEXTS, "Corc."],
        "lang": ["en"] * 3,
    },
}
GEM = {"gem_id": "web_nlg_en-test-1", "target": TEXTS[0], "references": TEXTS}


@pytest.mark.parametrize(
    ("row", "kind", "name", "group"),
    [
        (WEB_NLG, "webnlg-json", "City/2/Id7", "City"),
        (
            GEM | {"input": [" | ".join(triple) for triple in CORK], "category": "City"},
            "webnlg-json",
            GEM["gem_id"],
            "City",
        ),
        (GEM | {"tripleset": CORK, "dart_id": 7}, "dart", "1", None),
        ({"tripleset": CORK, "annotations": {"source": ["x", "y"], "text": TEXTS}}, "dart", "1", None),
        ({"tripleset": CORK, "annotations": [{"source": "x", "text": text} for text in TEXTS]}, "dart", "1", None),
    ],
    ids=["web_nlg", "GEM/web_nlg", "GEM/dart", "dart", "DART's file"],
)
def test_rows_of_triples(row: dict[str, Any], kind: str, name: str, group: str | None, tmp_path: Path) -> None:
    data = loaded(tmp_path, row)
    (record,) = data.records
    assert (data.format, record.id, record.group) == (kind, name, group)
    assert record.facts == tuple(Fact(*triple) for triple in CORK)
    assert record.references == tuple(TEXTS)
    inputs = {key: value for key, value in row.items() if key in ("tripleset", "input", "modified_triple_sets")}
    (without,) = loaded(tmp_path, inputs, texts="unused").rows
    assert without.facts == record.facts


def test_several_languages_of_a_hub_row_are_refused(tmp_path: Path) -> None:
    row = WEB_NLG | {
        "lex": {"comment": ["good"] * 2, "lid": ["Id1"] * 2, "text": ["Cork.", "Корк."], "lang": ["en", "ru"]}
    }
    with pytest.raises(DataError, match="--language"):
        loaded(tmp_path, row)
    assert loaded(tmp_path, row, language="ru").records[0].references == ("Корк.",)


def test_a_broken_hub_row_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: is not a row of WebNLG"):
        loaded(tmp_path, WEB_NLG | {"modified_triple_sets": {}})
    with pytest.raises(DataError, match="is not a triple"):
        loaded(tmp_path, WEB_NLG | {"modified_triple_sets": {"mtriple_set": [["Cork | Ireland"]]}})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_dart_is_the_same_in_each_form(tmp_path: Path) -> None:
    content = gzip.decompress((SHARED / "dart" / "dart-v1.1.1-full-dev.json.gz").read_bytes())
    rows = json.loads(content)
    texts = [[annotation["text"] for annotation in row["annotations"]] for row in rows]
    expected = read(SHARED / "dart" / "dart-v1.1.1-full-dev.json.gz")
    hub = [
        row | {"annotations": {"source": ["x"] * len(own), "text": own}} for row, own in zip(rows, texts, strict=True)
    ]
    gem = [
        {"tripleset": row["tripleset"], "target": own[0], "references": own}
        for row, own in zip(rows, texts, strict=True)
    ]
    for form in (hub, gem):
        assert read(lines(tmp_path, *form)) == expected


def test_the_target_of_a_gem_task_is_a_reference(tmp_path: Path) -> None:
    training = {"meaning_representation": "name[Mill], food[Thai]", "target": "The Mill is Thai.", "references": []}
    scoring = training | {"references": ["Thai food at the Mill.", "The Mill: Thai."]}
    data = loaded(tmp_path, training, scoring | {"meaning_representation": "name[Oak]"})
    assert [record.references for record in data.records] == [
        ("The Mill is Thai.",),
        ("Thai food at the Mill.", "The Mill: Thai.", "The Mill is Thai."),
    ]
    own = {"meaning_representation": "name[Mill]", "target": "A.", "references": ["B.", "A."]}
    assert loaded(tmp_path, own).records[0].references == ("B.", "A.")
    chosen = loaded(tmp_path, own, columns={"mr": "meaning_representation", "text": "target"})
    assert chosen.records[0].references == ("A.",)


def test_viggo_is_recognised_among_other_columns(tmp_path: Path) -> None:
    row = {"gem_id": "viggo-1", "meaning_representation": "inform(name[Celeste], genres[platformer, indie])"}
    (record,) = loaded(tmp_path, row | {"target": "Celeste is an indie platformer.", "references": []}).records
    values = ["inform", "Celeste", "platformer", "indie"]
    assert [fact.value for fact in record.facts] == values


def test_the_lora_papers_objects(tmp_path: Path) -> None:
    rows = [
        {"context": "name : Blue Spice | Type : pub", "completion": "Blue Spice is a pub .", "cate": True},
        {"context": "Cork : country : Ireland", "completion": "Cork is in Ireland .", "cate": False},
    ]
    first, second = loaded(tmp_path, *rows).records
    assert first.facts == (Fact(None, "name", "Blue Spice"), Fact(None, "Type", "pub"))
    assert second.facts == (Fact("Cork", "country", "Ireland"),)
    assert second.references == ("Cork is in Ireland .",)
    asked = loaded(tmp_path, *rows, columns={"prompt": "context", "text": "completion"}).records[0]
    assert asked.prompt == rows[0]["context"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": [3672, 1058], "completion": [464, 3555, 50256]}, "probably of token ids; give the data before"),
        ({"context": "Tell me of Cork.", "completion": "A city."}, "cannot be read as facts .* prompt=context"),
        ({"table": [[{"value": "x"}]], "highlighted_cells": [[0, 0]]}, "as in ToTTo; write its cells as facts"),
        ({"box_score": {"PTS": {"0": "12"}}, "summary": ["The"]}, "as in RotoWire; write its cells as facts"),
        ({"prompt": "Cork?", "chosen": "A city.", "rejected": "No."}, "rename 'chosen' to 'completion'"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "write the preferred conversation"),
    ],
)
def test_other_forms_are_one_error(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, row, row)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["The", "Raptors", "won", "."], "seems to be one text in words: 'The Raptors won .'; join the words"),
        (["464", "3555", "318", "13"], "probably token ids: '464, 3555, 318, 13'; give the data before"),
        (["['Cork.', 'A city.']"], "is a list written as text: .*; write one row for each text"),
    ],
)
def test_lists_that_are_not_texts_are_refused(texts: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, {"facts": {"name": "Cork"}, "texts": texts})
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, {"name": "Cork", "ref": texts}, columns={"text": "ref"})


def test_short_references_are_texts(tmp_path: Path) -> None:
    for texts in (["Cork", "Corcaigh", "cork", "Cork!"], ["7", "seven", "7.", "7:00"], ["[Cork]"], ["1", "2", "3"]):
        (record,) = loaded(tmp_path, {"facts": {"name": "Cork"}, "texts": texts}).records
        assert record.references == tuple(texts)


def test_a_table_without_a_header_is_one_error() -> None:
    with pytest.raises(DataError, match=r"the first row is a record, not a header: 'name.Mill., food.Thai.'"):
        parse('"name[Mill], food[Thai]",The Mill is Thai.\n"name[Oak]",The Oak.\n', Path("e2e.csv"))


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html>", "\n<html lang='en'>", "<!doctype HTML>\n<p>"])
def test_a_web_page_is_one_error(page: str) -> None:
    with pytest.raises(DataError, match="is a web page, not a data file; fetch the file itself"):
        parse(page, Path("train.xml"))


@pytest.mark.parametrize(
    "row",
    [
        {"context": "name : Oak | food : Thai", "completion": "Oak is a pub."},
        {"mr": "name[Oak], food[Thai]", "target": "Oak is a pub.", "references": []},
        {"mr": "name[Oak], food[Thai]", "target": "Oak is a pub.", "references": ["A pub: Oak.", "Oak is a pub."]},
    ],
)
def test_a_form_is_written_again_with_all_its_texts(row: dict[str, Any], tmp_path: Path) -> None:
    data = loaded(tmp_path, row)
    (record,) = data.records
    version = Version(record.facts[:1], record.references)
    content = rewriter_of(replace(data, records=data.rows)).write([[version]])
    (again,) = parse(content, Path("again.jsonl")).records
    assert (again.facts, again.references) == (record.facts[:1], record.references)
