"""Studies: what ranges may be, pruning, a start after an end, several processes, and the settings that won."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora import tune
from tailora.errors import SettingsError, TrainingError
from tailora.train.settings import TrainSettings
from tailora.tune import Range, TuneSettings


def study_settings(folder: Path, **others: Any) -> TuneSettings:
    values: dict[str, Any] = {
        "data": "restaurants",
        "base": "tiny",
        "limit": 4,
        "valid_limit": 2,
        "batch_size": 8,
        "max_steps": 2,
        "ranges": {"learning_rate": "1e-3..1e-1", "rank": [2, 4], "targets": "attention.qv|attention+mlp"},
        "trials": 3,
        "precision": "fp32",
        "output": folder / "study",
    }
    return TuneSettings(**{**values, **others})


def faked(monkeypatch: pytest.MonkeyPatch, losses: Any) -> list[TrainSettings]:
    """Put a function from settings to the losses of four validations in the place of training."""
    seen: list[TrainSettings] = []

    def train(settings: TrainSettings, watch: Any) -> dict[str, Any]:
        seen.append(settings)
        reported = losses(settings)
        for step, loss in enumerate(reported):
            watch(step, loss)
        return {"validation_loss": {"after": reported[-1]}, "seconds": 1.0}

    monkeypatch.setattr(tune, "train", train)
    return seen


def test_a_study_trains_and_its_best_settings_train_again(tmp_path: Path) -> None:
    result = tune.run(study_settings(tmp_path))
    folder = tmp_path / "study"
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    losses = [trial["validation_loss"] for trial in result["trials"]]
    assert result["best"]["validation_loss"] == min(losses)
    best = TrainSettings.from_yaml(folder / "best.yaml")
    run = json.loads((folder / result["best"]["run"] / "run.json").read_text(encoding="utf-8"))
    assert {**run["settings"], "output": None} == best.model_dump(mode="json")
    assert run["validation_loss"]["after"] == min(losses)
    for plot in ("history.svg", "importance.svg"):
        assert "<svg" in (folder / plot).read_text(encoding="utf-8")


def test_the_first_trial_is_what_the_user_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = faked(monkeypatch, lambda settings: [2.0, 1.0])
    tune.run(study_settings(tmp_path, rank=4, learning_rate=0.05))
    first = seen[0]
    assert (first.rank, first.learning_rate, first.targets) == (4, 0.05, ("attention.qv",))
    assert len({(s.rank, s.learning_rate, s.targets) for s in seen}) == 3


def test_an_ended_study_goes_on_and_asks_for_nothing_more_than_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = faked(monkeypatch, lambda settings: [2.0, settings.learning_rate])
    tune.run(study_settings(tmp_path, trials=2))
    result = tune.run(study_settings(tmp_path, trials=5))
    assert len(seen) == 5
    assert result["best"]["validation_loss"] == min(s.learning_rate or 9 for s in seen)
    tune.run(study_settings(tmp_path, trials=5))
    assert len(seen) == 5


def test_an_interrupted_trial_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(settings: TrainSettings) -> list[float]:
        raise KeyboardInterrupt

    first = faked(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune.run(study_settings(tmp_path))
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    tune.run(study_settings(tmp_path))
    assert len(seen) == 3
    assert seen[0].model_copy(update={"output": None}) == first[0].model_copy(update={"output": None})
    assert seen[0].output != first[0].output


def test_the_trial_of_a_killed_process_is_tried_again_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    faked(monkeypatch, lambda settings: [1.0, 1.0])
    settings = study_settings(tmp_path, storage=storage, trials=1)
    tune.run(settings)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    study = optuna.load_study(study_name="study", storage=storage)
    values = {}
    for process in (gone, alive):
        trial = study.ask()
        values[process.pid] = {r.name: r.suggest(trial) for r in (Range.of(*i) for i in settings.ranges.items())}
        trial.set_user_attr("host", tune.platform.node())
        trial.set_user_attr("pid", process.pid)
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    tune.run(study_settings(tmp_path, storage=storage, trials=3))
    alive.communicate(b"\n")
    assert [s.learning_rate for s in seen] == [values[gone.pid]["learning_rate"]]


def test_trials_that_are_behind_are_pruned_and_those_that_cannot_learn_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(settings: TrainSettings) -> list[float]:
        assert settings.learning_rate is not None
        if settings.learning_rate > 0.1:
            raise TrainingError("the loss is no longer finite")
        return [3.0, settings.learning_rate, settings.learning_rate]

    faked(monkeypatch, losses)
    result = tune.run(study_settings(tmp_path, ranges={"learning_rate": "1e-3..1"}, trials=16))
    trials = result["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert all(("no longer finite" in t["why"]) == (t["settings"]["learning_rate"] > 0.1) for t in pruned)
    assert len({"no longer finite" in trial["why"] for trial in pruned}) == 2
    assert len(trials) == 16
    assert {trial["state"] for trial in trials} == {"pruned", "complete"}


def test_nothing_that_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(settings: TrainSettings) -> list[float]:
        raise TrainingError("the loss is no longer finite")

    faked(monkeypatch, losses)
    with pytest.raises(TrainingError, match="no trial came to its end"):
        tune.run(study_settings(tmp_path, trials=2))


def test_other_settings_are_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, lambda settings: [1.0, 1.0])
    tune.run(study_settings(tmp_path, trials=1))
    with pytest.raises(SettingsError, match="a study of other settings"):
        tune.run(study_settings(tmp_path, trials=1, limit=5))
    with pytest.raises(SettingsError, match="a study of other settings"):
        tune.run(study_settings(tmp_path, trials=1, ranges={"rank": [2, 4]}))


@pytest.mark.parametrize(
    ("ranges", "what"),
    [
        ({}, "nothing to vary"),
        ({"ranks": [1, 2]}, "ranks is no setting to vary"),
        ({"output": ["a", "b"]}, "output is no setting to vary"),
        ({"learning_rate": "1e-3..1e-4"}, "is no range"),
        ({"learning_rate": "a..b"}, "is no range"),
        ({"rank": "1.5..4"}, "no range of whole numbers"),
        ({"schedule": "a..b"}, "takes no range"),
        ({"schedule": ["linear", "sideways"]}, "must be"),
        ({"dropout": "0..2"}, "must be"),
        ({"rank": []}, "no values"),
        ({"targets": [["attention", "mlp"]]}, "no values"),
    ],
)
def test_ranges_that_cannot_be(tmp_path: Path, ranges: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        study_settings(tmp_path, ranges=ranges)


@given(low=st.floats(1e-6, 1.0), ratio=st.floats(1.01, 1e4), seed=st.integers(0, 9))
def test_a_range_suggests_what_it_holds(low: float, ratio: float, seed: int) -> None:
    found = Range.of("learning_rate", f"{low}..{low * ratio}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    assert found.holds(found.suggest(study.ask()))
    assert found.logarithmic == (found.high >= 10 * found.low)


def test_values_are_read_as_yaml_reads_them() -> None:
    assert Range.of("rank", "4|8|16").choices == (4, 8, 16)
    assert Range.of("learning_rate", "1e-3|0.01").choices == (1e-3, 0.01)
    assert Range.of("rslora", "true|false").choices == (True, False)
    assert Range.of("targets", "attention+mlp|head").setting("attention+mlp") == ("attention", "mlp")


@pytest.mark.slow
def test_processes_share_a_study(tmp_path: Path) -> None:
    settings = study_settings(tmp_path, trials=6)
    config = tmp_path / "tune.yaml"
    config.write_text(settings.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "tailora", "tune", str(config), "--json"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    study = json.loads((tmp_path / "study" / "study.json").read_text(encoding="utf-8"))
    assert 6 <= len(study["trials"]) <= 7  # both may have begun the last
    assert len({trial["run"] for trial in study["trials"]}) == len(study["trials"])
