"""Health, numbers, limits, clients that leave, the page's files, and the end of a server."""

from __future__ import annotations

import json
import os
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

from serving import get, is_idle, post, save_models, served, settings_for, wait_until
from tailora.errors import SettingsError
from tailora.serve.server import Server

LONG = {"model": "one", "prompt": "abc", "max_tokens": 80, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    settings = settings_for(models, queue=4, max_body=4096, cors=("https://example.org",))
    with served(settings) as made:
        yield made
        wait_until(lambda: is_idle(made))


class Slow:
    """Makes the engine's steps take some time."""

    def __init__(self, server: Server, seconds: float) -> None:
        self._backend, self._seconds = server.service.running.engine.backend, seconds

    def __enter__(self) -> None:
        plain = type(self._backend).run

        def run(step: Any) -> Any:
            time.sleep(self._seconds)
            return plain(self._backend, step)  # type: ignore[arg-type]

        self._backend.run = run  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        del self._backend.run


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
    told = get(server, "/v1/status").json()
    assert told["sequences"] == 32
    latest = told["recent"][0]
    assert latest["id"] == "mine-1"
    assert (latest["model"], latest["status"], latest["completion_tokens"]) == ("one", 200, 3)


def test_a_log_line_tells_no_text_unless_asked(models: Path, caplog: pytest.LogCaptureFixture) -> None:
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
            wait_until(lambda: sum(hasattr(record, "told") for record in caplog.records) == 3)
        told = [record.told for record in caplog.records if hasattr(record, "told")]
        assert len(told) == 3
        assert ["Very Secret" in json.dumps(each) for each in told] == [log_texts] * 3


def test_a_client_that_leaves_frees_its_blocks(server: Server) -> None:
    with Slow(server, 0.05):
        for stream in (True, False):
            with socket.create_connection(server.address.removeprefix("http://").split(":")) as connection:
                body = json.dumps({**LONG, "stream": stream}).encode()
                head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                wait_until(lambda: server.service.worker.doing.load.running == 1)
            left = time.monotonic()
            wait_until(lambda: is_idle(server))
            assert time.monotonic() - left < 2  # 80 steps would take twice that


def test_a_full_queue_answers_429(server: Server) -> None:
    with Slow(server, 0.05):
        threads = [threading.Thread(target=post, args=(server, "/v1/completions", LONG)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.service.asked == 4)
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


def test_a_request_takes_no_longer_than_it_may(models: Path) -> None:
    with served(settings_for(models, timeout=0.3)) as server:
        with Slow(server, 0.05):
            answer = post(server, "/v1/completions", LONG)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
            with httpx.stream("POST", f"{server.address}/v1/completions", json={**LONG, "stream": True}) as streamed:
                assert '"code": "timeout"' in streamed.read().decode()
            wait_until(lambda: is_idle(server))
        assert post(server, "/v1/completions", {**LONG, "max_tokens": 1}).status_code == 200


def test_a_failing_engine_is_told_and_goes_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
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
            wait_until(lambda: server.service.worker.doing.load.running == 1)
            server.handle_exit(signal.SIGTERM, None)
            assert get(server, "/ready").status_code == 503
            assert get(server, "/health").status_code == 200
            refused = post(server, "/v1/completions", LONG)
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            thread.join()
        wait_until(lambda: server.should_exit)
    assert found[0].json()["choices"][0]["finish_reason"] == "length"


def test_a_port_in_use_is_told_before_anything_is_loaded(server: Server, models: Path) -> None:
    port = int(server.address.rpartition(":")[2])
    with (
        pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"),
        served(settings_for(models, port=port)),
    ):
        pass


def start_process(models: Path) -> tuple[subprocess.Popen[str], str]:
    code = (
        "import sys, atexit; from tailora.cli import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, flush=True))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["serve", "--base", str(models / "base"), "--adapter", f"one={models / 'one'}", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    told = process.stderr.readline()
    assert " at http://127.0.0.1:" in told, told + process.stderr.read()
    return process, told.split(" at ")[1].split(" ")[0]


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
