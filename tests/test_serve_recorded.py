"""Requests recorded from clients (`tests/clients`), sent again: each gets the status that it got then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_server import is_idle, save_tiny, served, settings_for, wait_until
from tailora.serve.server import Server

RECORDED = Path(__file__).parent / "data" / "client_requests.jsonl"
REQUESTS: list[dict[str, Any]] = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = save_tiny(tmp_path_factory.mktemp("models"))
    with served(settings_for(models, adapter=(), cache_tokens=4096)) as made:
        yield made
        wait_until(lambda: is_idle(made))


def test_recorded_requests_are_answered(server: Server) -> None:
    assert {request["client"].split()[0] for request in REQUESTS} == {
        "langchain-openai",
        "litellm",
        "llm",
        "lm-eval",
        "openai",
    }
    with httpx.Client(base_url=server.address, timeout=60) as connection:
        for request in REQUESTS:
            answer = connection.post(request["path"], json=request["body"])
            assert answer.status_code == request["status"], (request, answer.text)
            if request["status"] == 400:
                assert answer.json()["error"]["param"] in ("response_format", "tools")
            elif request["body"].get("stream"):
                assert answer.text.endswith("data: [DONE]\n\n")
                assert ('"usage": {' in answer.text) == bool(request["body"].get("stream_options"))
            elif request["body"].get("echo"):
                check_scores(request["body"], answer.json())


def check_scores(body: dict[str, Any], answer: dict[str, Any]) -> None:
    """One entry for each token of the prompt and of the text, as lm-eval-harness needs them."""
    counts = [len(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"]]
    assert sum(counts) == answer["usage"]["prompt_tokens"] + len(counts)
    if isinstance(body["prompt"][0], list):
        assert counts == [len(prompt) + 1 for prompt in body["prompt"]]
