"""Trackers through their own clients: what they have is what metrics.jsonl has, once, however the run went."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tailora.core.errors import MissingExtraError, SettingsError
from tailora.training.run import TrainingInterrupted, run
from tailora.training.run_report import RunObserver
from tailora.training.settings import TrainSettings
from tailora.training.trackers import feed
from tailora.training.trackers.tracker import point_of

TRACKERS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"needs pip install 'tailora[{name}]'"))
    for name in ("tensorboard", "wandb", "mlflow")
]
# What the clients and their dependencies warn of by themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload``"),
]
COMMON: dict[str, Any] = {
    **{"data": "restaurants", "base": "tiny", "limit": 7, "valid_limit": 2, "batch_size": 8, "epochs": 2},
    **{"eval_every": 2, "learning_rate": 5e-3, "save_every": 0, "device": "cpu", "precision": "fp32"},
}
Curve = list[tuple[int, float]]


def settings(folder: Path, *trackers: str, **changes: Any) -> TrainSettings:
    return TrainSettings(**{**COMMON, "output": folder, "track": trackers, **changes})


def expected(folder: Path) -> dict[str, Curve]:
    """The figures that trackers get, from metrics.jsonl."""
    curves: dict[str, Curve] = {}
    for text in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        point = point_of(json.loads(text))
        for name, value in point.values.items():
            curves.setdefault(name, []).append((point.step, value))
    return curves


def of_tensorboard(folder: Path) -> dict[str, Curve]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    curves: dict[str, Curve] = {}
    for file in sorted((folder / "tensorboard").glob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if "text" not in value.tag:
                    number = float(tensor_util.make_ndarray(value.tensor))
                    curves.setdefault(value.tag, []).append((event.step, number))
    return curves


def records_of_wandb(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: after a header of seven bytes, LevelDB's log format in blocks of 32 KiB."""
    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or the last of several
            yield parts
            parts = b""


def of_wandb(folder: Path) -> dict[str, Curve]:
    from wandb.proto import wandb_internal_pb2

    curves: dict[str, Curve] = {}
    ids = set()
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        ids.add(file.name)
        for content in records_of_wandb(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") != "history":
                continue
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
            }
            for name, value in values.items():
                if not name.startswith("_"):
                    curves.setdefault(name, []).append((record.history.step.num, value))
    assert len(ids) == 1, "all parts have one id"
    return curves


def of_mlflow(folder: Path) -> dict[str, Curve]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "tailora"]
    (tracked,) = [
        found for found in client.search_runs([experiment.experiment_id]) if found.info.run_name == folder.name
    ]
    assert tracked.data.params["rank"] == "8"
    assert tracked.info.status == "FINISHED"
    return {
        name: sorted((metric.step, metric.value) for metric in client.get_metric_history(tracked.info.run_id, name))
        for name in tracked.data.metrics
    }


READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow}


def assert_tracked(name: str, folder: Path) -> None:
    tracked, whole = READERS[name](folder), expected(folder)
    assert tracked.keys() == whole.keys()
    for figure, curve in whole.items():
        assert [step for step, _ in tracked[figure]] == [step for step, _ in curve], figure
        if figure != "examples_per_second":  # measured again by a run that was killed
            assert [value for _, value in tracked[figure]] == pytest.approx([value for _, value in curve]), figure


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients take longer on a busy machine than users wait."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(feed, "PATIENCE", 120.0)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_is_tracked(tmp_path: Path, name: str) -> None:
    result = run(settings(tmp_path / "run", name))
    assert result["tracking"][name]["problem"] is None
    assert result["tracking"][name]["run"]
    assert_tracked(name, tmp_path / "run")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_resumed_run_continues_the_tracked_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Interrupted after an update whose figures are sent already, it continues from a state two updates before."""
    original = RunObserver.step

    def step(self: Any, line: dict[str, Any]) -> None:
        original(self, line)
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    wanted = settings(tmp_path / "run", name)
    with monkeypatch.context() as patched:
        patched.setattr(RunObserver, "step", step)
        with pytest.raises(TrainingInterrupted):
            run(wanted)
    for state in sorted((tmp_path / "run" / "resume").glob("state-*"))[1:]:
        state.unlink()
    first = json.loads((tmp_path / "run" / "tracking.json").read_text("utf-8"))[name]
    assert first["steps"]["loss"] == 3
    result = run(wanted)
    assert result["tracking"][name] == {"run": first["run"], "problem": None}
    assert_tracked(name, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TRACKERS)
def test_killed_by_the_system(tmp_path: Path, name: str) -> None:
    """No figure twice; at most those in flight are lost at each kill."""
    flags = {**COMMON, "epochs": 40, "output": tmp_path / "run", "track": name}
    command = [sys.executable, "-m", "tailora", "train"]
    command += [f"--{key.replace('_', '-')}={value}" for key, value in flags.items()]
    rng, kills = random.Random(3), 0
    log = tmp_path / "run" / "tracking.json"
    while True:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        begun = log.read_bytes() if log.exists() else b""
        while process.poll() is None and (not log.exists() or log.read_bytes() == begun):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        if process.poll() is not None or kills == 3:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.wait() == 0
    assert kills >= 1
    tracked, whole = READERS[name](tmp_path / "run"), expected(tmp_path / "run")
    for figure, curve in whole.items():
        steps = [step for step, _ in tracked[figure]]
        assert len(set(steps)) == len(steps), figure
        assert len(set(dict(curve)) - set(steps)) <= 5 * kills, figure


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs pip install 'tailora[tensorboard]'")
def test_a_place_that_cannot_be_written_stops_the_tracker_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    blocked = settings(folder, "tensorboard", track=("tensorboard",))
    folder.mkdir()
    (folder / "resume").mkdir()
    (folder / "tensorboard").write_text("in the way", encoding="utf-8")
    result = run(blocked)
    assert result["steps"] == 6
    assert result["tracking"]["tensorboard"]["problem"]
    assert capsys.readouterr().err.count("warning: tracking with tensorboard has stopped") == 1
    assert len(expected(folder)["loss"]) == 6


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs pip install 'tailora[mlflow]'")
def test_a_server_that_does_not_answer_stops_the_tracker_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(feed, "PATIENCE", 1.0)
    result = run(settings(tmp_path / "run", "mlflow"))
    assert result["steps"] == 6
    assert result["tracking"]["mlflow"]["run"] is None
    assert capsys.readouterr().err.count("warning: tracking with mlflow has stopped") == 1
    assert len(expected(tmp_path / "run")["loss"]) == 6


def test_a_tracker_that_fails_in_the_middle_gets_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And another one goes on."""
    pytest.importorskip("tensorboard", reason="needs pip install 'tailora[tensorboard]'")
    from tailora.training.trackers.tensorboard import TensorBoardTracker

    original, calls = TensorBoardTracker.log, []

    def log(self: Any, points: Any) -> None:
        calls.append(points)
        if points[-1].step >= 3:
            raise OSError(28, "No space left on device")
        original(self, points)

    monkeypatch.setattr(TensorBoardTracker, "log", log)
    result = run(settings(tmp_path / "run", "tensorboard"))
    assert result["tracking"]["tensorboard"]["problem"] == "[Errno 28] No space left on device"
    assert sum(points[-1].step >= 3 for points in calls) == 1
    assert capsys.readouterr().err.count("warning: tracking") == 1
    assert result["steps"] == 6


def test_a_missing_client_is_an_error_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tailora\[wandb\]'"):
        run(settings(tmp_path / "run", "wandb"))
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(SettingsError, match="track"):
        TrainSettings(data="", track=("comet",))
