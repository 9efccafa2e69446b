"""What a tracker does: the protocol that each client is adapted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["finished", "interrupted", "failed"]

EXPERIMENT = "tailora"
"""Name of the project or experiment in trackers that have them."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is to know of a run.

    Attributes:
        folder: the run directory.
        settings: the settings of the run as JSON values.
    """

    folder: Path
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name to show: that of the run directory."""
        return self.folder.resolve().name


@dataclass(frozen=True)
class Point:
    """The figures of an update or a validation.

    Attributes:
        step: number of updates so far.
        values: the figures by name.
    """

    step: int
    values: Mapping[str, float]


class Tracker(Protocol):
    """A client of a tracker. All calls come from one thread, and any of them may raise."""

    def connect(self, run: TrackedRun, identity: str | None) -> str:
        """Create a tracked run, or open the one of an earlier start to continue it.

        Args:
            run: the run.
            identity: what `connect` returned at the earlier start; None creates a tracked run.

        Returns:
            What the tracker calls its run.
        """

    def log(self, points: Sequence[Point]) -> None:
        """Record figures, in the order of their steps, so that they survive the end of this process."""

    def close(self, status: Status) -> None:
        """End the tracked run."""


def point_of(line: Mapping[str, Any]) -> Point:
    """Return what trackers get of a line of metrics.jsonl."""
    names = ("loss", "validation_loss", "learning_rate", "gradient_norm")
    values = {name: float(line[name]) for name in names if name in line}
    if line.get("seconds"):
        values["examples_per_second"] = line["examples"] / line["seconds"]
    return Point(int(line["step"]), values)
