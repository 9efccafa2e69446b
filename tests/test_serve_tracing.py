"""OpenTelemetry: what a collector receives of the server's requests, in OpenTelemetry's own protobuf."""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from live_server import post, save_models, served, settings_for
from tailora.commands.key import KeySettings, run
from tailora.core.errors import MissingExtraError, SettingsError
from tailora.serve.keys import read_keys

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector on this machine; yields its address and the list of the spans that it has received."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            request = trace_service.ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                assert names["service.name"] == "tailora"
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def values(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_each_request_is_a_span(tmp_path: Path) -> None:
    key = run(KeySettings(name="shop", output=tmp_path / "keys.yaml"))["key"]
    head = {"Authorization": f"Bearer {key}", "traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
    body = {"model": "one", "prompt": "very secret", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    with collector() as (address, spans):
        settings = settings_for(save_models(tmp_path), otlp=address)
        with served(settings, read_keys(tmp_path / "keys.yaml", {})) as server:
            assert post(server, "/v1/completions", body, headers=head).status_code == 200
            assert post(server, "/v1/completions", {**body, "stream": True}, headers=head).status_code == 200
            assert post(server, "/v1/completions", {**body, "model": "none"}, headers=head).status_code == 404
            assert post(server, "/v1/completions", body).status_code == 401
    assert [span.name for span in spans] == ["POST /v1/completions"] * 3 + ["POST other"]
    first, streamed, unknown, refused = spans
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert refused.parent_span_id == b""
    assert first.kind == first.SpanKind.Value("SPAN_KIND_SERVER")
    assert values(first) == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.request.model": "one",
        "gen_ai.provider.name": "tailora",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 3,
        "tailora.cached_tokens": 0,
        "tailora.request_id": "mine",
        "tailora.key": "shop",
    }
    for span in (first, streamed):
        assert [event.name for event in span.events] == ["first token", "last token"]
        times = [span.start_time_unix_nano, *(event.time_unix_nano for event in span.events), span.end_time_unix_nano]
        assert times == sorted(times)
        assert times[-1] - times[0] < 60e9
    assert values(unknown)["error.type"] == "404"
    assert values(refused)["http.response.status_code"] == 401
    assert not any("secret" in str(span) or key in str(span) for span in spans)


def test_a_collector_that_is_away_delays_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(settings_for(save_models(tmp_path), otlp="http://127.0.0.1:9")) as server:
        body = {"model": "one", "prompt": "x", "max_tokens": 2}
        assert post(server, "/v1/completions", body).status_code == 200


def test_traces_without_their_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "tailora.serve.tracing", raising=False)
    settings = settings_for(save_models(tmp_path), otlp="http://127.0.0.1:9")
    with pytest.raises(MissingExtraError, match=r"pip install 'tailora\[otel\]'"), served(settings):
        pass
    with pytest.raises(SettingsError, match="otlp"):
        settings_for(tmp_path, otlp="collector:4318")
