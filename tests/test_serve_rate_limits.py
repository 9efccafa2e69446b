"""Requests and tokens a minute of API keys: buckets by a clock of the test, and 429 over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import get, post, save_models, served, settings_for
from tailora.commands.key import KeySettings, run
from tailora.core.errors import DataError
from tailora.serve.api_error import ApiError
from tailora.serve.keys import Key, KeyRing, read_keys
from tailora.serve.rate_limits import Bucket, KeyLimits, RateLimits, _duration
from tailora.serve.server import Server


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def key(**limits: Any) -> Key:
    return Key(name="shop", sha256="0" * 64, **limits)


@given(
    per_minute=st.integers(1, 1000),
    moves=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), max_size=30),
)
def test_no_window_of_a_minute_gets_more_than_twice_the_limit(per_minute: int, moves: list[tuple[float, int]]) -> None:
    """A full bucket and what a minute refills; and what a bucket promises for later is there then."""
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    taken: list[tuple[float, int]] = []
    for seconds, amount in moves:
        clock.now += seconds
        wait = bucket.seconds_until(amount)
        if wait == 0:
            bucket.take(amount)
            taken.append((clock.now, amount))
        elif amount <= per_minute:
            clock.now += wait
            assert bucket.seconds_until(amount) == pytest.approx(0, abs=1e-6)
    for start, _ in taken:
        assert sum(amount for at, amount in taken if start <= at < start + 60) <= 2 * per_minute + 1e-6


def test_requests_and_tokens_are_counted_apart() -> None:
    clock = Clock()
    limits = KeyLimits(key(requests_per_minute=2, tokens_per_minute=100), clock)
    limits.begin_request()
    limits.begin_texts(60)
    limits.count_tokens(90)  # a text that has begun is not cut off
    assert limits.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m30s",
    }
    limits.begin_request()
    with pytest.raises(ApiError, match="'shop' may use 2 requests a minute; try again in 30 s") as raised:
        limits.begin_request()
    assert (raised.value.status, raised.value.headers) == (429, {"Retry-After": "30"})
    with pytest.raises(ApiError, match="may use 100 tokens a minute; try again in 36 s"):
        limits.begin_texts(10)
    clock.now += 36
    limits.begin_texts(10)
    with pytest.raises(ApiError, match="the prompts have 101 tokens, and the API key 'shop' may use 100"):
        limits.begin_texts(101)


def test_a_key_without_limits_has_none_and_others_keep_their_state() -> None:
    rates = RateLimits(Clock())
    assert rates.of(None) is rates.of(key()) is None
    first = rates.of(key(requests_per_minute=2))
    assert first is rates.of(key(requests_per_minute=2))  # another object for the same key, as after a reload
    assert first is not rates.of(key(requests_per_minute=3))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.0201, "21ms"), (1.5, "1.5s"), (59.99, "1m0s"), (360, "6m0s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyRing, dict[str, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    limits: dict[str, dict[str, Any]] = {
        "requests": {"requests_per_minute": 3},
        "tokens": {"tokens_per_minute": 20},
        "free": {},
    }
    made = {name: run(KeySettings(name=name, output=path, **more))["key"] for name, more in limits.items()}
    return read_keys(path, {}), made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, keys: tuple[KeyRing, dict[str, str]]) -> Iterator[Server]:
    with served(settings_for(save_models(tmp_path_factory.mktemp("models"))), keys[0]) as made:
        yield made


def ask(server: Server, key: str, path: str = "/v1/completions", **more: Any) -> httpx.Response:
    body = {"model": "one", "prompt": "abcd", "max_tokens": 4, "temperature": 0, "ignore_eos": True, **more}
    return post(server, path, body, headers={"Authorization": f"Bearer {key}"})


def test_a_key_that_sends_too_much_gets_429(server: Server, keys: tuple[KeyRing, dict[str, str]]) -> None:
    made = keys[1]
    answers = [ask(server, made["requests"]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0"]
    assert "x-ratelimit-limit-tokens" not in answers[0].headers
    refused = ask(server, made["requests"], "/tokenize")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key=made["requests"], max_retries=0)
    with pytest.raises(openai.RateLimitError, match="'requests' may use 3 requests a minute"):
        client.completions.create(model="one", prompt="x")
    assert [model.id for model in client.models.list()] == ["base", "one", "two"]  # which costs nothing
    free = ask(server, made["free"])
    assert free.status_code == 200
    assert not any(name.startswith("x-ratelimit") for name in free.headers)
    shown = get(server, "/metrics", headers={"Authorization": f"Bearer {made['free']}"}).text
    assert 'tailora_requests_total{model="",route="other",status="429"}' in shown


def test_tokens_count_as_they_are_written(server: Server, keys: tuple[KeyRing, dict[str, str]]) -> None:
    key = keys[1]["tokens"]
    first = ask(server, key, max_tokens=10, stream=True)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-remaining-tokens"] in ("16", "17")  # a token comes back in three seconds
    second = ask(server, key, prompt="abcdefghij")
    assert second.status_code == 429
    assert "may use 20 tokens a minute; try again in" in second.json()["error"]["message"]
    large = ask(server, key, prompt="x" * 30)
    assert (large.status_code, "retry-after" in large.headers) == (429, False)


def test_limits_of_a_key_file_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"- {{name: x, sha256: '{'0' * 64}', requests_per_minute: 0}}\n", encoding="utf-8")
    with pytest.raises(DataError, match="is not a list of hashed API keys"):
        read_keys(path, {})
