"""MLflow: a run in the store of MLFLOW_TRACKING_URI, or in a database file next to the run directories."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tailora.training.trackers.tracker import EXPERIMENT, Point, Status, TrackedRun

DATABASE = "mlflow.db"
BATCH = 200
"""Number of points to send at once; MLflow accepts a thousand figures."""
_STATUS: dict[Status, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_LONGEST = 500  # characters of a parameter


class MlflowTracker:
    """Logs to a run of MLflow; see `tracker.Tracker`."""

    _client: MlflowClient
    _run: str

    def connect(self, run: TrackedRun, identity: str | None) -> str:
        """Create a run with the settings as its parameters, or set an earlier one to running again."""
        for name in ("mlflow", "alembic"):  # they report each table that they create
            logging.getLogger(name).setLevel(logging.WARNING)
        local = f"sqlite:///{(run.folder.resolve().parent / DATABASE).as_posix()}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", local))
        if identity is not None:
            self._run = identity
            self._client.update_run(identity, status="RUNNING")
            return identity
        self._run = self._client.create_run(self._experiment(), run_name=run.name).info.run_id
        parameters = [Param(name, str(value)[:_LONGEST]) for name, value in run.settings.items()]
        for first in range(0, len(parameters), 100):
            self._client.log_batch(self._run, params=parameters[first : first + 100])
        return self._run

    def log(self, points: Sequence[Point]) -> None:
        """Send the figures to the store."""
        now = int(1000 * time.time())
        for first in range(0, len(points), BATCH):
            metrics = [
                Metric(name, value, now, point.step)
                for point in points[first : first + BATCH]
                for name, value in point.values.items()
            ]
            self._client.log_batch(self._run, metrics=metrics)

    def close(self, status: Status) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._run, status=_STATUS[status])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run has just created it
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)
