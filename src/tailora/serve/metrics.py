"""What the server did: numbers for Prometheus, lines for the log, the last requests for the page."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tailora.engine.engine import Event
from tailora.engine.worker import Worker

log = logging.getLogger("tailora.serve")
_REQUEST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_KEPT = 20  # requests shown on the page


@dataclass
class Account:
    """One request as it is counted.

    Attributes:
        id: told in the answer's `x-request-id`, and in the log.
        method: of HTTP.
        route: the path as the server declares it.
        key: the name of the API key.
        model: the name asked for, once it is known to exist.
        prompt_tokens: of all its prompts.
        completion_tokens: written so far.
        texts: prompts and texts, where the log is to have them.
        began: by the monotonic clock, in seconds; so are the next two.
        first: when the first token came.
        last: when the last one came.
    """

    id: str
    method: str = ""
    route: str = ""
    key: str | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    last: float | None = None

    def note(self, event: Event) -> None:
        """Count what came of a text."""
        late = () if event.tokens or event.result is None else event.result
        self.completion_tokens += len(event.tokens) + sum(len(completion.token_ids) for completion in late)
        self.last = time.monotonic()
        self.first = self.last if self.first is None else self.first


class Monitor:
    """Counts requests.

    Args:
        worker: whose engine is looked at.
    """

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(worker))
        of_registry: dict[str, Any] = {"registry": self._registry}
        by = ["model", "route", "status"]
        self._requests = Counter("tailora_requests", "Requests answered.", by, **of_registry)
        self._tokens = Counter("tailora_tokens", "Tokens read and written.", ["model", "kind"], **of_registry)
        described = {
            "tailora_request_seconds": ("From a request's arrival to its end.", _REQUEST),
            "tailora_first_token_seconds": ("From a request's arrival to its first token.", _REQUEST),
            "tailora_token_seconds": ("Between two tokens of a request, on average.", _TOKEN),
        }
        self._seconds, self._first, self._each = (
            Histogram(name, told, ["model"], buckets=buckets, **of_registry)
            for name, (told, buckets) in described.items()
        )
        self._recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def exposition(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self._registry)

    def recent(self) -> list[dict[str, Any]]:
        """The last requests that wrote or were to write, the newest first."""
        return list(self._recent)

    def ended(self, account: Account, status: int) -> None:
        """Count a request that has been answered, or given up (499)."""
        seconds = time.monotonic() - account.began
        first = None if account.first is None else account.first - account.began
        model = account.model or ""
        self._requests.labels(model, account.route, str(status)).inc()
        if account.model is not None:
            self._tokens.labels(model, "prompt").inc(account.prompt_tokens)
            self._tokens.labels(model, "completion").inc(account.completion_tokens)
            self._seconds.labels(model).observe(seconds)
            if first is not None and account.first is not None and account.last is not None:
                self._first.labels(model).observe(first)
                if account.completion_tokens > 1:
                    self._each.labels(model).observe((account.last - account.first) / (account.completion_tokens - 1))
        told = {
            "id": account.id,
            "route": account.route,
            "model": account.model,
            "status": status,
            "prompt_tokens": account.prompt_tokens,
            "completion_tokens": account.completion_tokens,
            "seconds": round(seconds, 4),
            "first_token_seconds": None if first is None else round(first, 4),
        }
        if account.model is not None:
            self._recent.appendleft({**told, "time": round(time.time() - seconds, 3)})
        texts = {"texts": account.texts} if account.texts else {}
        log.info("request", extra={"told": {"method": account.method, **told, "key": account.key, **texts}})


class _EngineCollector(Collector):
    """The engine's own numbers, read when they are asked for."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        stats = self._worker.stats
        load = stats.load
        gauges = {
            "running_sequences": ("Sequences under way: the size of the next step's batch.", load.running),
            "max_sequences": ("Most sequences at once.", load.sequences),
            "waiting_requests": ("Texts that have not begun, or were put back.", load.waiting),
            "kv_blocks_used": ("Blocks of the cache of keys and values that sequences hold.", load.blocks_used),
            "kv_blocks": ("Blocks of the cache.", load.blocks),
            "adapter_slots_used": ("Adapter slots that sequences hold.", load.slots_used),
            "adapter_slots": ("Adapter slots.", load.slots),
        }
        counters = {
            "engine_steps": ("Steps computed.", stats.steps),
            "engine_tokens": ("Tokens written by the engine.", stats.tokens),
            "engine_busy_seconds": ("Seconds spent in steps.", stats.busy_seconds),
            "preemptions": ("Times a request was put back for want of blocks.", load.preempted),
        }
        yield from (GaugeMetricFamily(f"tailora_{name}", told, value) for name, (told, value) in gauges.items())
        yield from (CounterMetricFamily(f"tailora_{name}", told, value) for name, (told, value) in counters.items())


class JsonLines(logging.Formatter):
    """A log record as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
