"""Two replicas on one machine: the same texts, streamed too, and each adapter's requests kept to one replica."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from live_server import post, save_models, served, settings_for
from tailora.core.errors import SettingsError

ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PORT = 8765
ASK: dict[str, Any] = {"prompt": "abc", "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    from ray import serve

    from tailora.serve.ray import app

    # Ray gives its proxy 5 s to start, which a busy machine does not.
    variables = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", **_cache()}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        variables["PYTHONPATH"] = os.pathsep.join(sys.path)
        ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables})
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    adapters = {name: str(models / name) for name in ("one", "two", "later/three")}
    settings = {
        "base": str(models / "base"),
        "adapters": adapters,
        "precision": "fp32",
        "cache_tokens": 2048,
        "port": 8123,
    }
    serve.run(app({**settings, "replicas": 2, "loaded": 2, "cpus": 0.5}))
    yield f"http://127.0.0.1:{PORT}"
    serve.shutdown()
    ray.shutdown()


def _cache() -> dict[str, str]:
    return {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS") if name in os.environ}


def test_texts_are_those_of_the_server(address: str, models: Path) -> None:
    names = ("base", "one", "two")
    with served(settings_for(models)) as server:
        wanted = [post(server, "/v1/completions", {"model": name, **ASK}).json()["choices"] for name in names]
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["base", "one", "two", "later/three"]
    for model, choices in zip(names, wanted, strict=True):
        made = client.completions.create(model=model, **ASK)
        assert [choice.to_dict() for choice in made.choices] == choices
        streamed = client.completions.create(model=model, stream=True, **ASK)
        assert "".join(chunk.choices[0].text for chunk in streamed) == choices[0]["text"]


STEADY = 5
"""Number of rounds in a row in which an adapter stays where it is; chance would keep three there once in 4,096."""


def settled(address: str, requests: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Send requests in rounds until those of each adapter have stayed with one replica; return the replicas.

    Ray hears of loaded adapters some time after they are loaded, and on a busy machine sends requests elsewhere.
    """
    rounds = deque[dict[str, set[str]]](maxlen=STEADY)
    with httpx.Client(base_url=address, timeout=60) as client:
        for _ in range(40):
            replicas: dict[str, set[str]] = {}
            for name, request in requests:
                answer = client.post("/v1/completions", **request)
                assert answer.status_code == 200, answer.text
                replicas.setdefault(name, set()).add(answer.headers["x-tailora-replica"])
            rounds.append(replicas)
            seen = {name: set.union(*(one[name] for one in rounds)) for name in replicas}
            if len(rounds) == STEADY and all(len(own) == 1 for own in seen.values()):
                return {name: own.pop() for name, own in seen.items()}
    pytest.fail(f"the adapters' requests do not stay with a replica: {list(rounds)}")


def test_an_adapters_requests_go_to_a_replica_that_has_it(address: str) -> None:
    replicas = settled(address, [(name, {"json": {"model": name, **ASK}}) for name in ("one", "two", "later/three")])
    assert len(set(replicas.values())) == 2  # each has room for two


def test_a_compressed_body_reaches_the_replica_of_its_adapter(address: str) -> None:
    body = {"model": "one", **ASK}
    plain = httpx.post(f"{address}/v1/completions", json=body, timeout=60)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    packed = gzip.compress(json.dumps(body).encode())
    answer = httpx.post(f"{address}/v1/completions", content=packed, headers=headers, timeout=60)
    assert answer.json()["choices"] == plain.json()["choices"]
    settled(address, [("one", {"json": body}), ("one", {"content": packed, "headers": headers})])
    bomb = httpx.post(f"{address}/v1/completions", content=gzip.compress(bytes(1 << 22)), headers=headers, timeout=60)
    assert bomb.status_code == 413


def test_mistakes_are_reported(address: str) -> None:
    for path, body, status in (
        ("/v1/completions", {"model": "none", **ASK}, 404),
        ("/v1/completions", {"prompt": "x"}, 400),
        ("/v1/records", {"model": "one", "facts": {}}, 400),
        ("/v1/nowhere", {}, 404),
    ):
        answer = httpx.post(address + path, json=body, timeout=60)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_keys_that_nobody_would_ask_for_are_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailora.serve.ray import app

    settings = {"base": str(models / "base")}
    with pytest.raises(SettingsError, match="every request is accepted"):
        app({**settings, "api_keys": str(models / "keys.yaml")})
    monkeypatch.setenv("TAILORA_API_KEYS", "[]")
    with pytest.raises(SettingsError, match="every request is accepted"):
        app(settings)
