"""Health, numbers, limits, clients that leave, the page's files, and the end of a server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_server import Slow, get, is_idle, post, save_models, served, settings_for, wait_until
from tailora.core.errors import SettingsError
from tailora.serve.server import Server

LONG: dict[str, Any] = {"model": "one", "prompt": "abc", "max_tokens": 80, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    settings = settings_for(models, queue=4, max_body=4096, cors=("https://example.org",))
    with served(settings) as made:
        yield made
        wait_until(lambda: is_idle(made))


def samples(server: Server) -> dict[str, float]:
    lines = get(server, "/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_requests_are_counted(server: Server) -> None:
    before = samples(server)
    body = {"model": "two", "prompt": "abcd", "max_tokens": 7, "temperature": 0, "ignore_eos": True}
    assert post(server, "/v1/completions", body).status_code == 200
    assert post(server, "/v1/completions", {"model": "none", "prompt": "x"}).status_code == 404
    after = samples(server)

    def more(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert more('tailora_requests_total{model="two",route="/v1/completions",status="200"}') == 1
    assert more('tailora_requests_total{model="",route="/v1/completions",status="404"}') == 1
    assert more('tailora_tokens_total{kind="prompt",model="two"}') == 4
    assert more('tailora_tokens_total{kind="completion",model="two"}') == 7
    assert more("tailora_engine_tokens_total") == 7
    assert more('tailora_first_token_seconds_count{model="two"}') == 1
    assert more('tailora_token_seconds_count{model="two"}') == 1
    assert after["tailora_kv_blocks"] == 64
    assert after["tailora_running_sequences"] == after["tailora_waiting_requests"] == 0


def test_the_status_shows_the_last_requests(server: Server) -> None:
    answer = post(server, "/v1/completions", {**LONG, "max_tokens": 3}, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    result = get(server, "/v1/status").json()
    assert result["sequences"] == 32
    latest = result["recent"][0]
    assert latest["id"] == "mine-1"
    assert (latest["model"], latest["status"], latest["completion_tokens"]) == ("one", 200, 3)


def test_a_log_line_holds_no_text_unless_asked(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    for log_texts in (False, True):
        caplog.clear()
        with served(settings_for(models, log_texts=log_texts)) as server, caplog.at_level("INFO", "tailora.serve"):
            post(server, "/v1/records", {"model": "one", "facts": {"name": "Very Secret"}, "max_tokens": 2})
            post(server, "/v1/completions", {"model": "one", "prompt": "Very Secret", "max_tokens": 2})
            post(
                server,
                "/v1/chat/completions",
                {"model": "one", "messages": [{"role": "user", "content": "Very Secret"}], "max_tokens": 2},
            )
            wait_until(lambda: sum(hasattr(record, "fields") for record in caplog.records) == 3)
            wait_until(lambda: sum(hasattr(record, "fields") for record in caplog.records) == 3)  # after the answers
        result = [record.fields for record in caplog.records if hasattr(record, "fields")]
        assert ["Very Secret" in json.dumps(each) for each in result] == [log_texts] * 3


def address_of(server: Server) -> tuple[str, int]:
    """Its host and port."""
    host, port = server.address.removeprefix("http://").split(":")
    return host, int(port)


def test_a_client_that_leaves_frees_its_blocks(server: Server) -> None:
    with Slow(server, 0.2):
        for stream in (True, False):
            with socket.create_connection(address_of(server)) as connection:
                body = json.dumps({**LONG, "stream": stream}).encode()
                head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                wait_until(lambda: server.service.worker.stats.load.running == 1)
            written = server.service.worker.stats.tokens
            wait_until(lambda: is_idle(server))
            assert server.service.worker.stats.tokens - written < LONG["max_tokens"]


def test_a_full_queue_answers_429(server: Server) -> None:
    with Slow(server, 0.05):
        threads = [threading.Thread(target=post, args=(server, "/v1/completions", LONG)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.service.open_texts == 4)
        answer = post(server, "/v1/completions", LONG)
    for thread in threads:
        thread.join()
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert post(server, "/v1/completions", LONG).status_code == 200
    assert post(server, "/v1/completions", {**LONG, "n": 5, "temperature": 1}).status_code == 400


def test_a_body_too_large_is_refused(server: Server) -> None:
    answer = post(server, "/v1/completions", {**LONG, "prompt": "x" * 5000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    chunked = httpx.post(f"{server.address}/v1/completions", content=(b"x" * 1000 for _ in range(5)))
    assert chunked.status_code == 413


def test_a_slash_at_the_end_of_a_route_changes_nothing(server: Server) -> None:
    assert get(server, "/v1/models/").json() == get(server, "/v1/models").json()
    assert get(server, "/v1/models/one/").json() == get(server, "/v1/models/one").json()
    short = {"model": "one", "max_tokens": 2, "temperature": 0}
    bodies = {
        "/v1/completions": {**short, "prompt": "abc"},
        "/v1/chat/completions": {**short, "messages": [{"role": "user", "content": "abc"}]},
        "/v1/records": {**short, "facts": {"name": "x"}},
    }
    for path, body in bodies.items():
        assert post(server, path + "/", body).status_code == 200


def test_head_is_get_without_the_body(server: Server) -> None:
    for path in ("/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/one", "/v1/status", "/page/app.js"):
        answer = httpx.head(server.address + path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == get(server, path).headers["content-type"]
    assert httpx.head(f"{server.address}/v1/completions").status_code == 405


def test_a_chat_without_a_limit_runs_in_the_room_of_the_cache(models: Path) -> None:
    """The cache holds less than the context, as with bases of long contexts."""
    chat: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
    with served(settings_for(models, cache_tokens=64)) as server:
        assert server.service.context > 64
        whole = post(server, "/v1/chat/completions", chat).json()
        assert (whole["usage"]["total_tokens"], whole["choices"][0]["finish_reason"]) == (64, "length")
        several = post(server, "/v1/chat/completions", {**chat, "n": 3}).json()["usage"]
        assert several["completion_tokens"] == 3 * whole["usage"]["completion_tokens"]
        beams = post(server, "/v1/chat/completions", {**chat, "ignore_eos": False, "n": 2, "use_beam_search": True})
        assert beams.status_code == 200, beams.text
        more = post(server, "/v1/chat/completions", {**chat, "max_tokens": 64})
        assert (more.status_code, more.json()["error"]["param"]) == (400, "max_tokens")


class Stuck:
    """Makes the engine stand still in its next step."""

    def __init__(self, server: Server) -> None:
        self._backend, self._go_on = server.service.running.engine.backend, threading.Event()

    def __enter__(self) -> None:
        plain = type(self._backend).run

        def run(step: Any) -> Any:
            self._go_on.wait()
            return plain(self._backend, step)

        self._backend.run = run  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        del self._backend.run


def test_a_request_takes_no_longer_than_it_may(models: Path) -> None:
    """Whether it is written, or waits for an engine that stands still: a limit is reached by what does not go on."""
    with served(settings_for(models, timeout=0.5)) as server:
        with Stuck(server):
            for _ in range(2):  # the first is in the step that stands still, the second cannot even be queued
                answer = post(server, "/v1/completions", LONG)
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
                streamed = post(server, "/v1/completions", {**LONG, "stream": True})
                assert "timeout" in streamed.text
        wait_until(lambda: is_idle(server))
    with served(settings_for(models, timeout=60)) as server:
        assert post(server, "/v1/completions", {**LONG, "max_tokens": 1}).status_code == 200


def test_loading_an_adapter_takes_no_longer_than_it_may(models: Path) -> None:
    body = {"lora_name": "three", "lora_path": "three"}
    with served(settings_for(models, timeout=2.0, adapter_folder=models / "later")) as server:
        with Stuck(server):
            assert post(server, "/v1/completions", LONG).status_code == 504
            for _ in range(2):
                answer = post(server, "/v1/load_lora_adapter", body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
            assert post(server, "/v1/unload_lora_adapter", {"lora_name": "three"}).status_code == 404
        wait_until(lambda: is_idle(server))
        assert post(server, "/v1/load_lora_adapter", body).status_code == 200
        assert server.service.worker.call(lambda engine: len(engine.backend.adapter_slots.names)) == 3


def test_a_stalled_engine_is_reported_by_the_health_route(
    models: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured from the engine's last work or the first request after it, however rarely somebody asks."""
    service, now = server.service, time.monotonic()
    assert not service.stalled
    asked: list[Any] = []
    with Stuck(server):
        thread = threading.Thread(target=lambda: asked.append(post(server, "/v1/completions", LONG)))
        thread.start()
        wait_until(lambda: service.worker.stats.load.waiting + service.worker.stats.load.running or service.open_texts)
        assert not service.stalled
        with monkeypatch.context() as patched:
            patched.setattr("tailora.serve.service.time.monotonic", lambda: now + 3600)
            assert service.stalled
        assert get(server, "/health").status_code == 200
    thread.join()
    assert asked[0].status_code == 200
    with monkeypatch.context() as patched:
        patched.setattr("tailora.serve.service.time.monotonic", lambda: now + 3600)
        service.open_texts += 1  # a first request after an hour, which the last progress says nothing of
        service._busy_since = now + 3599
        assert not service.stalled
        service.open_texts -= 1


def test_a_server_ends_soon_after_its_deadline(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its clients do: read, do not read, have not sent all of a request, or wait for a whole answer."""
    body = json.dumps({**LONG, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    request = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    with served(settings_for(models, drain=4.0)) as server, caplog.at_level("WARNING"):
        place = address_of(server)
        with Slow(server, 1.0), socket.create_connection(place) as deaf, socket.create_connection(place) as halfway:
            deaf.sendall(request)
            halfway.sendall(request[:-5])
            answers: list[httpx.Response] = []
            asked = ({**LONG, "stream": True}, LONG)
            threads = [
                threading.Thread(target=lambda body=body: answers.append(post(server, "/v1/completions", body)))
                for body in asked
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda: server.service.worker.stats.load.running == 3)
            began = time.monotonic()
            server.handle_exit(signal.SIGTERM, None)
            wait_until(lambda: not server.servers or server.should_exit)
            for thread in threads:
                thread.join()
            wait_until(lambda: not server.server_state.tasks and not server.server_state.connections)
            assert time.monotonic() - began < 7  # two seconds are promised; a second wait of --drain would be 8
    codes = {each.status_code for each in answers}
    assert codes == {200, 503}
    assert all("server_stopped" in each.text for each in answers)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_failing_engine_is_reported_and_continues(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = server.service.running.engine.backend

    def broken(step: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(backend, "run", broken)
        answer = post(server, "/v1/completions", LONG)
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert post(server, "/v1/completions", {**LONG, "max_tokens": 2}).status_code == 200


def test_pages_of_other_origins_are_let_in_by_name(server: Server) -> None:
    for origin, allowed in (("https://example.org", "https://example.org"), ("https://evil.example", None)):
        answer = get(server, "/v1/models", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed
        asked = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count,openai-project"
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
        preflight = httpx.options(f"{server.address}/v1/chat/completions", headers=headers)
        assert preflight.headers.get("access-control-allow-origin") == allowed
        assert (preflight.status_code == 200) == (allowed is not None)


def test_the_pages_files_come_with_their_policy(server: Server) -> None:
    page = get(server, "/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("app.js", "style.css"):
        assert get(server, f"/page/{name}").status_code == 200
        assert name in page.text
    assert get(server, "/page/../run.py").status_code == 404
    assert get(server, "/page/%2e%2e/run.py").status_code == 404


def test_a_draining_server_ends_what_it_began_and_takes_nothing_new(models: Path) -> None:
    with served(settings_for(models)) as server:
        found: list[httpx.Response] = []
        with Slow(server, 0.02):
            thread = threading.Thread(target=lambda: found.append(post(server, "/v1/completions", LONG)))
            thread.start()
            wait_until(lambda: server.service.worker.stats.load.running == 1)
            server.handle_exit(signal.SIGTERM, None)
            assert get(server, "/ready").status_code == 503
            assert get(server, "/health").status_code == 200
            refused = post(server, "/v1/completions", LONG)
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            thread.join()
        wait_until(lambda: server.should_exit)
    assert found[0].json()["choices"][0]["finish_reason"] == "length"


def test_a_port_in_use_is_reported_before_anything_is_loaded(server: Server, models: Path) -> None:
    port = int(server.address.rpartition(":")[2])
    with (
        pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"),
        served(settings_for(models, port=port)),
    ):
        pass


def start_process(models: Path, *flags: str, code: str = "") -> tuple[subprocess.Popen[str], str]:
    code += (
        "import sys, atexit; from tailora.cli import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, flush=True))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["serve", "--base", str(models / "base"), "--adapter", f"one={models / 'one'}", "--port", "0", *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    result = process.stderr.readline()
    assert " at http://127.0.0.1:" in result, result + process.stderr.read()
    return process, result.split(" at ")[1].split(" ")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_process_ends_in_order_and_survives_a_kill(models: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()}
    process, address = start_process(models)
    with httpx.stream("POST", f"{address}/v1/completions", json={**LONG, "stream": True}) as answer:
        next(answer.iter_lines())
        process.kill()
    process.communicate()
    process, address = start_process(models)
    assert httpx.post(f"{address}/v1/completions", json={**LONG, "max_tokens": 3}).status_code == 200
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out == "False\n"  # no torch
    assert json.loads(err.splitlines()[-1])["status"] == 200
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("streamed", [True, False])
def test_a_text_that_the_server_ends_is_logged_with_the_reason(
    models: Path, caplog: pytest.LogCaptureFixture, streamed: bool
) -> None:
    """A stream has begun with status 200; how it ended is what the log and the metrics report."""
    with served(settings_for(models, drain=0.0)) as server, caplog.at_level("INFO", "tailora.serve"):
        responses: list[httpx.Response] = []
        with Slow(server, 0.2):
            body = {**LONG, "stream": streamed}
            thread = threading.Thread(target=lambda: responses.append(post(server, "/v1/completions", body)))
            thread.start()
            wait_until(lambda: server.service.worker.stats.load.running == 1)
            server.handle_exit(signal.SIGTERM, None)
            thread.join()
        wait_until(lambda: any(hasattr(record, "fields") for record in caplog.records))
        assert responses[0].status_code == (200 if streamed else 503)
        (fields,) = [record.fields for record in caplog.records if hasattr(record, "fields")]
        assert (fields["status"], fields["error"]) == (503, "server_stopped")


def test_a_stream_that_takes_too_long_is_logged_with_the_reason(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(settings_for(models, timeout=0.5)) as server, caplog.at_level("INFO", "tailora.serve"):
        with Slow(server, 0.2):
            assert "timeout" in post(server, "/v1/completions", {**LONG, "stream": True}).text
        wait_until(lambda: any(hasattr(record, "fields") for record in caplog.records))
        (fields,) = [record.fields for record in caplog.records if hasattr(record, "fields")]
        assert (fields["status"], fields["error"]) == (504, "timeout")
        assert samples(server)['tailora_requests_total{model="one",route="/v1/completions",status="504"}'] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_sigterm_ends_a_process_with_a_long_stream_after_its_drain_time(models: Path) -> None:
    """The text would take 40 s; 1 s of drain and the promised 2 s leave room for a slow machine below the bound."""
    slow = (
        "import time; from tailora.engine.backends.openvino import OpenVinoBackend as B; run = B.run\n"
        "B.run = lambda self, step: (time.sleep(0.5), run(self, step))[1]\n"
    )
    process, address = start_process(models, "--drain", "1", "--precision", "fp32", code=slow)
    try:
        with httpx.stream("POST", f"{address}/v1/completions", json={**LONG, "stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            rest = "".join(lines)
        _, err = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "server_stopped" in rest
    assert seconds < 20
    last = json.loads(err.splitlines()[-1])
    assert (last["status"], last["error"], last["route"]) == (503, "server_stopped", "/v1/completions")


def test_texts_of_one_prompt_compute_it_once(server: Server) -> None:
    backend = server.service.running.engine.backend
    plain, steps = backend.run, list[int]()
    backend.run = lambda step: steps.append(len(step.tokens)) or plain(step)  # type: ignore[method-assign,func-returns-value]
    try:
        body = {"model": "two", "max_tokens": 3, "ignore_eos": True, "seed": 1}
        several = post(server, "/v1/completions", {**body, "prompt": "several texts of a single prompt", "n": 4})
        of_n = sum(steps)
        same = "one prompt in several requests, of one step"
        together = post(server, "/v1/completions", {**body, "prompt": [same] * 3})
    finally:
        del backend.run
    assert several.json()["usage"]["completion_tokens"] == 12
    assert of_n == 32 + 3 + 4 * 2  # the last token of the prompt again for the other three texts, and what was written
    assert together.json()["usage"]["prompt_tokens"] == 3 * len(same)
    assert sum(steps) - of_n == len(same) + 2 + 3 * 2


def test_the_dashboard_uses_metrics_that_exist(server: Server) -> None:
    """Every metric and label of docs/assets/grafana-dashboard.json is in /metrics, and every metric is shown."""
    assert post(server, "/v1/completions", {**LONG, "max_tokens": 3}).status_code == 200
    dashboard = json.loads((Path(__file__).parents[1] / "docs/assets/grafana-dashboard.json").read_text("utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    exposed: dict[str, set[str]] = {}
    wait_until(lambda: any(name.startswith("tailora_token_seconds_bucket") for name in samples(server)))
    for sample in samples(server):
        name, _, labels = sample.partition("{")
        exposed.setdefault(name, {"instance"}).update(re.findall(r'(\w+)="', labels))  # instance is Prometheus' own
    for query in queries:
        names = set(re.findall(r"tailora_\w+", query))
        assert names, query
        assert names <= exposed.keys(), query
        named = [*re.findall(r"(\w+)=~?\"", query), *re.findall(r"by \(([\w, ]+)\)", query)]
        used = {label.strip() for group in named for label in group.split(",")}
        assert used <= set().union(*(exposed[name] for name in names)), query
    shown = {name for query in queries for name in re.findall(r"tailora_\w+", query)}
    parts = ("_sum", "_count", "_created")
    assert {name for name in exposed if name.startswith("tailora_") and not name.endswith(parts)} == shown
