"""Records over HTTP: linearised as the adapter was trained, with fidelity, streamed, reranked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bases import META
from live_server import is_idle, post, save_models, served, settings_for, wait_until
from tailora.commands.generate import GenerateSettings
from tailora.commands.generate import run as generate
from tailora.data.records import read
from tailora.data.values import Fact, Record
from tailora.metrics.slots import SlotReport, slot_report
from tailora.serve.server import Server

FACTS = {"name": "Blue", "food": "y"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), meta=META)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models)) as made:
        yield made
        wait_until(lambda: is_idle(made))


def ask(server: Server, **body: Any) -> dict[str, Any]:
    answer = post(server, "/v1/records", {"model": "one", "max_tokens": 12, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stream(server: Server, **body: Any) -> list[dict[str, Any]]:
    given = {"model": "one", "max_tokens": 12, "stream": True, **body}
    with httpx.stream("POST", f"{server.address}/v1/records", json=given, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


READING: dict[str, Any] = {"format": None, "columns": {}, "language": None}


@pytest.mark.parametrize(
    "request_text",
    [
        '{"model": "one", "facts": {"price": 1.50, "size": [1e3], "change": -0}}',
        '{"model": "one", "records": [{"facts": {"price": 1.50, "size": 1e3, "change": -0}}]}',
        '{"model": "one", "records": [[["price", 1.50], ["size", 1e3], ["change", -0]]]}',
    ],
    ids=["facts", "records", "pairs"],
)
def test_numbers_are_read_as_they_are_written(tmp_path: Path, request_text: str) -> None:
    folder = save_models(tmp_path, meta={**META, "reading": READING})
    table = tmp_path / "table.csv"
    table.write_text("price,size,change\n1.50,1e3,-0\n", encoding="utf-8")
    (record,) = read(table, texts="unused")
    with served(settings_for(folder)) as server:
        head = {"Content-Type": "application/json"}
        answer = httpx.post(f"{server.address}/v1/records", content=request_text, headers=head, timeout=60)
    assert answer.status_code == 200, answer.text
    missing = answer.json()["data"][0]["fidelity"]["missing"]
    assert [Fact(**fact) for fact in missing] == list(record.facts)


FAITHFUL: dict[str, Any] = {"faithful": True, "faithful_candidates": 10}


@pytest.mark.parametrize(
    "more", [{}, {"beams": 3}, {"beams": 3, "rerank": "fidelity"}, FAITHFUL, {"beams": 2, **FAITHFUL}]
)
def test_texts_are_those_of_generate(server: Server, models: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"facts": FACTS}) + "\n" + json.dumps({"facts": {"name": "Z"}}) + "\n", encoding="utf-8")
    common = {"max_new_tokens": 12, "precision": "fp32", "output": tmp_path / "outputs.jsonl", **more}
    generate(GenerateSettings(adapter=(str(models / "one"),), base=str(models / "base"), input=str(path), **common))
    wanted = [json.loads(line) for line in (tmp_path / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    got = ask(server, records=[FACTS, {"name": "Z"}], **more)["data"]
    assert [each["text"] for each in got] == [row["text"] for row in wanted]
    assert [each["logprob"] for each in got] == pytest.approx([row["logprob"] for row in wanted], abs=1e-4)


def test_attributes_that_the_adapter_was_not_trained_on_are_reported(tmp_path: Path) -> None:
    known = ["food", "name"]
    folder = save_models(tmp_path, meta={**META, "reading": READING, "attributes": known, "linearization": "paper"})
    with served(settings_for(folder)) as server:
        records: list[Any] = [FACTS, {"name": "Z", "colour": "red", "size": "big"}]
        trained, renamed = ask(server, records=records)["data"]
        ends = [event for event in stream(server, records=records) if "text" in event]
    assert "warnings" not in trained
    assert renamed["warnings"] == ["one was not trained on 'colour', 'size'"]
    assert [event.get("warnings") for event in sorted(ends, key=lambda event: event["index"])] == [
        None,
        renamed["warnings"],
    ]


def test_facts_may_be_pairs_and_triples(server: Server) -> None:
    pairs = ask(server, facts=[["name", "Blue"], ["food", "y"]])["data"][0]
    assert pairs["text"] == ask(server, facts=FACTS)["data"][0]["text"]
    triples = ask(server, facts=[["Blue", "serves", "y"]])["data"][0]
    assert triples["fidelity"]["slots"] == 1


def test_records_may_be_objects_around_their_facts(server: Server) -> None:
    plain = ask(server, records=[FACTS, {"name": "Z"}])["data"]
    for records in (
        [{"facts": FACTS}, {"facts": {"name": "Z"}}],
        [{"facts": [["name", "Blue"], ["food", "y"]]}, {"name": "Z"}],
    ):
        wrapped = ask(server, records=records)["data"]
        assert [each["text"] for each in wrapped] == [each["text"] for each in plain]
    named = ask(server, records=[{"facts": ["a", "b"]}, {"facts": "c"}])["data"]  # attributes that are called so
    assert [each["fidelity"]["slots"] for each in named] == [2, 1]


def test_fidelity_is_the_slot_report(server: Server) -> None:
    made = ask(server, facts=FACTS)["data"][0]
    record = Record("0", tuple(Fact(None, name, value) for name, value in FACTS.items()), ())
    report = slot_report(record, made["text"])
    result = made["fidelity"]
    assert (result["slots"], result["errors"]) == (report.slots, report.errors)
    assert [fact["attribute"] for fact in result["missing"]] == [fact.attribute for fact in report.missing]
    assert made["usage"]["completion_tokens"] > 0


def test_values_that_the_adapter_was_trained_on_leak(server: Server, tmp_path: Path) -> None:
    text = ask(server, facts=FACTS, max_tokens=60)["data"][0]["text"]
    value = max(re.findall(r"\w+", text), key=len)
    folder = save_models(tmp_path, meta={**META, "known_values": {"place": [value], "food": [FACTS["food"]]}})
    with served(settings_for(folder)) as other:
        result = ask(other, facts=FACTS, max_tokens=60)["data"][0]
        wait_until(lambda: is_idle(other))
    assert result["text"] == text
    fidelity = result["fidelity"]
    assert fidelity["leaked"] == [{"subject": None, "attribute": "place", "value": value}]
    assert fidelity["errors"] == len(fidelity["missing"]) + 1


def test_a_stream_ends_with_what_an_answer_says(server: Server) -> None:
    cases: list[dict[str, Any]] = [{}, {"beams": 2}, {"temperature": 1, "n": 3, "seed": 4}, FAITHFUL]
    for more in cases:
        whole = ask(server, records=[FACTS, {"name": "Z"}], **more)["data"]
        chunks = stream(server, records=[FACTS, {"name": "Z"}], **more)
        for number, each in enumerate(whole):
            own = [chunk for chunk in chunks if chunk["index"] == number]
            last = own[-1]
            # Sums round differently with what else is in a step.
            assert {**last, "logprob": 0} | {**each, "logprob": 0} == {**last, "logprob": 0}
            assert last["logprob"] == pytest.approx(each["logprob"], abs=1e-4)
            if not more or more is FAITHFUL:
                assert "".join(chunk["delta"] for chunk in own) == each["text"]


def test_missing_values_are_no_facts(server: Server) -> None:
    bare = ask(server, facts=FACTS)["data"][0]
    padded = FACTS | {"price": None, "area": " "}
    assert ask(server, facts=padded)["data"][0] == bare


def test_several_texts_of_a_record(server: Server) -> None:
    made = ask(server, facts=FACTS, beams=3, n=2)["data"][0]
    assert made["candidates"][0]["text"] == made["text"]
    assert len(made["candidates"]) == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_the_server_answers_others_while_it_looks_for_facts(
    server: Server, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    """Many facts in many texts take long; each text is searched once, for its place and for what is reported of it."""
    begun, go_on, seen = threading.Event(), threading.Event(), list[str]()

    def slow(record: Record, text: str, *more: Any) -> SlotReport:
        begun.set()
        assert go_on.wait(30)
        seen.append(text)
        return slot_report(record, text, *more)

    monkeypatch.setattr("tailora.inference.rerank.slot_report", slow)
    more = {"facts": FACTS, "temperature": 1.5, "n": 4, "rerank": "fidelity"}
    with ThreadPoolExecutor(1) as pool:
        request: Any = stream if streamed else ask
        made = pool.submit(request, server, **more)
        assert begun.wait(30)
        try:
            assert httpx.get(f"{server.address}/health", timeout=20).status_code == 200
            body = {"model": "base", "prompt": "abc", "max_tokens": 5, "stream": True}
            assert "[DONE]" in httpx.post(f"{server.address}/v1/completions", json=body, timeout=20).text
        finally:
            go_on.set()
        result = made.result()
    last = result[-1] if isinstance(result, list) else result["data"][0]
    assert len(seen) == len(set(seen))
    assert {each["text"] for each in last["candidates"]} == set(seen)


def test_the_time_limit_counts_the_search_for_facts(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile the texts count as under way, so that a server that is to end waits for them."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> SlotReport:
        begun.set()
        assert go_on.wait(30)
        return slot_report(*given)

    monkeypatch.setattr("tailora.inference.rerank.slot_report", slow)
    body = {"model": "one", "facts": FACTS, "max_tokens": 2}
    with served(settings_for(models, timeout=2.0)) as server, ThreadPoolExecutor(1) as pool:
        made = pool.submit(post, server, "/v1/records", body)
        assert begun.wait(30)
        try:
            assert server.service.open_texts == 1
            assert (made.result(30).status_code, server.service.open_texts) == (504, 0)
            assert "timeout" in post(server, "/v1/records", {**body, "stream": True}).text
        finally:
            go_on.set()


def test_reranking_puts_the_faithful_text_first(server: Server) -> None:
    made = ask(server, facts=FACTS, temperature=1.5, n=8, rerank="fidelity", seed=1)["data"][0]
    errors = [each["fidelity"]["errors"] for each in made["candidates"]]
    assert errors == sorted(errors)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "send either facts (one record) or records (several)"),
        ({"facts": {}}, "'facts' is empty"),
        ({"facts": [["a"]]}, "'facts' cannot be read"),
        ({"facts": {"a": None, "b": " "}}, "every value of 'facts' is missing"),
        ({"records": [FACTS, [["a", "b", "c", "d"]]]}, "records[1]"),
        ({"facts": FACTS, "rerank": "fidelity"}, "raise beams, or n with a temperature"),
        ({"facts": FACTS, "beams": 2, "temperature": 1}, "beams are not sampled"),
        ({"facts": FACTS, "n": 3, "beams": 2}, "exceeds the number of beams"),
        ({"facts": {"a": "x" * 100}}, "maximum context length is 96 tokens"),
        ({"facts": FACTS, "beams": 40}, "40 sequences at once (limit of the engine: 32)"),
    ],
)
def test_bad_records_are_reported(server: Server, body: dict[str, Any], expected: str) -> None:
    answer = post(server, "/v1/records", {"model": "one", **body})
    assert answer.status_code == 400
    assert expected in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"facts": "name : Blue"}, "facts"),
        ({"facts": {"name": {"first": "Blue"}}}, "facts.name"),
        ({"records": [{"facts": {"name": {"first": "Blue"}}}]}, "records[0].facts.name"),
    ],
)
def test_the_place_of_an_error_is_a_field_of_the_body(server: Server, body: dict[str, Any], field: str) -> None:
    error = post(server, "/v1/records", {"model": "one", **body}).json()["error"]
    assert error["param"] == field
    assert "[" not in error["message"].removeprefix(field)  # as in pydantic's names of alternatives
    assert error["message"].startswith(f"{field}: ")


def test_searches_take_what_a_small_cache_holds(models: Path) -> None:
    """Further texts are sampled as many at a time as fit, and the default length leaves room for all texts."""
    with served(settings_for(models, cache_tokens=128, sequences=4)) as small:
        found = ask(small, facts=FACTS, **FAITHFUL)
        assert found["data"][0]["fidelity"]["errors"] == 0 or found["data"][0]["usage"]["completion_tokens"] > 12
        for more in ({"n": 2, "temperature": 1}, {"beams": 2}, FAITHFUL | {"faithful_candidates": 2}):
            answer = post(small, "/v1/records", {"model": "one", "facts": FACTS, **more})
            assert answer.status_code == 200, answer.text
