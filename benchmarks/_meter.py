"""Measures the updates of one arm: their time, their arithmetic and their losses."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tailora.core.hardware.devices import peak_gpu_memory
from tailora.core.hardware.memory import peak_rss, rss


@dataclass
class Work:
    """What was computed: examples, positions through the transformer's blocks, positions through the vocabulary."""

    examples: int = 0
    body_positions: int = 0
    head_positions: int = 0


@dataclass
class Meter:
    """Counts updates, leaves the first ones out, and says when enough time has been measured.

    Make it when everything is imported and nothing is loaded yet: it notes the memory held then.

    Attributes:
        warm_up: updates before the clock starts.
        seconds: how long to measure; the update in progress is finished, and at least two are measured.
        imported_bytes: resident memory after the imports, in bytes.
    """

    warm_up: int
    seconds: float
    imported_bytes: int = field(default_factory=lambda: rss() or 0)
    _updates: int = 0
    _start: float = 0.0
    _end: float = 0.0
    _work: Work = field(default_factory=Work)

    def add(self, *, examples: int = 0, body_positions: int = 0, head_positions: int = 0) -> None:
        """Count work of the update in progress."""
        self._work.examples += examples
        self._work.body_positions += body_positions
        self._work.head_positions += head_positions

    def end_update(self) -> bool:
        """Mark the end of an update; true when the measurement is complete."""
        now = time.perf_counter()
        self._updates += 1
        if self._updates == self.warm_up:
            self._start, self._work = now, Work()
        self._end = now
        return self._updates >= self.warm_up + 2 and now - self._start >= self.seconds

    def report(self, *, loss: float, precision: str) -> dict[str, Any]:
        """The arm's figures: times in seconds, memory in bytes, positions summed over the measured updates.

        Args:
            loss: mean training loss of the run in nats per completion token, as a check that sides did the same.
            precision: the type that the large matrix products were computed in.
        """
        elapsed, updates = self._end - self._start, self._updates - self.warm_up
        on_gpu = peak_gpu_memory()
        peak, imported = (peak_rss() or 0, self.imported_bytes) if on_gpu is None else (on_gpu, 0)
        return {
            "examples_per_second": self._work.examples / elapsed,
            "seconds_per_update": elapsed / updates,
            "updates": updates,
            **asdict(self._work),
            "loss": loss,
            "precision": precision,
            "peak_bytes": peak,
            "imported_bytes": imported,
            "own_bytes": peak - imported,
        }


class Losses:
    """Collects the loss of every update of a run of known length, and its time.

    Args:
        updates: how many the run has.
    """

    def __init__(self, updates: int) -> None:
        self._updates = updates
        self._losses: list[float] = []
        self._start = time.perf_counter()

    def add(self, loss: float) -> bool:
        """Note an update's loss, in nats per completion token; true when the run is complete."""
        self._losses.append(loss)
        return len(self._losses) >= self._updates

    def report(self) -> dict[str, Any]:
        """The losses in order, and the seconds since this was made."""
        return {"training_losses": self._losses, "seconds": time.perf_counter() - self._start}
