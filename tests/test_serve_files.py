"""POST /v1/files/read: data files over HTTP are what the commands read, within limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bases import META
from live_server import get, post, save_models, served, settings_for
from tailora.data.records import SAMPLES, load
from tailora.serve.endpoints.files import MOST_RECORDS
from tailora.serve.server import Server

ROUTE = "/v1/files/read"
TABLE = "id,name,food,ref\n1,Zoë 😀,Thai,Zoë 😀 serves Thai food.\n2,Mill,,The Mill.\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), meta=META)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models)) as made:
        yield made


def read(server: Server, text: str, name: str = "table.csv", **body: Any) -> dict[str, Any]:
    answer = post(server, ROUTE, {"name": name, "text": text, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refusal(server: Server, text: str, name: str = "table.csv", **body: Any) -> str:
    answer = post(server, ROUTE, {"name": name, "text": text, **body})
    assert answer.status_code == 400, answer.text
    message: str = answer.json()["error"]["message"]
    return message


def test_a_table_has_rows_and_roles(server: Server) -> None:
    found = read(server, TABLE, columns={"text": "ref"})
    assert found["format"] == "csv"
    assert found["columns"] == [
        {"name": "id", "role": "id"},
        {"name": "name", "role": "facts"},
        {"name": "food", "role": "facts"},
        {"name": "ref", "role": "text"},
    ]
    assert found["data"][0] == {
        "id": "1",
        "facts": [[None, "name", "Zoë 😀"], [None, "food", "Thai"]],
        "references": ["Zoë 😀 serves Thai food."],
    }
    assert found["data"][1]["facts"] == [[None, "name", "Mill"]]


def test_a_byte_order_mark_is_not_part_of_a_column(server: Server) -> None:
    assert read(server, "\ufeff" + TABLE) == read(server, TABLE)


def test_columns_may_be_chosen(server: Server) -> None:
    found = read(server, TABLE, columns={"facts": ["name"], "ignore": ["id"]})
    assert [column["role"] for column in found["columns"]] == ["ignore", "facts", "ignore", "ignore"]
    assert found["data"][0]["facts"] == [[None, "name", "Zoë 😀"]]
    assert "no column 'nothing'" in refusal(server, TABLE, columns={"facts": ["nothing"]})
    assert "no role 'colour'" in refusal(server, TABLE, columns={"colour": "name"})


@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.iterdir()))
def test_every_row_is_what_the_commands_read(server: Server, sample: str) -> None:
    path = next(file for file in sorted((SAMPLES / sample).iterdir()) if file.stem == "test")
    wanted = load(path, texts="optional", language="all")
    found = read(server, path.read_text(encoding="utf-8-sig"), path.name)
    assert found["format"] == wanted.format
    rows = [(row["id"], tuple(map(tuple, row["facts"])), row["references"]) for row in found["data"]]
    facts = [tuple((fact.subject, fact.attribute, fact.value) for fact in row.facts) for row in wanted.rows]
    assert rows == [(row.id, own, list(row.references)) for row, own in zip(wanted.rows, facts, strict=True)]


def test_columns_of_the_adapters_training_count(tmp_path: Path) -> None:
    reading = {"format": None, "columns": {"facts": {"name": "title"}}, "language": None}
    with served(settings_for(save_models(tmp_path, meta={**META, "reading": reading}))) as server:
        assert read(server, TABLE, model="one")["data"][0]["facts"] == [[None, "title", "Zoë 😀"]]
        assert [fact[1] for fact in read(server, TABLE)["data"][0]["facts"]] == ["name", "food", "ref"]
        assert post(server, ROUTE, {"name": "a.csv", "text": TABLE, "model": "none"}).status_code == 404


def test_columns_that_the_model_was_not_trained_on_are_reported_as_for_records(tmp_path: Path) -> None:
    models = save_models(tmp_path, meta={**META, "attributes": ["name", "food"]})
    with served(settings_for(models)) as server:
        assert read(server, TABLE, model="one", columns={"text": "ref"})["warnings"] == []
        renamed = TABLE.replace("food", "meal")
        warnings = read(server, renamed, model="one", columns={"text": "ref"})["warnings"]
        assert warnings == ["one was not trained on 'meal'"]
        body = {"model": "one", "facts": {"name": "Mill", "meal": "Thai"}, "max_tokens": 1}
        assert post(server, "/v1/records", body).json()["data"][0]["warnings"] == warnings
        assert read(server, renamed)["warnings"] == []


def test_the_field_of_a_mistake_is_named(server: Server) -> None:
    for body, param in (
        ({"text": "name,food\nMill,Thai,more\n"}, "text"),
        ({"text": TABLE, "columns": {"facts": ["nothing"]}}, "text"),
        ({"text": TABLE, "columns": {"colour": "name"}}, "columns"),
        ({"text": TABLE, "format": "e2e"}, "text"),
        ({"text": TABLE, "model": "none"}, "model"),
    ):
        error = post(server, ROUTE, {"name": "table.csv", **body}).json()["error"]
        assert error["param"] == param, error
        assert "--" not in error["message"], error


def test_a_mistake_is_reported_with_its_line(server: Server) -> None:
    assert refusal(server, "name,food\nMill,Thai,more\n").startswith("table.csv:2: 3 cells where the header has 2;")
    assert "is empty" in refusal(server, " \n")
    assert "contains prompts" in refusal(server, '{"prompt": "Write", "text": "a"}', "a.jsonl")


def test_files_may_be_larger_than_other_bodies_but_have_a_limit(models: Path) -> None:
    with served(settings_for(models, max_body=1 << 14)) as server:
        row = "1,Zoë,Thai,text\n"
        assert len(read(server, TABLE + row * 4000)["data"]) == 4002
        answer = post(server, ROUTE, {"name": "a.csv", "text": TABLE + row * 40000})
        assert answer.status_code == 413
        assert "131,072 bytes" in answer.json()["error"]["message"]
        assert get(server, "/v1/models").status_code == 200


def test_more_records_than_a_page_can_hold_are_refused(server: Server) -> None:
    message = refusal(server, "name\n" + "a\n" * (MOST_RECORDS + 1))
    assert "20,001 records" in message
    assert "tailora generate" in message
    assert "lines" in refusal(server, "name\n" + "a\n" * (MOST_RECORDS * 10))
    assert "lines" in refusal(server, json.dumps([{"a": 1}] * (MOST_RECORDS * 6)), "a.json")
