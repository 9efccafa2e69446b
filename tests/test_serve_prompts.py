"""Variables of the base's chat template in requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from live_server import save_models, served, settings_for

MESSAGES = [{"role": "user", "content": "Hi"}]
META = {"prompt_form": "paper", "linearization": "paper", "prompt_source": "facts", "end_token_id": 0}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), meta=META)


@pytest.fixture(scope="module")
def connection(models: Path) -> Iterator[httpx.Client]:
    with served(settings_for(models)) as server, httpx.Client(base_url=server.address, timeout=60) as made:
        yield made


@pytest.mark.parametrize("variables", [None, {}, {"tone": "kind"}, {"unknown": [1, {"a": None}]}])
def test_the_base_gets_the_prompt_of_transformers(models: Path, connection: httpx.Client, variables: Any) -> None:
    body = {"model": "base", "messages": MESSAGES, "chat_template_kwargs": variables}
    ids = connection.post("/tokenize", json=body).json()["tokens"]
    theirs = AutoTokenizer.from_pretrained(models / "base")
    options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    assert ids == theirs.apply_chat_template(MESSAGES, **options, **(variables or {}))
    answer = connection.post(CHAT, json={**body, "max_tokens": 2}).json()
    assert answer["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": "one", "chat_template_kwargs": {"tone": "kind"}}, "chat_template_kwargs", "remove the field"),
        ({"model": "base", "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "the name 'messages'"),
        ({"model": "base", "chat_template_kwargs": [1]}, "chat_template_kwargs", "object"),
    ],
)
def test_variables_that_a_prompt_cannot_have(
    connection: httpx.Client, fields: dict[str, Any], param: str, message: str
) -> None:
    for path in (CHAT, "/tokenize"):
        answer = connection.post(path, json={"messages": MESSAGES, **fields})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
        assert message in answer.json()["error"]["message"]


def test_variables_need_a_conversation(connection: httpx.Client) -> None:
    answer = connection.post("/tokenize", json={"prompt": "Hi", "chat_template_kwargs": {"tone": "kind"}})
    assert answer.status_code == 400
    assert "chat_template_kwargs needs messages" in answer.json()["error"]["message"]
