"""Weights & Biases: offline files in `wandb/` of the run directory, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any

import wandb

from tailora.training.trackers.tracker import EXPERIMENT, Point, Status, TrackedRun


class WandbTracker:
    """Logs to a run of Weights & Biases; see `tracker.Tracker`."""

    def __init__(self) -> None:
        self._run: Any = None

    def connect(self, run: TrackedRun, identity: str | None) -> str:
        """Start a run, or a further part of one with the same id."""
        settings = wandb.Settings(
            mode=os.environ.get("WANDB_MODE", "offline"),
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
        )
        number = identity or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", EXPERIMENT),
            id=number,
            name=run.name,
            dir=str(run.folder),
            config=dict(run.settings),
            resume=None if identity is None else "allow",
            settings=settings,
        )
        return number

    def log(self, points: Sequence[Point]) -> None:
        """Hand the figures to the client's own process, which survives this one."""
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def close(self, status: Status) -> None:
        """End the run, or this part of it."""
        self._run.finish(exit_code=0 if status == "finished" else 1)
