"""Feeds a run's figures to trackers, each in its own thread, so that no tracker can end or slow the run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from tailora.core.errors import MissingExtraError
from tailora.core.files import write_json
from tailora.training.settings import TrackerName
from tailora.training.trackers.tracker import Point, Status, TrackedRun, Tracker, point_of

FILE = "tracking.json"
"""File of a run directory: what the trackers call the run, and what they have of it."""
PATIENCE = 15.0
"""Seconds to wait for a tracker at the end of a run."""


def check_installed(names: Sequence[TrackerName]) -> None:
    """Check that the clients of trackers are installed, without importing them.

    Raises:
        MissingExtraError: one is not; the message says how to install it.
    """
    for name in names:
        if find_spec(name) is None:
            hint = f"install it with `pip install 'tailora[{name}]'`"
            raise MissingExtraError(f"tracking with {name} needs its client, which is not installed", hint=hint)


def _client(name: TrackerName) -> Tracker:
    """Return the client of a tracker. Its import takes seconds, which is why it happens in the tracker's thread."""
    if name == "tensorboard":
        from tailora.training.trackers.tensorboard import TensorBoardTracker

        return TensorBoardTracker()
    if name == "wandb":
        from tailora.training.trackers.wandb import WandbTracker

        return WandbTracker()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when the client is imported
    from tailora.training.trackers.mlflow import MlflowTracker

    return MlflowTracker()


class Trackers:
    """The trackers of a run; use it in a `with` statement.

    A tracker gets every figure once, also of a run that is killed and continued: figures that it has not got by the
    state to continue from are read from metrics.jsonl, and figures after it that it has got already are left out. They
    are counted before they are sent, so that a kill can lose the figures in flight but never doubles them.

    Args:
        names: the trackers.
        run: the run.
        continues: whether the run continues from a state.
        warn: prints a warning.

    Attributes:
        status: how the run ended; set it before leaving.
        problems: why a tracker stopped, by its name.
    """

    def __init__(
        self, names: Sequence[TrackerName], run: TrackedRun, *, continues: bool, warn: Callable[[str], object]
    ) -> None:
        self.status: Status = "failed"
        self.problems: dict[str, str] = {}
        self._record = _Record(run.folder / FILE, keep=continues)
        self._feeds = [_Feed(name, run, self._record) for name in dict.fromkeys(names)]
        self._warn = warn

    def __enter__(self) -> Self:
        for feed in self._feeds:
            feed.start(self._failed)
        return self

    def __exit__(self, *_: object) -> None:
        for feed in self._feeds:
            feed.finish(self.status)
        for feed in self._feeds:
            feed.join()

    def log(self, line: Mapping[str, Any]) -> None:
        """Pass a line of metrics.jsonl, also each one that a continued run starts with; return at once."""
        if self._feeds:
            point = point_of(line)
            for feed in self._feeds:
                feed.put(point)

    def summary(self) -> dict[str, dict[str, str | None]]:
        """Return, by the tracker's name, what it calls the run under `run`, and why it stopped under `problem`."""
        names = [feed.name for feed in self._feeds]
        runs = {name: (self._record.of(name) or {}).get("run") for name in names}
        return {name: {"run": runs[name], "problem": self.problems.get(name)} for name in names}

    def _failed(self, name: str, problem: str) -> None:
        self.problems[name] = problem
        self._warn(f"tracking with {name} has stopped ({problem}); metrics.jsonl has all figures")


class _Record:
    """The content of tracking.json: for each tracker its name of the run, and the last step of each figure sent."""

    def __init__(self, path: Path, *, keep: bool) -> None:
        self._path, self._lock = path, threading.Lock()
        self._content: dict[str, dict[str, Any]] = {}
        if keep:
            # Without it, a new tracked run begins.
            with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
                content = json.loads(path.read_text(encoding="utf-8"))
                self._content = {
                    name: {"run": str(part["run"]), "steps": dict(part["steps"])} for name, part in content.items()
                }
        else:
            path.unlink(missing_ok=True)

    def of(self, name: str) -> dict[str, Any] | None:
        return self._content.get(name)

    def set(self, name: str, run: str, steps: Mapping[str, int]) -> None:
        with self._lock:
            self._content[name] = {"run": run, "steps": dict(steps)}
            write_json(self._path, self._content)


class _Feed:
    """The thread of one tracker."""

    def __init__(self, name: TrackerName, run: TrackedRun, record: _Record) -> None:
        self.name, self._run, self._record = name, run, record
        known = record.of(name)
        self._identity: str | None = None if known is None else known["run"]
        self._steps: dict[str, int] = {} if known is None else dict(known["steps"])
        self._queue: queue.SimpleQueue[Point | Status] = queue.SimpleQueue()
        self._has_failed = False

    def start(self, failed: Callable[[str, str], object]) -> None:
        self._report = failed
        self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        if not self._has_failed:
            self._queue.put(point)

    def finish(self, status: Status) -> None:
        self._queue.put(status)

    def join(self) -> None:
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._fail(f"it did not answer within {PATIENCE:.0f} seconds of the end of the run")

    def _work(self) -> None:
        try:
            tracker = _client(self.name)
            identity = tracker.connect(self._run, self._identity)
            self._record.set(self.name, identity, self._steps)
            while True:
                points, status = self._next()
                if points := [new for point in points if (new := self._new(point)).values]:
                    for point in points:
                        self._steps |= dict.fromkeys(point.values, point.step)
                    self._record.set(self.name, identity, self._steps)
                    tracker.log(points)
                if status is not None:
                    tracker.close(status)
                    return
        except Exception as error:  # a tracker may raise anything, and must not end the run
            self._fail(" ".join(str(error).split())[:200] or type(error).__name__)

    def _next(self) -> tuple[list[Point], Status | None]:
        """Wait for a point or the end; return all points that are waiting, and the status if the run has ended."""
        points: list[Point] = []
        item = self._queue.get()
        while True:
            if not isinstance(item, Point):
                return points, item
            points.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return points, None

    def _new(self, point: Point) -> Point:
        """Return the figures that the tracker has not got."""
        steps = self._steps
        return Point(point.step, {n: v for n, v in point.values.items() if point.step > steps.get(n, -1)})

    def _fail(self, problem: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._report(self.name, problem)
