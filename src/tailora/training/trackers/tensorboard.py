"""TensorBoard: event files in `tensorboard/` of the run directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter  # needs the package tensorboard

from tailora.training.trackers.tracker import Point, Status, TrackedRun

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes event files; see `tracker.Tracker`."""

    def __init__(self) -> None:
        self._writer: Any = None

    def connect(self, run: TrackedRun, identity: str | None) -> str:
        """Start a further event file; TensorBoard joins the files of a folder."""
        self._writer = SummaryWriter(str(run.folder / FOLDER))
        if identity is None:
            settings = json.dumps(dict(run.settings), indent=2, ensure_ascii=False)
            self._writer.add_text("settings", f"```json\n{settings}\n```", 0)
        return FOLDER

    def log(self, points: Sequence[Point]) -> None:
        """Write the figures to the disk."""
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step)
        self._writer.flush()

    def close(self, status: Status) -> None:
        """Close the file."""
        self._writer.close()
