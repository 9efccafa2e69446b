"""Invalid bodies are reported in plain words, whatever pydantic calls them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tailora.serve import validation
from tailora.serve.schema.adapters import LoadBody, UnloadBody
from tailora.serve.schema.chat import ChatBody
from tailora.serve.schema.completions import CompletionBody
from tailora.serve.schema.records import RecordsBody
from tailora.serve.schema.responses import ResponsesBody
from tailora.serve.schema.tokens import DetokenizeBody, TokenizeBody
from tailora.serve.validation import invalid_body

BODIES: tuple[type[BaseModel], ...] = (
    *(CompletionBody, ChatBody, RecordsBody, ResponsesBody, TokenizeBody, DetokenizeBody, LoadBody, UnloadBody),
)
VALID: dict[type[BaseModel], dict[str, Any]] = {
    CompletionBody: {"model": "m", "prompt": "x"},
    ChatBody: {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    RecordsBody: {"model": "m", "facts": {"name": "Blue"}},
    ResponsesBody: {"model": "m", "input": "x"},
    TokenizeBody: {"prompt": "x"},
    DetokenizeBody: {"tokens": [1]},
    LoadBody: {"lora_name": "a", "lora_path": "b"},
    UnloadBody: {"lora_name": "a"},
}
PYDANTICS = re.compile(
    r"[Ii]nput should|[Ss]hould (be|have)|Value error|Field required|[Ee]xtra inputs|Unable to|valid \w+ type"
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(width=32) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def message(model: type[BaseModel], body: Any) -> str:
    """What the server answers to a body; empty if it is valid."""
    try:
        model.model_validate(body)
    except ValidationError as error:
        details = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        kinds = {each["type"] for each in details}
        known = {*validation._TYPES, *validation._RULES, *validation._LENGTHS, "literal_error", "value_error"}
        assert kinds <= known, kinds - known
        return str(invalid_body(RequestValidationError(details, body=body)))
    return ""


@given(data=st.data())
@pytest.mark.parametrize("model", BODIES)
def test_no_error_is_in_pydantics_words(model: type[BaseModel], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(model.model_fields)))
    said = message(model, {**VALID[model], field: data.draw(JSON)})
    assert not PYDANTICS.search(said), said


CASES: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (CompletionBody, {"prompt": 3}, "prompt: must be text or a list"),
    (CompletionBody, {"temperature": "hot"}, "temperature: must be a number"),
    (CompletionBody, {"temperature": -1}, "temperature: must be at least 0"),
    (CompletionBody, {"repetition_penalty": 0}, "repetition_penalty: must be above 0"),
    (CompletionBody, {"seed": 2**63}, "seed: must be below 9,223,372,036,854,775,808"),
    (CompletionBody, {"temperature": float("nan")}, "temperature: must be a finite number"),
    (RecordsBody, {"facts": {"size": float("nan")}}, "facts.size: must be a finite number"),
    (CompletionBody, {"n": 1.5}, "n: must be a whole number"),
    (CompletionBody, {"n": True}, "n: must be a whole number"),
    (CompletionBody, {"stream": 1}, "stream: must be true or false"),
    (CompletionBody, {"stop": 5}, "stop: must be text or a list"),
    (CompletionBody, {"suffix": "end"}, "suffix: must be empty"),
    (CompletionBody, {"priority": 3}, "priority: must be 0"),
    (CompletionBody, {"stream_options": []}, "stream_options: must be an object"),
    (CompletionBody, {"stop_token_ids": [1] * 65}, "stop_token_ids: must have at most 64 entries"),
    (CompletionBody, {"logit_bias": {"5": "high"}}, "logit_bias.5: must be a number"),
    (ChatBody, {"messages": []}, "messages: must not be empty"),
    (
        ChatBody,
        {"messages": [{"role": "robot", "content": "x"}]},
        "messages[0].role: must be 'system', 'developer', 'user' or 'assistant'",
    ),
    (ChatBody, {"messages": [{"role": "user", "content": 7}]}, "messages[0].content: must be text or a list"),
    (RecordsBody, {"facts": "name"}, "facts: must be an object or a list"),
    (RecordsBody, {"facts": {"a": {"b": 1}}}, "facts.a: must be text, a number, true or false or a list"),
    (
        RecordsBody,
        {"facts": None, "records": [{"facts": {}, "x": 1}]},
        "records[0].x: this field does not exist; remove it",
    ),
    (RecordsBody, {"facts": None, "records": []}, "records: must not be empty"),
    (LoadBody, {"lora_name": ""}, "lora_name: must not be empty"),
    (LoadBody, {"lora_name": "x" * 201}, "lora_name: must have at most 200 characters"),
    (LoadBody, {"path": "x"}, "path: this field does not exist; remove it"),
    (UnloadBody, {"lora_int_id": "1"}, "lora_int_id: must be a whole number"),
]


@pytest.mark.parametrize(("model", "fields", "expected"), CASES)
def test_what_is_wrong_is_said(model: type[BaseModel], fields: dict[str, Any], expected: str) -> None:
    assert message(model, {**VALID[model], **fields}) == expected


def test_several_problems_are_one_error() -> None:
    body = {"prompt": "x", "n": 0, "top_p": 2, "echo": "yes", "frob": 1}
    assert (
        message(CompletionBody, body)
        == "model: is missing; top_p: must be at most 1; n: must be at least 1; and 2 more"
    )


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_that_is_not_an_object(body: Any) -> None:
    expected = "the body is not a JSON object; send one, with `Content-Type: application/json`"
    assert message(CompletionBody, body) == expected
