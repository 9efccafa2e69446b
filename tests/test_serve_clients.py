"""Other people's clients against a server that runs: each in an environment of its own, made by `make clients`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live_server import is_idle, save_tiny, served, settings_for, wait_until
from tailora.serve.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
CLIENTS = Path(os.environ.get("TAILORA_CLIENTS", HERE.parent / ".clients"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models, adapter=(), cache_tokens=4096)) as made:
        yield made
        wait_until(lambda: is_idle(made))


def ask(client: str, *command: str) -> str:
    """What a command in a client's environment prints."""
    folder = CLIENTS / client
    if not folder.is_dir():
        pytest.skip(f"{client} is not installed in {folder}; run `make clients`")
    done = subprocess.run(
        [part.replace("@", str(folder)) for part in command],
        capture_output=True,
        text=True,
        cwd=HERE / "clients",
        env={**os.environ, "PYTHONPATH": "", "OPENAI_API_KEY": "none"},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def ask_json(client: str, script: str, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(client, "@/bin/python", script, *arguments).splitlines()[-1])
    return found


def test_langchain(server: Server) -> None:
    result = ask_json("langchain", "ask_langchain.py", server.address)
    assert result["chat"]
    assert result["streamed"] == result["async"] == result["chat"]
    assert result["batch"] == [result["chat"]] * 2
    assert result["conversation"] != result["chat"]
    assert result["empty_turn"]
    assert result["logprobs"] == result["usage"][0]["output_tokens"] == 8
    assert result["completion_streamed"] == result["completions"][0] == result["best_of"] == result["completion"]
    assert result["metadata"]["model_name"] == "base"
    errors = {method: error["param"] for method, error in result["errors"].items()}
    assert errors == {"function_calling": "tools", "json_mode": "response_format", "json_schema": "response_format"}


def test_litellm(server: Server) -> None:
    result = ask_json("litellm", "ask_litellm.py", server.address)
    assert result["chat"]
    assert result["streamed"] == result["async"] == result["chat"]
    assert result["conversation"] == result["conversation_as_json"] != result["chat"]
    assert result["streamed_usage"] == [result["usage"]]
    assert "response_format: " in result["error"]
    assert result["completion_streamed"] == result["completion"] != ""


def test_the_llm_command(server: Server, tmp_path: Path) -> None:
    result = ask("llm", "sh", "ask_llm.sh", server.address, "@", str(tmp_path / "llm"))
    answers = result.split("@@@")
    assert len(answers) == 4
    assert all(answer.strip() for answer in answers)
    assert len(set(answers)) == 4


def test_lm_eval_computes_what_transformers_does(server: Server, models: Path, tmp_path: Path) -> None:
    result = ask_json("lm-eval", "ask_lm_eval.py", server.address, str(models / "base"), str(tmp_path / "lm-eval"))
    direct = result["direct"]
    for way in ("ids", "texts", "auto"):
        found = result[way]
        assert found["rolling"] == pytest.approx(direct["rolling"], abs=1e-3)
        for row, (ours, wanted) in enumerate(zip(found["choices"], direct["choices"], strict=True)):
            # The name of a special token is text where prompts are sent as text.
            count = 2 if way == "texts" and row == 2 else 3
            assert [each[0] for each in ours[:count]] == pytest.approx([each[0] for each in wanted[:count]], abs=1e-3)
            assert [each[1] for each in ours[:count]] == [each[1] for each in wanted[:count]]
        assert found["written"] == result["ids"]["written"]
    assert all(result["ids"]["written"])
    assert len(result["chat"]) == 3
