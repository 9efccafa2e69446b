"""Fields that ask for nothing leave an answer as it is; fields that ask for something missing are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from live_server import is_idle, post, save_models, served, settings_for, wait_until
from tailora.serve.server import Server

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
ASK: dict[str, Any] = {"model": "base", "max_tokens": 5, "temperature": 0}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**ASK, "messages": [USER]},
    "/v1/completions": {**ASK, "prompt": "Hi"},
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

NOTHING: list[dict[str, Any]] = [
    {"response_format": {"type": "text"}},
    {"response_format": None},
    {"tools": []},
    {"tools": None},
    {"tools": [], "tool_choice": "auto"},
    {"tool_choice": "none"},
    {"tool_choice": "auto"},
    {"tool_choice": None},
    {"functions": None},
    {"functions": []},
    {"function_call": "none"},
    {"function_call": "auto"},
    {"function_call": None},
    {"parallel_tool_calls": True},
    {"parallel_tool_calls": False},
    {"modalities": ["text"]},
    {"modalities": None},
    {"audio": None},
    {"web_search_options": None},
    {"moderation": None},
    {"prediction": {"type": "content", "content": "Hello"}},
    {"reasoning_effort": "none"},
    {"reasoning_effort": "low"},
    {"reasoning_effort": None},
    {"verbosity": "medium"},
    {"store": False},
    {"store": True, "metadata": {"job": "1"}},
    {"metadata": {}},
    {"service_tier": "auto"},
    {"user": "me"},
    {"safety_identifier": "hash"},
    {"prompt_cache_key": "mine"},
    {"prompt_cache_retention": "24h"},
    {"prompt_cache_options": {"mode": "implicit"}},
    {"seed": None},
    {"seed": 7},
    {"n": None},
    {"n": 1},
    {"stop": None},
    {"stop": []},
    {"top_p": None},
    {"top_p": 1},
    {"top_p": 0},
    {"logprobs": None},
    {"logprobs": False},
    {"stream": None},
    {"stream": False},
    {"stream_options": None},
    {"stream_options": {}},
    {"stream_options": {"include_usage": None}},
    {"stream_options": {"include_usage": False, "continuous_usage_stats": False}},
    {"presence_penalty": 0, "frequency_penalty": 0.0},
    {"presence_penalty": None, "frequency_penalty": None},
    {"logit_bias": {}},
    {"logit_bias": None},
    {"top_k": -1, "min_p": 0, "repetition_penalty": 1.0, "length_penalty": 1.0},
    {"use_beam_search": False, "ignore_eos": False, "stop_token_ids": []},
    {"use_beam_search": None, "ignore_eos": None, "stop_token_ids": None, "top_k": None, "min_p": None},
    {"skip_special_tokens": True, "spaces_between_special_tokens": True, "include_stop_str_in_output": False},
    {"min_tokens": 0, "priority": 0, "return_token_ids": False, "return_tokens_as_token_ids": False},
    {"echo": False, "best_of": 1},
    {"a_field_of_next_year": None},
    {"another_one": []},
]
ONLY: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"max_completion_tokens": None},
        {"max_tokens": None, "max_completion_tokens": 5},
        {"top_logprobs": None},
        {"logprobs": False, "top_logprobs": 0},
        {"add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": {}},
        {"add_special_tokens": False, "include_reasoning": True},
    ],
    "/v1/completions": [
        {"suffix": None},
        {"suffix": ""},
        {"best_of": None},
        {"echo": None},
        {"add_special_tokens": True},
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(settings_for(save_models(tmp_path_factory.mktemp("models")))) as made:
        yield made
        wait_until(lambda: is_idle(made))


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


def choices(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


@pytest.mark.parametrize("route", ROUTES)
def test_fields_that_ask_for_nothing_change_nothing(connection: httpx.Client, route: str) -> None:
    plain = choices(connection.post(route, json=ROUTES[route]))
    for fields in (*NOTHING, *ONLY[route]):
        assert choices(connection.post(route, json={**ROUTES[route], **fields})) == plain, fields


ASKS: list[tuple[dict[str, Any], str]] = [
    ({"tools": [TOOL]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"moderation": {"model": "omni"}}, "moderation"),
    ({"min_tokens": 3}, "min_tokens"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
    ({"n": 0}, "n"),
    ({"top_p": -0.1}, "top_p"),
    ({"model": None}, "model"),
    ({"a_field_of_next_year": False}, "a_field_of_next_year"),
    ({"a_field_of_next_year": ""}, "a_field_of_next_year"),
]


@pytest.mark.parametrize("route", ROUTES)
def test_fields_that_ask_for_something_missing_are_refused(connection: httpx.Client, route: str) -> None:
    for fields, field in ASKS:
        answer = connection.post(route, json={**ROUTES[route], **fields})
        assert answer.status_code == 400, fields
        error = answer.json()["error"]
        assert (error["param"], error["type"]) == (field, "invalid_request_error"), fields
        assert error["message"].startswith(f"{field}: "), error
        assert len(error["message"]) < 160, error  # one problem is reported once


def test_every_parameter_of_openais_client_is_known_or_refused(connection: httpx.Client) -> None:
    """Null for all that the installed client can send is taken, whatever it is called."""
    for route, declared in (
        ("/v1/chat/completions", chat_create_params.CompletionCreateParamsNonStreaming),
        ("/v1/completions", completion_create_params.CompletionCreateParamsNonStreaming),
    ):
        plain = choices(connection.post(route, json=ROUTES[route]))
        nulls = dict.fromkeys(declared.__annotations__)
        assert len(nulls) > 15
        assert choices(connection.post(route, json={**nulls, **ROUTES[route]})) == plain


def test_a_top_p_of_0_is_greedy(connection: httpx.Client) -> None:
    for route, body in ROUTES.items():
        plain = choices(connection.post(route, json=body))
        for more in ({"temperature": 1}, {"temperature": 2, "seed": 3}, {"temperature": None}):
            assert choices(connection.post(route, json={**body, **more, "top_p": 0})) == plain
        several = choices(connection.post(route, json={**body, "temperature": 1, "top_p": 0, "n": 3}))
        assert [{**choice, "index": 0} for choice in several] == plain * 3
    records = {"model": "one", "facts": {"name": "Blue"}, "max_tokens": 5}
    drawn = connection.post("/v1/records", json={**records, "temperature": 1, "top_p": 0, "n": 2}).json()["data"]
    assert drawn[0]["text"] == connection.post("/v1/records", json=records).json()["data"][0]["text"]


ASSISTANT: list[dict[str, Any]] = [
    {"role": "assistant", "content": "Hello.", "refusal": None},
    {"role": "assistant", "content": "Hello.", "tool_calls": None, "function_call": None, "audio": None},
    {"role": "assistant", "content": "Hello.", "tool_calls": [], "annotations": []},
    {"role": "assistant", "content": "Hello.", "annotations": None, "name": None},
    {"role": "assistant", "content": "Hello.", "type": "text"},
    {"role": "assistant", "content": "Hello.", "type": "message", "id": "msg_1", "status": "completed"},
    {"role": "assistant", "content": "Hello.", "name": "bot"},
    {"role": "assistant", "content": "Hello.", "phase": "final_answer"},
    {"role": "assistant", "content": "Hello.", "reasoning_content": None, "provider_specific_fields": None},
    {"role": "assistant", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Hello.", "annotations": []}]},
    {"role": "assistant", "content": ["Hello."]},
    {"role": "assistant", "content": [{"type": "text", "text": "Hello.", "cache_control": {"type": "ephemeral"}}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "Hello."}]},
    {"role": "assistant", "content": None, "refusal": "Hello."},
    {"role": "assistant", "content": "Hello.", "function_call": {}, "audio": {}, "provider_specific_fields": {}},
    {"role": "assistant", "content": "Hello.", "tool_call_id": "", "reasoning_content": ""},
    {"role": "assistant", "content": "Hello.", "reasoning_content": "A greeting.", "reasoning": "A greeting."},
]
EMPTY: list[dict[str, Any]] = [
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": None, "tool_calls": [], "refusal": None},
    {"role": "assistant", "content": []},
    {"role": "assistant"},
]


def test_an_assistants_turn_comes_in_many_forms(connection: httpx.Client) -> None:
    def answer_after(turn: dict[str, Any]) -> Any:
        body = {**ASK, "messages": [USER, turn, {"role": "user", "content": "And again?"}]}
        answer = connection.post("/v1/chat/completions", json=body)
        return choices(answer), answer.json()["usage"]["prompt_tokens"]

    for forms, text in ((ASSISTANT, "Hello."), (EMPTY, "")):
        plain = answer_after({"role": "assistant", "content": text})
        for form in forms:
            assert answer_after(form) == plain, form


def test_other_turns_come_in_many_forms(connection: httpx.Client) -> None:
    def answer_to(*messages: dict[str, Any]) -> Any:
        return choices(connection.post("/v1/chat/completions", json={**ASK, "messages": messages}))

    plain = answer_to(USER)
    for more in ({"type": "text"}, {"type": "message"}, {"name": "me"}, {"name": None}, {"tool_calls": None}):
        assert answer_to({**USER, **more}) == plain
    for content in ([{"type": "text", "text": "Hi"}], [{"type": "input_text", "text": "Hi"}], ["H", "i"]):
        assert answer_to({"role": "user", "content": content}) == plain
    system = answer_to({"role": "system", "content": "be brief"}, USER)
    assert answer_to({"role": "developer", "content": "be brief"}, USER) == system != plain


def test_turns_that_need_something_missing_are_refused(connection: httpx.Client) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    for turn, field, result in (
        ({"role": "user", "content": None}, "content", "is missing"),
        ({"role": "user"}, "content", "is missing"),
        ({"role": "system", "content": None}, "content", "is missing"),
        ({"role": "tool", "content": "1", "tool_call_id": "c1"}, "role", "'assistant'"),
        ({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls", "tool calls are not supported"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio", "does not exist"),
        ({"role": "user", "content": [image]}, "content", "'image_url' is not supported; send text"),
        ({"role": "user", "content": "x", "type": "image"}, "type", "'text' or 'message'"),
        ({"role": "user", "content": [{"text": "x"}]}, "content[0].type", "is missing"),
        ({"role": "assistant", "content": [{"type": "text", "text": None}]}, "content[0].text", "is missing"),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, "content[0].refusal", "is missing"),
    ):
        answer = connection.post("/v1/chat/completions", json={**ASK, "messages": [USER, turn]})
        assert answer.status_code == 400, turn
        error = answer.json()["error"]
        assert error["param"] == f"messages[1].{field}", error
        assert result in error["message"]
        assert not field.startswith("content[") or ";" not in error["message"], "one problem"


def test_a_conversation_goes_on_with_the_clients_own_message(server: Server) -> None:
    messages: list[Any] = [USER]
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        for _ in range(2):
            answer = client.chat.completions.create(model="base", messages=messages, max_tokens=5, seed=1)
            messages += [answer.choices[0].message, {"role": "user", "content": "And again?"}]
        by_text: list[Any] = [
            each if isinstance(each, dict) else {"role": each.role, "content": each.content} for each in messages[:-2]
        ]
        again = client.chat.completions.create(model="base", messages=by_text, max_tokens=5, seed=1)
    assert again.choices[0].message.content == messages[-2].content


def test_records_take_null_for_absent(server: Server) -> None:
    body = {"model": "one", "facts": {"name": "Blue"}, "records": None, "max_tokens": 3, "beams": None, "stop": None}
    assert post(server, "/v1/records", body).status_code == 200


def test_records_stop_at_one_string_as_at_a_list(server: Server) -> None:
    def texts(stop: object) -> list[tuple[str, str]]:
        body = {"model": "one", "facts": {"name": "Blue"}, "max_tokens": 8, "stop": stop}
        return [(item["text"], item["finish_reason"]) for item in post(server, "/v1/records", body).json()["data"]]

    whole = texts([])[0][0]
    assert texts(whole[2]) == texts([whole[2]]) == [(whole[: whole.index(whole[2])].rstrip(), "stop")]
    assert post(server, "/v1/records", {"model": "one", "facts": {"name": "B"}, "stop": ""}).status_code == 400
    item = {"facts": {"name": "Blue"}, "text": "", "texts": []}
    assert post(server, "/v1/records", {"model": "one", "records": [item], "max_tokens": 2}).status_code == 200
