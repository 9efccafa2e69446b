"""Facts are searched for in another thread and for a limited time; no request brings a pattern of its own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_server import get, is_idle, post, save_models, served, settings_for, wait_until
from tailora.data.values import Fact, Record
from tailora.inference.rerank import Search
from tailora.inference.texts import Candidate, generation_from
from tailora.metrics.slot_rules import load_rules
from tailora.metrics.slots import slot_report
from tailora.serve.endpoints import records
from tailora.serve.server import Server

META = {"prompt_form": "paper", "linearization": "paper", "prompt_source": "facts", "end_token_id": 0}
EVIL = ["(a+)+$", "(a|a)*b", "(.*)*x", "([a-z]+)*", "\\", "[", "(?P<n>", "a{1,99999}", "((((("]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = save_models(tmp_path_factory.mktemp("models"), meta=META)
    with served(settings_for(models, timeout=6.0, queue=64)) as made:
        yield made


def seconds(record: Record, text: str) -> float:
    began = time.process_time()
    slot_report(record, text)
    return time.process_time() - began


@pytest.mark.parametrize("value", EVIL)
def test_values_are_searched_as_they_are_written(value: str) -> None:
    record = Record("1", (Fact(None, "name", value), Fact(None, "eatType", value), Fact(None, "other", value)), ())
    assert seconds(record, "a" * 5000 + "!") < 1
    report = slot_report(Record("1", (Fact(None, "other", value),), ()), f"It is {value} here.")
    assert not report.missing


def words() -> list[str]:
    """Words that the bundled patterns are made of, digits and signs."""
    file = Path(records.__file__).parents[2] / "metrics" / "e2e_slots.yaml"
    found = sorted(set(re.findall(r"[a-zé]{2,}", file.read_text("utf-8"))))
    return [*found[:: max(1, len(found) // 60)], "5", "£20", "out", "of", "rated", "not", "family", "friendly", "."]


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.sampled_from(words()), min_size=1, max_size=4), joint=st.sampled_from([" ", "", "-", " , "]))
def test_no_text_makes_the_bundled_patterns_slow(parts: list[str], joint: str) -> None:
    """Texts that repeat the patterns' own words, as backtracking needs them, take a time in proportion to length."""
    record = Record("1", tuple(Fact(None, name, "x") for name in load_rules().groups[0]), ())
    text = joint.join(parts) + joint
    short, long = text * (4000 // len(text)), text * (16000 // len(text))
    seconds(record, short[:100])
    assert seconds(record, long) < max(0.5, 16 * seconds(record, short))


def test_a_search_ends_at_the_text_at_which_nobody_waits_any_longer() -> None:
    texts = [f"text {number}" for number in range(10)]
    candidates = tuple(Candidate((1,), (0.0,), "stop", text=text) for text in texts)
    asked = 0

    def ended() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    search = Search(Record("1", (Fact(None, "name", "x"),), ()), {}, load_rules())
    search.add(generation_from(candidates, 1), ended)
    assert list(search.reports) == texts[:3]


def test_a_slow_search_blocks_nobody_and_ends_with_its_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches that take much longer than the time limit: others are answered, and the thread does not go on."""
    begun: list[float] = []
    plain = slot_report

    def slow(*arguments: Any) -> Any:
        begun.append(time.monotonic())
        time.sleep(1)
        return plain(*arguments)

    monkeypatch.setattr("tailora.inference.rerank.slot_report", slow)
    body = {"model": "one", "facts": {"name": "Blue"}, "n": 32, "temperature": 2, "max_tokens": 8}
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post(server, "/v1/records", body)))
    thread.start()
    wait_until(lambda: begun)
    delays = []
    while thread.is_alive():
        before = time.monotonic()
        assert get(server, "/health").status_code == 200
        assert post(server, "/v1/completions", {"model": "two", "prompt": "name : x", "max_tokens": 1}).is_success
        delays.append(time.monotonic() - before)
    thread.join()
    assert answers[0].status_code == 504
    assert max(delays) < 3
    wait_until(lambda: is_idle(server))
    time.sleep(1.1)
    count = len(begun)
    assert count < 10
    time.sleep(1.1)
    assert len(begun) == count


def test_records_with_as_many_facts_as_fit_leave_others_their_time(server: Server) -> None:
    facts = {f"{number:x}": "a" for number in range(12)}
    body = {"model": "one", "facts": facts, "n": 16, "temperature": 2, "max_tokens": 20}
    threads = [threading.Thread(target=post, args=(server, "/v1/records", body)) for _ in range(3)]
    for thread in threads:
        thread.start()
    delays = []
    while any(thread.is_alive() for thread in threads):
        before = time.monotonic()
        assert get(server, "/health").status_code == 200
        delays.append(time.monotonic() - before)
    assert max(delays, default=0.0) < 3
