"""The server's description of itself, and whatever may be sent to it: never an answer that is the server's fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from live_server import get, is_idle, save_models, served, settings_for, wait_until
from tailora.serve.server import Server

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SEVERAL = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = save_models(tmp_path_factory.mktemp("models"))
    with served(settings_for(models, adapter_folder=models / "later", timeout=20)) as made:
        yield made
        wait_until(lambda: is_idle(made))


def ask(server: Server, path: str, body: Any) -> httpx.Response:
    import json

    text = json.dumps(body)  # NaN and lone surrogates too, as they may come over the wire
    headers = {"Content-Type": "application/json"}
    return httpx.post(server.address + path, content=text.encode(), headers=headers, timeout=60)


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}


BROKEN = [
    b'{"model": "base", "prompt": "\\ud800"}',
    b'{"model": "base", "prompt": "x", "\\uDFFF": 1}',
    b'{"model": "\\ud800", "prompt": "x"}',
    b'{"model": "base", "prompt": "x", "stop": "\\ud83d"}',
    b'{"model": "base", "messages": [{"role": "user", "content": "\\udc00"}]}',
    b'{"model": "base", "facts": {"name": "\\ud800"}}',
    b'{"model": "base", "prompt": "\xff\xfe"}',
    b"\xff\xfe{\x00}\x00",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"model": "base", "prompt": "x", "seed": ' + b"9" * 6000 + b"}",
    b'{"model": "base", "prompt": "x", "temperature": 1e999}',
    b'{"model": "base", "prompt": "x", "temperature": NaN}',
]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_a_body_that_no_text_can_be_made_of_is_refused(server: Server, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/records", "/tokenize"):
        answer = httpx.post(server.address + path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        check(answer)


def test_a_whole_surrogate_pair_is_a_character(server: Server) -> None:
    body = b'{"model": "base", "prompt": "\\ud83d\\ude00", "echo": true, "max_tokens": 0}'
    answer = httpx.post(f"{server.address}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["choices"][0]["text"] == "\U0001f600"


@SEVERAL
@given(body=JSON)
def test_any_json_is_answered(server: Server, body: Any) -> None:
    for path in ("/v1/records", "/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize", "/detokenize"):
        check(ask(server, path, body))


@SEVERAL
@given(facts=JSON, more=st.dictionaries(st.sampled_from(["beams", "n", "rerank", "temperature", "seed", "stop"]), JSON))
def test_any_record_is_answered(server: Server, facts: Any, more: dict[str, Any]) -> None:
    check(ask(server, "/v1/records", {"model": "one", "max_tokens": 2, "facts": facts, **more}))


@SEVERAL
@given(
    facts=st.dictionaries(st.text(max_size=12), st.text(max_size=20), min_size=1, max_size=4),
    beams=st.integers(1, 4),
    seed=st.integers(-9, 9),
)
def test_any_text_in_a_record_is_written_about(server: Server, facts: dict[str, str], beams: int, seed: int) -> None:
    answer = ask(server, "/v1/records", {"model": "two", "max_tokens": 3, "facts": facts, "beams": beams, "seed": seed})
    check(answer)
    if answer.status_code == 200:
        made = answer.json()["data"][0]
        assert made["fidelity"]["slots"] == sum(1 for value in facts.values() if value.strip())  # blank: no fact


@SEVERAL
@given(
    prompt=st.text(max_size=20) | st.lists(st.integers(-1, 300), max_size=5),
    n=st.integers(1, 4),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    top_k=st.integers(-1, 300),
    penalty=st.floats(0.01, 100),
    stop=st.lists(st.text(max_size=3), max_size=3),
    stream=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
)
def test_any_way_to_decode_is_answered(
    server: Server, prompt: Any, n: int, penalty: float, stop: list[str], **ways: Any
) -> None:
    asked = {"model": "one", "prompt": prompt, "n": n, "max_tokens": 4, "repetition_penalty": penalty, "stop": stop}
    answer = ask(server, "/v1/completions", {**asked, **ways})
    check(answer)
    assert "server_error" not in answer.text
    if answer.status_code == 200 and ways["stream"]:
        assert answer.text.endswith("data: [DONE]\n\n")


def test_the_description_lists_every_route(server: Server) -> None:
    described = get(server, "/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/records",
        "/v1/files/read",
        "/tokenize",
        "/detokenize",
        "/version",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/reload",
        "/v1/status",
        "/health",
        "/ready",
        "/metrics",
    }


def test_every_route_and_field_is_described(server: Server) -> None:
    document = get(server, "/openapi.json").json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert " --" not in operation["description"].replace("`", " "), path
            assert operation["description"], path
            assert set(operation["responses"]) == {"200", "4XX", "5XX"}, path
    for name, schema in document["components"]["schemas"].items():
        for field, description in schema["properties"].items():
            assert description.get("description"), f"{name}.{field}"


@pytest.mark.filterwarnings("ignore")
def test_what_is_made_from_the_description_finds_no_fault(server: Server) -> None:
    """Schemathesis: requests that fit the document and that break it."""
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]

        @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
        def positive(case: Any) -> None:
            nonlocal asked
            asked += 1
            assert case.call(base_url=server.address).status_code < 500

        @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        def negative(case: Any) -> None:
            nonlocal asked
            asked += 1
            assert case.call(base_url=server.address).status_code < 500

        positive()
        if operation.body:
            negative()
    assert asked > 60
