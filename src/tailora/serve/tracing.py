"""OpenTelemetry: each request as a span, sent by OpenTelemetry's own SDK and OTLP exporter (extra `otel`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tailora import __version__
from tailora.serve.request_log import RequestStats

_FLUSH_MILLISECONDS = 2000  # at the end of the server


class Tracing:
    """Turns finished requests into spans. They hold counts and times, never prompts, texts or keys.

    Args:
        exporter: sends spans.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({SERVICE_NAME: "tailora", SERVICE_VERSION: __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tailora.serve", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, stats: RequestStats, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Record a finished request, as a child of the span that its header `traceparent` names.

        Args:
            stats: its counters.
            status: HTTP status, or the one that stands for how the request ended.
            headers: of the request, with names in lower case.
        """
        offset = time.time() - time.monotonic()
        span = self._tracer.start_span(
            f"{stats.method} {stats.route}",
            context=self._propagator.extract(headers, getter=_HeaderGetter()),
            kind=SpanKind.SERVER,
            attributes=_attributes(stats, status),
            start_time=_nanoseconds(stats.began + offset),
        )
        if stats.first is not None:
            span.add_event("first token", timestamp=_nanoseconds(stats.first + offset))
        if stats.last is not None:
            span.add_event("last token", timestamp=_nanoseconds(stats.last + offset))
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, str(stats.error or "")))
        span.end()

    def close(self) -> None:
        """Send what is left, for at most two seconds."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()


def tracing_to(endpoint: str) -> Tracing:
    """Return a tracing that sends spans over HTTP.

    Args:
        endpoint: address of an OTLP collector, such as http://127.0.0.1:4318. Headers, certificates and time limits are
            those of OpenTelemetry's environment variables.
    """
    path = "" if endpoint.rstrip("/").endswith("/v1/traces") else "/v1/traces"
    return Tracing(OTLPSpanExporter(endpoint=endpoint.rstrip("/") + path))


def _attributes(stats: RequestStats, status: int) -> dict[str, Any]:
    known: dict[str, Any] = {
        "http.request.method": stats.method,
        "http.route": stats.route,
        "http.response.status_code": status,
        "gen_ai.request.model": stats.model,
        "tailora.request_id": stats.id,
        "tailora.key": stats.key,
    }
    if status >= 400:
        known["error.type"] = (None if stats.error is None else stats.error.code) or str(status)
    if stats.model is not None:
        known |= {
            "gen_ai.provider.name": "tailora",
            "gen_ai.usage.input_tokens": stats.prompt_tokens,
            "gen_ai.usage.output_tokens": stats.completion_tokens,
            "tailora.cached_tokens": sum(stats.cached_tokens.values()),
        }
    return {name: value for name, value in known.items() if value is not None}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


class _HeaderGetter(Getter[Mapping[bytes, bytes]]):
    """Reads the headers of an ASGI request."""

    def get(self, carrier: Mapping[bytes, bytes], key: str) -> list[str] | None:
        """See OpenTelemetry's `Getter`."""
        value = carrier.get(key.encode())
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: Mapping[bytes, bytes]) -> list[str]:
        """See OpenTelemetry's `Getter`."""
        return [name.decode("latin-1") for name in carrier]
