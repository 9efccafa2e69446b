"""OpenAI's Responses API by its own client, vLLM's token routes, and unknown fields on a lenient server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

import tailora
from live_server import get, is_idle, post, save_models, served, settings_for, wait_until
from tailora.serve.server import Server

META = {"prompt_form": "paper", "linearization": "paper", "prompt_source": "facts", "end_token_id": 0}
GREEDY: dict[str, Any] = {"temperature": 0, "max_output_tokens": 12}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_models(tmp_path_factory.mktemp("models"))
    save_models(folder / "trained", meta=META)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    adapters = (f"one={models / 'one'}", f"trained={models / 'trained' / 'two'}")
    with served(settings_for(models, adapter=adapters)) as made:
        yield made
        wait_until(lambda: is_idle(made))


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def chat(client: openai.OpenAI, model: str, messages: Any, limit: int = 12) -> str:
    answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=limit)
    return answer.choices[0].message.content or ""


def test_a_response_is_the_answer_of_a_chat(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="one", input="Hi", metadata={"a": "b"}, store=True, **GREEDY)
    question: dict[str, Any] = {"role": "user", "content": "Hi"}
    assert answer.output_text == chat(client, "one", [question])
    assert (answer.object, answer.status, answer.model, answer.metadata) == (
        "response",
        "incomplete",
        "one",
        {"a": "b"},
    )
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 12
    assert answer.usage.total_tokens == answer.usage.input_tokens + 12
    instructed = client.responses.create(model="one", instructions="Be short.", input="Hi", **GREEDY)
    assert instructed.output_text == chat(client, "one", [{"role": "system", "content": "Be short."}, question])
    assert instructed.instructions == "Be short."


def test_a_conversation_continues_with_the_outputs_themselves(client: openai.OpenAI) -> None:
    first = client.responses.create(model="one", input=[{"role": "user", "content": "Hi"}], **GREEDY)
    dumped = [item.to_dict() for item in first.output]
    conversation: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, *dumped]
    conversation += [{"type": "message", "role": "user", "content": "And?"}]
    second = client.responses.create(model="one", input=conversation, **GREEDY)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": first.output_text}]
    assert second.output_text == chat(client, "one", [*messages, {"role": "user", "content": "And?"}])


def test_times_are_whole_seconds(server: Server) -> None:
    """The client's own type is a float; those of other languages are integers."""
    body = {"model": "one", "input": "Hi", "temperature": 0, "max_output_tokens": 8}
    whole = post(server, "/v1/responses", body).json()
    assert isinstance(whole["created_at"], int)
    text = whole["output"][0]["content"][0]["text"]
    stopped = post(server, "/v1/responses", {**body, "stop": text[-1]}).json()
    assert (stopped["status"], type(stopped["completed_at"])) == ("completed", int)


def test_an_adapter_of_records_takes_a_record(client: openai.OpenAI, server: Server) -> None:
    record = {"name": "Blue", "food": "y"}
    answer = client.responses.create(model="trained", input=json.dumps(record), **GREEDY)
    body = {"model": "trained", "facts": record, "max_tokens": 12}
    assert answer.output_text == post(server, "/v1/records", body).json()["data"][0]["text"]
    half = client.responses.create(model="trained", input=json.dumps(record), extra_body={"scale": 0.5}, **GREEDY)
    assert half.output_text == post(server, "/v1/records", {**body, "scale": 0.5}).json()["data"][0]["text"]
    with pytest.raises(openai.BadRequestError, match="trained without system messages"):
        client.responses.create(model="trained", input=json.dumps(record), instructions="Be short.", **GREEDY)


def test_a_stream_has_the_events_of_the_api(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="one", input="Hi", **GREEDY)
    events = list(client.responses.create(model="one", input="Hi", stream=True, **GREEDY))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type.removeprefix("response.") for event in events]
    deltas = types.count("output_text.delta")
    assert deltas > 1
    assert types == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * deltas,
        *("output_text.done", "content_part.done", "output_item.done", "incomplete"),
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 12
    with client.responses.stream(model="one", input="Hi", **GREEDY) as stream:
        assert stream.until_done()
    seeded = {"model": "one", "input": "Hi", "max_output_tokens": 8, "extra_body": {"seed": 3}}
    texts = {client.responses.create(**seeded).output_text for _ in range(2)}  # type: ignore[call-overload]
    assert len(texts) == 1


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"instructions": "Be short.", "metadata": {"job": "1"}, "user": "me", "temperature": 1, "top_p": 0.5},
        {
            "text": {"format": {"type": "text"}},
            "reasoning": {"effort": "low"},
            "truncation": "disabled",
            "store": False,
        },
        {"stop": ["a", "b", "c", "d", "e", " "], "stream_options": {"include_obfuscation": False}},
    ],
    ids=str,
)
def test_answers_and_events_are_valid_as_the_clients_types(server: Server, more: dict[str, Any]) -> None:
    """The client itself reads whatever has the right names."""
    body = {"model": "one", "input": "Hi", "temperature": 0, "max_output_tokens": 8, **more}
    extra = {"store", "system_fingerprint"}  # which other types of the client have
    whole = Response.model_validate(post(server, "/v1/responses", body).json())
    assert set(whole.model_extra or ()) == extra
    blocks = post(server, "/v1/responses", {**body, "stream": True}).text.strip().split("\n\n")
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = adapter.validate_python(json.loads(data.removeprefix("data: ")))
        assert (name, event.sequence_number) == (f"event: {event.type}", number)
        assert not event.model_extra
        if hasattr(event, "response"):
            assert set(event.response.model_extra or ()) == extra
            assert event.response.model_fields_set == whole.model_fields_set


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            {"previous_response_id": "resp_1"},
            "previous_response_id",
            "stores no responses; send the whole conversation",
        ),
        ({"conversation": "conv_1"}, "conversation", "stores no responses"),
        ({"background": True}, "background", "is not supported"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools are not supported"),
        ({"text": {"format": {"type": "json_object"}}}, "text", "only the format {'type': 'text'} is supported"),
        ({"input": []}, "input", "must not be empty"),
        (
            {"input": [{"type": "function_call_output", "output": "x"}]},
            "input",
            "'function_call_output' is not supported",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input",
            "'input_image' is not supported",
        ),
        ({"truncation": "auto"}, "truncation", "must be 'disabled'"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "is not supported"),
        ({"stop": ["x"] * 17}, "stop", "the limit is 16"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "lower max_output_tokens to"),
        ({"input": "word " * 200}, "input", "shorten it"),
        ({"frob": 1}, "frob", "this field does not exist"),
    ],
)
def test_what_the_server_does_not_have_is_refused(server: Server, body: Any, param: str | None, message: str) -> None:
    answer = post(server, "/v1/responses", {"model": "one", "input": "Hi", **body})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert str(error["param"]).partition(".")[0].partition("[")[0] == param


def test_a_stream_that_fails_ends_with_an_error_event(server: Server, client: openai.OpenAI) -> None:
    events = client.responses.create(
        model="one", input="Hi", stream=True, temperature=0, max_output_tokens=60, extra_body={"stop": "\0"}
    )
    iterator = iter(events)
    first = next(iterator)
    assert first.type == "response.created"
    server.service.end_all()
    *_, last = iterator
    assert last.type == "error"
    assert (last.code, "the server stops" in last.message) == ("server_stopped", True)


def test_tokens_are_those_of_the_prompts(server: Server, client: openai.OpenAI) -> None:
    text = "name : Blue | food : y"
    ids = post(server, "/tokenize", {"model": "trained", "prompt": text}).json()
    completion = client.completions.create(model="trained", prompt=text, max_tokens=1)
    assert completion.usage is not None
    assert ids["count"] == len(ids["tokens"]) == completion.usage.prompt_tokens
    assert ids["max_model_len"] == server.service.context
    assert ids["token_strs"] is None
    assert post(server, "/detokenize", {"tokens": ids["tokens"]}).json() == {"prompt": f"{text}<|endoftext|>"}
    plain = post(server, "/tokenize", {"prompt": "é!", "add_special_tokens": False, "return_token_strs": True}).json()
    assert (plain["count"], plain["token_strs"][-1]) == (3, "!")
    messages: Any = [{"role": "user", "content": "Hi"}]
    of_chat = post(server, "/tokenize", {"model": "one", "messages": messages}).json()["count"]
    answer = client.chat.completions.create(model="one", messages=messages, max_tokens=1)
    assert answer.usage is not None
    assert of_chat == answer.usage.prompt_tokens
    assert get(server, "/version").json() == {"version": tailora.__version__}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {}, 400),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400),
        ("/tokenize", {"prompt": "x", "model": "none"}, 404),
        ("/tokenize", {"prompt": "not a record", "model": "trained"}, 400),
        ("/detokenize", {"tokens": [99999]}, 400),
        ("/detokenize", {"tokens": [-1]}, 400),
        ("/detokenize", {"tokens": [0], "model": "none"}, 404),
        ("/detokenize", {}, 400),
    ],
)
def test_tokens_that_cannot_be(server: Server, path: str, body: Any, status: int) -> None:
    answer = post(server, path, body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_lenient_server_names_the_fields_that_it_ignores(models: Path) -> None:
    short: dict[str, Any] = {"model": "one", "max_tokens": 2, "temperature": 0}
    chat_body = {
        **short,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "mood": 1}], "to": 1}],
    }
    with served(settings_for(models, lenient=True)) as server:
        answer = post(server, "/v1/completions", {**short, "prompt": "x", "frob": 1, "b\r\nad: é": 2, "none": None})
        assert answer.status_code == 200
        assert answer.headers["x-ignored-fields"] == "frob, b??ad???"
        answer = post(server, "/v1/chat/completions", chat_body)
        assert (answer.status_code, answer.headers["x-ignored-fields"]) == (200, "mood, to")
        plain = post(server, "/v1/completions", {**short, "prompt": "x"})
        assert "x-ignored-fields" not in plain.headers
        wrong = post(server, "/v1/completions", {**short, "prompt": "x", "frob": 1, "top_p": 7})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "top_p")
        tools = post(server, "/v1/chat/completions", {**chat_body, "tools": [{}]})
        assert (tools.status_code, tools.json()["error"]["param"]) == (400, "tools")
