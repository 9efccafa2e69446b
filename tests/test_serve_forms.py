"""Requests in every form: each gets what OpenAI's documentation promises, or one clear error in OpenAI's form."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from live_server import is_idle, save_models, served, settings_for, wait_until
from tailora.serve.server import Server

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "one", "prompt": "Hi", "max_tokens": 2},
    "/v1/chat/completions": {"model": "one", "messages": MESSAGES, "max_tokens": 2},
    "/v1/responses": {"model": "one", "input": "Hi", "max_output_tokens": 2},
    "/v1/records": {"model": "one", "facts": {"name": "Mill"}, "max_tokens": 2},
    "/v1/files/read": {"name": "a.csv", "text": "name,food\nMill,Thai\n"},
    "/tokenize": {"model": "one", "prompt": "Hi"},
    "/detokenize": {"model": "one", "tokens": [5, 6]},
    "/v1/load_lora_adapter": {"lora_name": "x", "lora_path": "three"},
    "/v1/unload_lora_adapter": {"lora_name": "x"},
}
GETS = ("/", "/health", "/ready", "/metrics", "/version", "/v1/models", "/v1/models/one", "/v1/status", "/openapi.json")
WRONG: list[Any] = [True, 1.5, -1, 10**30, [None], [[]], {"a": {"b": 1}}]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = save_models(tmp_path_factory.mktemp("models"))
    with served(settings_for(models, adapter_folder=models / "later")) as made:
        yield made
        wait_until(lambda: is_idle(made))


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60) as connection:
        yield connection


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a refusal, which has OpenAI's form and is one line."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize("path", BODIES)
def test_a_wrong_value_in_any_field_names_the_field(connection: httpx.Client, path: str) -> None:
    for field in BODIES[path]:
        values = [json.dumps(value) for value in WRONG] + ["NaN", "-Infinity", "1e999", "9" * 400]
        for value in values:
            body = json.dumps({**BODIES[path], field: "@"}).replace('"@"', value)
            error = refused(connection.post(path, content=body, headers=JSON))
            assert str(error["param"]).partition("[")[0].partition(".")[0] == field, (value, error)
            assert len(error["message"]) < 300


@pytest.mark.parametrize("path", BODIES)
def test_a_field_that_is_null_counts_as_absent(connection: httpx.Client, path: str) -> None:
    for field in BODIES[path]:
        null = connection.post(path, json={**BODIES[path], field: None})
        absent = connection.post(path, json={name: value for name, value in BODIES[path].items() if name != field})
        assert null.status_code == absent.status_code in (200, 400, 404)
        if null.status_code == 400:
            assert null.json() == absent.json()


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_field_is_named(connection: httpx.Client, path: str) -> None:
    assert refused(connection.post(path, json={**BODIES[path], "frob": 1}))["param"] == "frob"


@pytest.mark.parametrize("path", BODIES)
def test_a_body_of_another_type_is_refused(connection: httpx.Client, path: str) -> None:
    text = json.dumps(BODIES[path])
    answers = [
        connection.post(path),
        connection.post(path, content=b"", headers=JSON),
        connection.post(path, json=[BODIES[path]]),
        connection.post(path, content=text.encode()),
        connection.post(path, content=text, headers={"Content-Type": "text/plain"}),
        connection.post(path, data={"model": "one"}),
        connection.post(path, files={"file": b"x"}),
    ]
    for answer in answers:
        assert "send one, with `Content-Type: application/json`" in refused(answer)["message"]
    wide = connection.post(path, content=text.encode("utf-16"), headers={"Content-Type": "application/json"})
    assert "UTF-8" in refused(wide)["message"]


@pytest.mark.parametrize("path", [path for path in BODIES if "lora" not in path])
def test_a_body_may_be_compressed_chunked_or_to_a_path_with_slashes(connection: httpx.Client, path: str) -> None:
    text = json.dumps(BODIES[path]).encode()
    packed = connection.post(path, content=gzip.compress(text), headers={**JSON, "Content-Encoding": "gzip"})
    chunked = connection.post(path, content=iter([text[:9], text[9:]]), headers=JSON)
    slashes = connection.post(f"{path}//", content=text, headers=JSON)
    assert [answer.status_code for answer in (packed, chunked, slashes)] == [200, 200, 200]


@pytest.mark.parametrize("path", BODIES)
def test_other_methods_name_the_right_one(connection: httpx.Client, path: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = connection.request(method, path)
        assert f"does not accept {method}" in refused(answer, 405)["message"]
        assert answer.headers["allow"] == "POST"
    assert connection.head(path).status_code == 405


@pytest.mark.parametrize("path", GETS)
def test_what_can_be_read_accepts_head_and_slashes(connection: httpx.Client, path: str) -> None:
    whole, head = connection.get(path), connection.head(path)
    assert (whole.status_code, head.status_code, head.content) == (200, 200, b"")
    assert connection.get(f"{path}/").status_code == 200
    other = connection.post(path)
    refused(other, 405)
    assert other.headers["allow"] == "GET, HEAD"


def test_a_path_that_does_not_exist_is_an_error_without_redirection(connection: httpx.Client) -> None:
    for path in (
        "/nowhere",
        "/nowhere/",
        "/v1",
        "/v1/",
        "/v1/embeddings",
        "/v1/engines/one/completions",
        "/page",
        "/page/",
    ):
        assert connection.get(path).status_code == 404, path


# What LangChain, LiteLLM and other programs send without being asked.
ASKS_NOTHING: list[dict[str, Any]] = [
    {"max_completion_tokens": 4},
    {"max_tokens": 9, "max_completion_tokens": 4},
    {"response_format": {"type": "text"}, "tools": [], "n": 1, "user": "me"},
    {"metadata": {"job": "1"}, "store": True, "seed": 3, "parallel_tool_calls": False},
    {"reasoning_effort": "low", "verbosity": "low", "service_tier": "auto", "logprobs": False, "top_logprobs": None},
]


@pytest.mark.parametrize("more", ASKS_NOTHING, ids=str)
def test_what_programs_send_by_habit_changes_nothing(client: openai.OpenAI, more: dict[str, Any]) -> None:
    ask: dict[str, Any] = {"model": "one", "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
    wanted = client.chat.completions.create(**ask).choices[0]
    whole = client.chat.completions.create(**{**ask, **more}).choices[0]
    assert whole == wanted
    stream = client.chat.completions.create(
        **{**ask, **more}, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted.message.content
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert (last.choices, last.usage and last.usage.completion_tokens) == ([], 4)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"functions": [{"name": "f", "parameters": {}}]}, "functions"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"n": 0}, "n"),
        ({"user": 5}, "user"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "word " * 100}]}, "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_server_does_not_have_is_openais_error(
    client: openai.OpenAI, more: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "one", "messages": MESSAGES, **more}, stream=stream)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def fields(answer: Any, place: str = "") -> Iterator[str]:
    """Names of fields that the client's type does not have."""
    if isinstance(answer, BaseModel):
        yield from (f"{place}.{name}" for name in answer.model_extra or {})
        for name in type(answer).model_fields:
            yield from fields(getattr(answer, name), f"{place}.{name}")
    elif isinstance(answer, list):
        for item in answer:
            yield from fields(item, place)


def events(answer: httpx.Response) -> list[Any]:
    """The events of a stream that ends as OpenAI's do."""
    *lines, last = [line for line in answer.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize(
    ("path", "whole", "piece", "more"),
    [
        ("/v1/chat/completions", ChatCompletion, ChatCompletionChunk, {}),
        ("/v1/chat/completions", ChatCompletion, ChatCompletionChunk, {"logprobs": True, "top_logprobs": 2, "n": 2}),
        ("/v1/completions", Completion, Completion, {}),
        ("/v1/completions", Completion, Completion, {"logprobs": 2, "n": 2}),
        ("/v1/completions", Completion, Completion, {"echo": True}),
    ],
)
def test_answers_are_valid_as_the_clients_types(
    connection: httpx.Client, path: str, whole: type[BaseModel], piece: type[BaseModel], more: dict[str, Any]
) -> None:
    """The client itself reads whatever has the right names."""
    body = {**BODIES[path], **more}
    assert list(fields(whole.model_validate(connection.post(path, json=body).json()))) == []
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for event in events(connection.post(path, json={**body, **options})):
        if piece is Completion:  # its type says that a reason is never null, which it is until a text ends
            event["choices"] = [{**own, "finish_reason": own["finish_reason"] or "stop"} for own in event["choices"]]
        assert list(fields(piece.model_validate(event))) == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_token_counts_in_every_event(connection: httpx.Client, path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *pieces, last = events(connection.post(path, json={**BODIES[path], "stream": True, "stream_options": options}))
    counts = [event["usage"]["completion_tokens"] for event in pieces]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] > 0
    assert {event["usage"]["prompt_tokens"] for event in pieces} == {last["usage"]["prompt_tokens"]}
    alone = {"continuous_usage_stats": True}
    for event in events(connection.post(path, json={**BODIES[path], "stream": True, "stream_options": alone})):
        assert "usage" not in event
