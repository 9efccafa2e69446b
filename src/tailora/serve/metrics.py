"""Prometheus metrics of the server, and the latest requests for the page."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tailora.engine.worker import Worker
from tailora.serve.request_log import RequestStats

_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # bounds of buckets
_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_RECENT = 20  # requests shown on the page


class ServerMetrics:
    """Counts finished requests, and reads the engine's own counters.

    Args:
        worker: owner of the engine.
    """

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(worker))
        registry: dict[str, Any] = {"registry": self._registry}
        labels = ["model", "route", "status"]
        self._requests = Counter("tailora_requests", "Finished requests.", labels, **registry)
        self._tokens = Counter("tailora_tokens", "Prompt and completion tokens.", ["model", "kind"], **registry)

        def seconds(name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"tailora_{name}_seconds", description, ["model"], buckets=buckets, **registry)

        self._request = seconds("request", "Seconds from a request's arrival to its end.", _REQUEST_SECONDS)
        self._first = seconds("first_token", "Seconds from a request's arrival to its first token.", _REQUEST_SECONDS)
        self._token = seconds("token", "Mean seconds between two tokens of a request.", _TOKEN_SECONDS)
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def recent(self) -> list[dict[str, Any]]:
        """Return the latest requests that named a model, the newest first."""
        return list(self._recent)

    def count(self, stats: RequestStats, status: int) -> None:
        """Count a finished request.

        Args:
            stats: its counters.
            status: HTTP status, or the one that stands for how the request ended.
        """
        self._requests.labels(stats.model or "", stats.route, str(status)).inc()
        if stats.model is None:
            return
        seconds = time.monotonic() - stats.began
        self._tokens.labels(stats.model, "prompt").inc(stats.prompt_tokens)
        self._tokens.labels(stats.model, "completion").inc(stats.completion_tokens)
        self._request.labels(stats.model).observe(seconds)
        if stats.first is not None and stats.last is not None:
            self._first.labels(stats.model).observe(stats.first - stats.began)
            if stats.completion_tokens > 1:
                self._token.labels(stats.model).observe((stats.last - stats.first) / (stats.completion_tokens - 1))
        self._recent.appendleft({**stats.summary(status), "time": round(time.time() - seconds, 3)})


class _EngineCollector(Collector):
    """Reads the engine's counters when Prometheus asks for them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        stats = self._worker.stats
        load = stats.load
        gauges: dict[str, tuple[str, float]] = {
            "running_sequences": ("Sequences in progress: the batch size of the next step.", load.running),
            "max_sequences": ("Limit of sequences in progress.", load.sequences),
            "waiting_requests": ("Texts that have not started, or were preempted.", load.waiting),
            "kv_blocks_used": ("Blocks of the key-value cache in use.", load.blocks_used),
            "kv_blocks": ("Blocks of the key-value cache.", load.blocks),
            "adapter_slots_used": ("Adapter slots in use.", load.slots_used),
            "adapter_slots": ("Adapter slots.", load.slots),
        }
        counters: dict[str, tuple[str, float]] = {
            "engine_steps": ("Steps computed.", stats.steps),
            "engine_tokens": ("Tokens written by the engine.", stats.tokens),
            "engine_busy_seconds": ("Seconds spent in steps.", stats.busy_seconds),
            "draft_tokens": ("Tokens drafted for steps to verify.", load.drafted),
            "draft_tokens_accepted": ("Drafted tokens that became part of a text.", load.accepted),
            "preemptions": ("Times that a text gave its blocks back because others needed them.", load.preempted),
        }
        for name, (description, value) in gauges.items():
            yield GaugeMetricFamily(f"tailora_{name}", description, value)
        for name, (description, value) in counters.items():
            yield CounterMetricFamily(f"tailora_{name}", description, value)
