"""Studies: what ranges may be, pruning, a start after an end, several processes, and the settings that won."""

from __future__ import annotations

import datetime
import errno
import json
import os
import platform
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailora.commands import tune
from tailora.commands.tune import TuneSettings
from tailora.core.errors import (
    AdapterError,
    DataError,
    MissingExtraError,
    OfflineError,
    SettingsError,
    TrainingError,
    UserError,
)
from tailora.experiments import studies, tuning
from tailora.experiments.ranges import Range
from tailora.training.settings import TrainSettings


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

    monkeypatch.setattr(tuning, "train", train)
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
    tune.run(study_settings(tmp_path, rank=4, learning_rate=0.05, targets=("attention.qv",)))
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
    study = optuna.load_study(study_name="study", storage=studies._database(optuna, storage))
    values = {}
    for process in (gone, alive):
        trial = study.ask()
        values[process.pid] = {r.name: r.suggest(trial) for r in (Range.of(*i) for i in settings.ranges.items())}
        trial.set_user_attr("process", [platform.node(), process.pid, studies._started(process.pid)])
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
            raise TrainingError("the loss is not finite")
        return [3.0, settings.learning_rate, settings.learning_rate]

    faked(monkeypatch, losses)
    result = tune.run(study_settings(tmp_path, ranges={"learning_rate": "1e-3..1"}, trials=16))
    trials = result["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert all(("not finite" in t["why"]) == (t["settings"]["learning_rate"] > 0.1) for t in pruned)
    assert len({"not finite" in trial["why"] for trial in pruned}) == 2
    assert len(trials) == 16
    assert {trial["state"] for trial in trials} == {"pruned", "complete"}


def test_nothing_that_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(settings: TrainSettings) -> list[float]:
        raise TrainingError("the loss is not finite")

    faked(monkeypatch, losses)
    with pytest.raises(TrainingError, match="no trial finished"):
        tune.run(study_settings(tmp_path, trials=2))


def test_other_settings_are_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, lambda settings: [1.0, 1.0])
    tune.run(study_settings(tmp_path, trials=1))
    with pytest.raises(SettingsError, match="a study with other settings: limit is 4, here 5; use the same settings"):
        tune.run(study_settings(tmp_path, trials=1, limit=5))
    tune.run(study_settings(tmp_path, trials=1, rank=8, epochs=3))  # a default that is named is the same setting


def test_a_study_goes_on_with_other_ranges_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    tune.run(study_settings(tmp_path, trials=2))
    narrow = {"learning_rate": "1e-3..2e-2", "rank": [2, 4], "dropout": "0..0.5"}
    tune.run(study_settings(tmp_path, trials=4, ranges=narrow))
    assert [len(seen), seen[-1].targets] == [4, ("all-linear",)]
    assert all(0 < settings.dropout < 0.5 and (settings.learning_rate or 1) <= 2e-2 for settings in seen[2:])
    with pytest.raises(SettingsError, match=r"rank is searched in 2\|4 in that study; use the same ranges"):
        tune.run(study_settings(tmp_path, trials=5, ranges={"rank": [2, 8]}))
    with pytest.raises(SettingsError, match="learning_rate is searched on a logarithmic scale in one of the two"):
        tune.run(study_settings(tmp_path, trials=5, ranges={"learning_rate": "1e-3..2e-3"}))


WRONG = [
    ({"targets": "attention.qv|nowhere"}, "--ranges|ranges: targets: .*nowhere"),
    ({"max_length": "8..512"}, r"ranges: max_length: .* raise --max-length"),
    ({"method": "lora|top2", "max_length": [9]}, r"ranges: max_length: "),
    ({"base": "tiny|no-such-model"}, "no-such-model"),
]


@pytest.mark.parametrize(("ranges", "message"), WRONG)
def test_values_that_cannot_be_trained_are_reported_before_the_first_trial(
    ranges: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    with pytest.raises(UserError, match=message):
        tune.run(study_settings(tmp_path, ranges=ranges))
    assert not seen
    tune.run(study_settings(tmp_path, trials=1))  # the same folder serves corrected ranges


def test_a_combination_that_cannot_be_trained_is_pruned_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(monkeypatch, lambda settings: [1.0, 1.0])
    ranges = {"method": ["lora", "full"], "learning_rate": "1e-4..1e-3"}
    result = tune.run(study_settings(tmp_path, ranges=ranges, precision="int8", device="cpu", trials=8))
    states = {trial["settings"]["method"]: trial["state"] for trial in result["trials"]}
    assert states == {"lora": "complete", "full": "pruned"}
    assert all(
        "int8 is available for method lora only" in trial["why"]
        for trial in result["trials"]
        if trial["state"] == "pruned"
    )


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (SettingsError("no such thing"), False),
        (TrainingError("not finite"), False),
        (AdapterError("does not fit"), False),
        (MemoryError(), False),
        (torch.OutOfMemoryError("CUDA"), False),
        (OfflineError("no hub"), True),
        (DataError("the file is gone"), True),
        (caused(TrainingError("cannot be written"), OSError(errno.ENOSPC, "No space left on device")), True),
        (RuntimeError("a bug"), True),
    ],
)
def test_no_error_holds_up_a_study(
    error: Exception, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(settings: TrainSettings) -> list[float]:
        if settings.rank == 2:
            raise error
        return [1.0, 1.0]

    faked(monkeypatch, losses)
    settings = study_settings(tmp_path, ranges={"rank": [2, 4]}, rank=2, trials=6)
    starts = 1
    for _ in range(12):
        try:
            result = tune.run(settings)
            break
        except type(error):
            starts += 1
    else:
        pytest.fail("the study did not come to its end in twelve starts")
    assert ends == (starts > 1)
    assert len(result["trials"]) == 6
    assert result["best"]["settings"] == {"rank": 4}


def test_a_loss_that_is_not_finite_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, lambda settings: [1.0, float("nan") if settings.rank == 2 else 1.0])
    trials = tune.run(study_settings(tmp_path, ranges={"rank": [2, 4]}, trials=5))["trials"]
    assert {(trial["settings"]["rank"], trial["why"]) for trial in trials} == {
        (2, "the validation loss is nan"),
        (4, None),
    }


def test_nothing_to_validate_on_is_reported_first(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("name,text\nx,x is here .\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="no validation records"):
        tune.run(study_settings(tmp_path, data=str(tmp_path / "train.csv"), eval_every=1))


def test_trials_that_are_drawn_at_the_same_time_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between this process's last look at the study and its trial, another process makes one of its own."""
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    settings = study_settings(tmp_path, ranges={"learning_rate": "0.2..0.9"}, trials=2)
    ask, other = optuna.Study.ask, iter([settings.model_copy(update={"trials": 1})])

    def ask_late(study: optuna.Study) -> optuna.Trial:
        for first in other:
            tune.run(first)
        return ask(study)

    monkeypatch.setattr(optuna.Study, "ask", ask_late)
    tune.run(settings)
    assert len({each.learning_rate for each in seen}) == 2


@pytest.mark.parametrize("seed", [-5, 50_000, 10**30])
def test_any_seed_draws_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    seen = faked(monkeypatch, lambda settings: [2.0, 1.0])
    tune.run(study_settings(tmp_path, seed=seed))
    assert len({settings.peak_learning_rate for settings in seen}) == 3


def test_trials_without_a_process_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    settings = study_settings(tmp_path, storage=storage, ranges={"learning_rate": "0.2..0.9"}, trials=1)
    tune.run(settings)
    study = optuna.load_study(study_name="study", storage=studies._database(optuna, storage))
    rates = {"no process": 0.3, "another process of that number": 0.4, "of another machine": 0.5}
    for rate in rates.values():
        study.enqueue_trial({"learning_rate": rate})
    trials = {name: study.ask() for name in rates}
    for trial in trials.values():
        trial.suggest_float("learning_rate", 0.2, 0.9)
    trials["another process of that number"].set_user_attr("process", [platform.node(), os.getppid(), "long ago"])
    trials["of another machine"].set_user_attr("process", ["elsewhere", 1, "long ago"])
    studies.take_over(study)
    assert [trial.state.name for trial in study.trials[1:]] == ["RUNNING", "FAIL", "RUNNING", "WAITING"]
    monkeypatch.setattr(studies, "_UNCLAIMED", datetime.timedelta(0))
    studies.take_over(study)
    assert study.trials[1].state.name == "FAIL"
    assert studies.elsewhere(study) == {"elsewhere": 1}
    tune.run(study_settings(tmp_path, storage=storage, ranges={"learning_rate": "0.2..0.9"}, trials=4))
    assert {each.learning_rate for each in seen[1:]} == {0.3, 0.4}


KILLED = """
import os, signal, sys
from pathlib import Path
from tailora.commands import tune
from tailora.experiments import tuning

def train(settings, watch):
    if settings.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"validation_loss": {"after": 1.0}, "seconds": 1.0}

tuning.train = train
tune.run(tune.TuneSettings.from_yaml(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_settings_that_kill_every_process_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study_settings(tmp_path, ranges={"rank": [2, 4]}, rank=2, trials=3)
    config = tmp_path / "tune.yaml"
    config.write_text(settings.to_yaml(), encoding="utf-8")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(config)], capture_output=True, check=False)
    assert killed.returncode < 0, killed.stderr
    monkeypatch.setattr(studies, "TRIES", 1)
    journal = tmp_path / "study" / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "wor')
    faked(monkeypatch, lambda settings: [1.0, 1.0])
    first = tune.run(settings)["trials"][0]
    assert (first["settings"], first["state"], first["why"]) == (
        {"rank": 2},
        "pruned",
        "its process was killed 1 time",
    )


@pytest.mark.parametrize("content", ["name: x\n", "{}\n", "\x00\n"])
def test_a_storage_that_is_not_one(content: str, tmp_path: Path) -> None:
    place = tmp_path / "other.yaml"
    place.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"other.yaml: cannot be opened as a study"):
        tune.run(study_settings(tmp_path, storage=str(place)))
    with pytest.raises((SettingsError, MissingExtraError), match="nosuch://x: cannot be opened"):
        tune.run(study_settings(tmp_path, storage="nosuch://x"))


def test_folders_of_another_study_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    (tmp_path / "study" / "trial-0000").mkdir(parents=True)
    result = tune.run(study_settings(tmp_path, trials=1))
    assert seen[0].output == tmp_path / "study" / "trial-0000-2"
    assert result["best"]["run"] == "trial-0000-2"


@pytest.mark.parametrize(
    ("ranges", "what"),
    [
        ({}, "nothing to vary"),
        ({"ranks": [1, 2]}, "ranks is not a setting that can be varied"),
        ({"output": ["a", "b"]}, "output is not a setting that can be varied"),
        ({"learning_rate": "1e-3..1e-4"}, "is not a range"),
        ({"learning_rate": "a..b"}, "is not a range"),
        ({"rank": "1.5..4"}, "not a range of integers"),
        ({"schedule": "a..b"}, "does not accept a range"),
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


def test_a_database_is_left_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, lambda settings: [1.0])
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def watched(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", watched)
    monkeypatch.setattr(sqlite3.dbapi2, "connect", watched)
    tune.run(study_settings(tmp_path, storage=f"sqlite:///{tmp_path / 'study.db'}", trials=1))
    assert opened
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError):  # which SQLite raises for a closed connection
            connection.total_changes  # noqa: B018


def test_the_first_trial_has_the_own_settings_that_lie_in_their_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = faked(monkeypatch, lambda settings: [1.0, 1.0])
    tune.run(study_settings(tmp_path, ranges={"learning_rate": "1e-4..5e-2", "rank": [2, 4]}, trials=2))
    assert (seen[0].learning_rate, seen[0].rank in (2, 4)) == (2e-3, True)  # the default rank, 8, is not in its range
    assert seen[1].learning_rate != 2e-3
