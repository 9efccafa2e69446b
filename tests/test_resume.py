"""A run that is killed and continued ends as one that was not: the same adapter, the same metrics, to the last bit."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bases import save_base
from command_processes import locked, started
from tailora import cli
from tailora.core.errors import SettingsError, TrainingError
from tailora.training import int8
from tailora.training import run as run_module
from tailora.training.resume import ResumeFolder, Saver, is_unfinished
from tailora.training.run import TrainingInterrupted, run
from tailora.training.run_report import RunObserver
from tailora.training.settings import TrainSettings

COMMON: dict[str, Any] = {
    "batch_size": 5,
    "epochs": 2,
    "eval_every": 2,
    "learning_rate": 5e-3,
    "tokens_per_pass": 60,
    "save_every": 0,
    "device": "cpu",
}
TINY: dict[str, Any] = {"data": "restaurants", "base": "tiny", "limit": 4, "valid_limit": 1, "tokens_per_pass": 120}
ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy", "Di")
    for colour in ("red", "blue", "green", "grey")
]
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {"dropout": 0.2, "precision": "fp32"},
    "dora": {"dora": True, "bias": "lora_only", "precision": "fp32"},
    "lora plus": {"lora_plus_ratio": 8, "dora": True, "targets": ("attention", "embedding"), "precision": "fp32"},
    "int8": {"targets": ("all-linear",), "precision": "int8"},
    "bf16": {"precision": "bf16"},
    "full": {"method": "full", "learning_rate": 5e-4, "precision": "fp32"},
    "bitfit": {"method": "bitfit", "precision": "fp32"},
    "top2": {"method": "top2", "learning_rate": 1e-3, "precision": "fp32"},
    "adapter-h": {"method": "adapter-h", "precision": "fp32"},
    "adapter-l": {"method": "adapter-l", "precision": "fp32"},
    "prefix": {"method": "prefix", "precision": "fp32"},
    "patience": {"patience": 2, "learning_rate": 0.02, "epochs": 6, "eval_every": 1, "precision": "fp32"},
    "average": {"average": 0.5, "epochs": 3, "dropout": 0.2, "precision": "fp32"},
    "average of all weights": {"average": 0.8, "method": "full", "learning_rate": 5e-4, "precision": "fp32"},
    "no validation": {"valid": None, "precision": "fp32"},
}


@pytest.fixture(scope="module", autouse=True)
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A base and data that train in milliseconds."""
    folder = tmp_path_factory.mktemp("recipe")
    save_base(folder / "base")
    (folder / "colours").mkdir()
    for split, rows in (("train", ROWS[:12]), ("valid", ROWS[12:])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "colours" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMMON, "base", str(folder / "base"))
        patch.setitem(COMMON, "data", str(folder / "colours"))
        yield


class Killed(BaseException):
    """What no handler expects, as little as a SIGKILL."""


def settings(folder: Path, **changes: Any) -> TrainSettings:
    return TrainSettings(**{**COMMON, "output": folder, **changes})


def kill_at(monkeypatch: pytest.MonkeyPatch, steps: list[int], place: str) -> None:
    """End the run after some of its updates or validations, each once."""
    original = getattr(RunObserver, place)
    left = list(steps)

    def killing(self: Any, line: dict[str, Any], *rest: Any) -> None:
        original(self, line, *rest)
        if left and line["step"] == left[0]:
            left.pop(0)
            raise Killed

    monkeypatch.setattr(RunObserver, place, killing)


def learnt(folder: Path) -> dict[str, Any]:
    """The tensors of a run's result."""
    result = json.loads((folder / "run.json").read_text("utf-8"))
    saved = folder / result["saved"]
    file = saved if saved.is_file() else next(saved.glob("*.safetensors"))
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run that nothing interrupts, once for all tests that compare others with it; takes its settings."""
    folders: dict[str, Path] = {}

    def run_once(**changes: Any) -> Path:
        key = json.dumps(changes, sort_keys=True)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("whole") / "run"
            run(settings(folders[key], **changes))
        return folders[key]

    return run_once


def finish(wanted: TrainSettings, tries: int = 12) -> int:
    """Run until the run ends; how often it was killed."""
    for kills in range(tries):
        try:
            run(wanted)
        except Killed:
            continue
        return kills
    raise AssertionError("the run does not end")


@pytest.mark.parametrize(
    ("name", "place"),
    [(name, "step") for name in VARIANTS]
    + [
        pytest.param(name, "validated", marks=() if name == "lora" else pytest.mark.slow)
        for name in VARIANTS
        if name != "no validation"
    ],
)
def test_a_killed_run_ends_as_one_that_was_not(
    tmp_path: Path, whole: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    changes = VARIANTS[name]
    if name == "no validation":  # a file has no splits
        source = tmp_path / "data.jsonl"
        rows = [{"name": f"Place {n}", "food": "soup", "text": f"Place {n} serves soup."} for n in range(24)]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        changes = {"precision": "fp32", "data": str(source), "average": 0.5}
    steps = {"validated": [2, 4], "step": [2, 5] if name in ("lora", "patience") else [3]}[place]
    with monkeypatch.context() as patched:
        kill_at(patched, steps, place)
        kills = finish(settings(tmp_path / "killed", **changes))
    assert kills >= 1
    expected = whole(**changes)
    assert metrics(tmp_path / "killed") == metrics(expected)
    assert learnt(tmp_path / "killed") == learnt(expected)
    assert not is_unfinished(tmp_path / "killed")
    before, after = (json.loads((run / "run.json").read_text("utf-8")) for run in (expected, tmp_path / "killed"))
    assert after["validation_loss"] == before["validation_loss"]
    assert after["warnings"] == before["warnings"]


def test_an_interrupted_run_continues(
    tmp_path: Path, whole: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RunObserver.step

    def step(self: Any, line: dict[str, Any]) -> None:
        original(self, line)
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    wanted = settings(tmp_path / "stopped", precision="fp32", save_every=60)
    with monkeypatch.context() as patched:
        patched.setattr(RunObserver, "step", step)
        with pytest.raises(TrainingInterrupted) as caught:
            run(wanted)
    assert caught.value.folder == tmp_path / "stopped"
    assert (tmp_path / "stopped" / "adapter" / "adapter_model.safetensors").is_file()
    assert metrics(tmp_path / "stopped")[-1]["step"] == 3
    run(wanted)
    expected = whole(precision="fp32")
    assert metrics(tmp_path / "stopped") == metrics(expected)
    assert learnt(tmp_path / "stopped") == learnt(expected)


def test_the_same_command_continues_a_run_of_the_default_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = TrainSettings(**COMMON, precision="fp32")
    with monkeypatch.context() as patched:
        kill_at(patched, [3], "step")
        with pytest.raises(Killed):
            run(wanted)
    other = run(TrainSettings(**COMMON | {"seed": 1}, precision="fp32"))
    assert other["run"] == str(Path("runs") / "colours-lora-2")
    capsys.readouterr()
    assert run(wanted)["run"] == str(Path("runs") / "colours-lora-1")
    assert "continuing runs" in capsys.readouterr().err
    assert run(wanted)["run"] == str(Path("runs") / "colours-lora-3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, "rank was 8 and is 4"),
        ({"limit": 8}, "limit was None and is 8, the training data has changed"),
        ({"epochs": 5}, "the run would have 15 updates instead of 6"),
        ({"resume": "never"}, "contains an unfinished run; continue it without --resume never"),
    ],
    ids=["settings", "data", "length", "never"],
)
def test_another_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    with monkeypatch.context() as patched:
        kill_at(patched, [3], "step")
        with pytest.raises(Killed):
            run(settings(tmp_path / "run", precision="fp32"))
    kept = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(SettingsError, match=message):
        run(settings(tmp_path / "run", precision="fp32", **changes))
    assert sorted((tmp_path / "run").rglob("*")) == kept


@pytest.mark.skipif(not int8.supported(), reason="this CPU has no AVX2 instructions")
def test_a_run_in_8_bits_does_not_continue_without_its_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is queued again may get a GPU, or an older CPU."""
    with monkeypatch.context() as patched:
        kill_at(patched, [3], "step")
        with pytest.raises(Killed):
            run(settings(tmp_path / "run", **VARIANTS["int8"]))
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "available", lambda method, device: ("fp32", "tf32", "bf16"))
        with pytest.raises(SettingsError, match=r"the run computes in int8, .*; continue it with --device cpu on such"):
            run(settings(tmp_path / "run", **VARIANTS["int8"]))
    assert run(settings(tmp_path / "run", **VARIANTS["int8"]))["steps"] == 6


def test_a_finished_run_says_how_to_use_it(tmp_path: Path) -> None:
    place = tmp_path / "run"
    run(settings(place, precision="fp32"))
    use = re.escape(f"{place}: contains a finished run; use it with --adapter {place}, or train in another directory")
    with pytest.raises(SettingsError, match=use):
        run(settings(place, precision="fp32"))
    run(settings(tmp_path / "constant", precision="fp32", schedule="constant"))
    with pytest.raises(SettingsError, match="or raise --epochs to continue it, or train in another directory"):
        run(settings(tmp_path / "constant", precision="fp32", schedule="constant"))


def test_a_constant_schedule_can_be_longer(
    tmp_path: Path, whole: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        kill_at(patched, [3], "step")
        with pytest.raises(Killed):
            run(settings(tmp_path / "run", **CONSTANT))
    run(settings(tmp_path / "run", **CONSTANT, epochs=4))
    assert learnt(tmp_path / "run") == learnt(whole(**CONSTANT, epochs=4))


@pytest.mark.parametrize("valid", ["valid", None], ids=["validated", "not validated"])
def test_what_a_killed_run_saved_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid: str | None
) -> None:
    """Its adapter writes texts, is scored and is merged, also before a validation has chosen a state."""
    changes: dict[str, Any] = TINY if valid else TINY | {"eval_every": 99}
    with monkeypatch.context() as patched:
        kill_at(patched, [3], "step")
        with pytest.raises(Killed):
            run(settings(tmp_path / "run", precision="fp32", **changes))
    assert is_unfinished(tmp_path / "run")
    common = ["--base", "tiny", "--adapter", str(tmp_path / "run")]
    record = ["--record", "name : Blue Spice"]
    assert cli.main(["generate", *common, *record, "--output", str(tmp_path / "texts.jsonl")]) == 0
    scored = ["--input", "restaurants", "--split", "test", "--limit", "2", "--output", str(tmp_path / "scores")]
    assert cli.main(["evaluate", *common, *scored]) == 0
    assert cli.main(["merge", *common, "--output", str(tmp_path / "merged")]) == 0
    assert is_unfinished(tmp_path / "run")


def test_a_state_of_a_version_with_fewer_settings_is_continued(
    tmp_path: Path, whole: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings(tmp_path / "run", precision="fp32")
    kill_at(monkeypatch, [2], "step")
    with pytest.raises(Killed):
        run(wanted)
    with ResumeFolder(tmp_path / "run") as states:
        loaded = states.load()
        assert loaded is not None
        job, state, _ = loaded
        earlier = {name: value for name, value in job.settings.items() if name not in ("bottleneck", "prefix_tokens")}
        states.save(dataclasses.replace(job, settings=earlier), state)
    with pytest.raises(SettingsError, match="bottleneck was 64 and is 8"):
        run(wanted.model_copy(update={"bottleneck": 8}))
    run(wanted)
    assert learnt(tmp_path / "run") == learnt(whole(precision="fp32"))


CONSTANT: dict[str, Any] = {"precision": "fp32", "schedule": "constant", "warmup_steps": 0, "dropout": 0.2}


@pytest.mark.parametrize(
    ("changes", "is_killed"),
    [
        pytest.param({}, False, id="lora"),
        pytest.param({}, True, id="lora-killed", marks=pytest.mark.slow),
        pytest.param({"eval_every": 4}, False, id="uneven", marks=pytest.mark.slow),
        pytest.param({"eval_every": 4}, True, id="uneven-killed"),
        pytest.param({"method": "bitfit"}, False, id="bitfit"),
        pytest.param({"method": "bitfit"}, True, id="bitfit-killed", marks=pytest.mark.slow),
    ],
)
def test_a_finished_run_can_be_longer(
    tmp_path: Path,
    whole: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    is_killed: bool,
) -> None:
    """Also if a validation at its end would not have been in the longer run, and if the longer run is killed."""
    constant = CONSTANT | changes
    run(settings(tmp_path / "run", **constant))
    assert not is_unfinished(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "resume").glob("*.safetensors")] == ["final.safetensors"]
    with pytest.raises(SettingsError, match="contains a finished run"):
        run(settings(tmp_path / "run", **constant))
    if is_killed:
        with monkeypatch.context() as patched:
            kill_at(patched, [8, 9], "step")
            assert finish(settings(tmp_path / "run", **constant, epochs=4)) == 2
    else:
        run(settings(tmp_path / "run", **constant, epochs=4))
    expected = whole(**constant, epochs=4)
    assert metrics(tmp_path / "run") == metrics(expected)
    assert learnt(tmp_path / "run") == learnt(expected)


def test_a_finished_run_cannot_be_another(tmp_path: Path) -> None:
    run(settings(tmp_path / "run", **CONSTANT))
    kept = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(SettingsError, match="rank was 8 and is 4"):
        run(settings(tmp_path / "run", **CONSTANT, epochs=4, rank=4))
    with pytest.raises(SettingsError, match="a run can only become longer"):
        run(settings(tmp_path / "run", **CONSTANT, epochs=1))
    with pytest.raises(SettingsError, match=r"the warm-up would be 1 updates instead of 0 \(--warmup-steps 0 keeps it"):
        run(settings(tmp_path / "run", **CONSTANT | {"warmup_steps": 50}, epochs=4))
    with pytest.raises(SettingsError, match="contains a finished run"):
        run(settings(tmp_path / "run", **CONSTANT, epochs=4, resume="never"))
    run(settings(tmp_path / "averaged", **CONSTANT, average=0.5))
    with pytest.raises(SettingsError, match="the average would be over other updates"):
        run(settings(tmp_path / "averaged", **CONSTANT, average=0.5, epochs=4))
    shutil.rmtree(tmp_path / "averaged")
    assert sorted((tmp_path / "run").rglob("*")) == kept


def test_why_a_finished_run_cannot_be_longer(tmp_path: Path) -> None:
    run(settings(tmp_path / "run", precision="fp32"))
    assert not (tmp_path / "run" / "resume").exists()
    with pytest.raises(
        SettingsError, match="cannot be made longer: its linear schedule depends on the number of updates"
    ):
        run(settings(tmp_path / "run", precision="fp32", epochs=4))
    with pytest.raises(SettingsError, match="contains a finished run"):
        run(settings(tmp_path / "run", precision="fp32", epochs=4, rank=4))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after five updates and has two states; copy it."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patched:
        kill_at(patched, [5], "step")
        with pytest.raises(Killed):
            run(settings(folder, precision="fp32"))
    return folder


def warnings_in(errors: str) -> list[str]:
    """The warnings on stderr, except that the random base predicts no better than chance."""
    return [line for line in errors.splitlines() if line.startswith("warning: ") and "chance" not in line]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def swap(one: Path, two: Path) -> None:
    contents = one.read_bytes(), two.read_bytes()
    two.write_bytes(contents[0])
    one.write_bytes(contents[1])


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "truncated": (lambda newest, _: os.truncate(newest, 1000), "is damaged"),
    "in a tensor": (lambda newest, _: flip(newest, -1000), "is damaged"),
    "in the JSON": (lambda newest, _: flip(newest, newest.read_bytes().index(b"fruitless")), "is damaged"),
    "a folder": (lambda newest, _: become_a_folder(newest), "cannot be read"),
    "missing": (lambda newest, _: newest.unlink(), ""),
    "swapped": (swap, ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_gives_way_to_the_one_before(
    tmp_path: Path, whole: Callable[..., Path], killed: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    newest, older = ResumeFolder(tmp_path / "run").states()
    apply, problem = DAMAGES[damage]
    apply(newest, older)
    run(settings(tmp_path / "run", precision="fp32"))
    warnings = warnings_in(capsys.readouterr().err)
    assert len(warnings) == bool(problem), warnings
    if problem:
        assert f"{newest.name} {problem}" in warnings[0]
        assert warnings[0].endswith("the run continues from an earlier state")
    expected = whole(precision="fp32")
    assert metrics(tmp_path / "run") == metrics(expected)
    assert learnt(tmp_path / "run") == learnt(expected)
    assert not (tmp_path / "run" / "resume").exists()


def test_states_that_are_all_damaged_are_one_error_and_nothing_is_lost(
    tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "runs" / "colours-lora-1"
    shutil.copytree(killed, folder)
    newest, older = ResumeFolder(folder).states()
    flip(newest, -1)
    os.truncate(older, 100)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    problem = f"{newest.name} is damaged; {older.name} is damaged; train in another directory with --output"
    with pytest.raises(SettingsError, match=re.escape(problem)):
        run(settings(folder, precision="fp32"))
    monkeypatch.chdir(tmp_path)
    assert run(TrainSettings(**COMMON, precision="fp32"))["run"] == str(Path("runs") / "colours-lora-2")
    assert problem in caplog.text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_without_a_state_says_that_it_starts_from_the_beginning(
    tmp_path: Path, whole: Callable[..., Path], killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    for path in ResumeFolder(tmp_path / "run").states():
        path.unlink()
    run(settings(tmp_path / "run", precision="fp32"))
    assert "resume contains no saved state, so the run starts from the beginning" in capsys.readouterr().err
    assert learnt(tmp_path / "run") == learnt(whole(precision="fp32"))


def test_a_state_of_another_run_is_refused(tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(killed, tmp_path / "run")
    with monkeypatch.context() as patched:
        kill_at(patched, [5], "step")
        with pytest.raises(Killed):
            run(settings(tmp_path / "other", precision="fp32", seed=7))
    newest, _ = ResumeFolder(tmp_path / "run").states()
    shutil.copy(ResumeFolder(tmp_path / "other").states()[0], newest)
    with pytest.raises(SettingsError, match="seed was 7 and is 0"):
        run(settings(tmp_path / "run", precision="fp32"))
    assert len(ResumeFolder(tmp_path / "run").states()) == 2


@pytest.mark.parametrize("damage", ["missing", "truncated", "a line", "a figure"])
def test_damaged_metrics_are_reported_and_the_run_continues(
    tmp_path: Path, whole: Callable[..., Path], killed: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    content = path.read_bytes()
    digit = content.index(b'"loss": ') + len(b'"loss": ')
    damaged = {
        "missing": None,
        "truncated": content[: len(content) // 2],
        "a line": content.replace(b'"step": 2', b'"step\xff 2', 1),
        "a figure": content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :],
    }[damage]
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    run(settings(tmp_path / "run", precision="fp32"))
    (warning,) = warnings_in(capsys.readouterr().err)
    assert f"{path} is damaged; figures up to update 4 are missing or wrong" in warning
    expected, course = metrics(whole(precision="fp32")), metrics(tmp_path / "run")
    assert learnt(tmp_path / "run") == learnt(whole(precision="fp32"))
    assert course[-3:] == expected[-3:], "what follows is complete"
    assert sum(line not in expected for line in course) == (damage == "a figure")
    lost = len(expected) - len(course)
    assert lost == {"missing": len(expected) - 3, "a line": 1, "a figure": 0}.get(damage, lost)


def test_an_unknown_error_keeps_the_states(tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch reports a full memory as a plain RuntimeError on a CPU."""

    def step(self: Any, line: dict[str, Any]) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    shutil.copytree(killed, tmp_path / "run")
    monkeypatch.setattr(RunObserver, "step", step)
    with pytest.raises(RuntimeError):
        run(settings(tmp_path / "run", precision="fp32"))
    assert len(ResumeFolder(tmp_path / "run").states()) == 2


def test_states_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "resume"
    folder.mkdir(parents=True)
    (folder / "state-000000003.safetensors").write_bytes(b"nothing")
    with pytest.raises(SettingsError, match=r"states of the run cannot be used: state-0+3\.safetensors is damaged"):
        run(settings(tmp_path / "run", precision="fp32"))


@pytest.mark.parametrize(
    ("record", "ended"),
    [
        ({"finished": "2026-11-27T17:00:00Z", "interrupted": False, "failed": None}, True),
        ({"finished": "2026-11-27T17:00:00Z", "interrupted": True, "failed": "the loss is not finite"}, True),
        ({"finished": "2026-11-27T17:00:00Z", "interrupted": True, "failed": None}, False),
        ({"settings": {}}, False),
        (None, False),
    ],
    ids=["finished", "failed", "interrupted", "killed", "killed at its start"],
)
def test_a_folder_that_could_not_be_removed_makes_no_run_unfinished(
    tmp_path: Path, record: dict[str, Any] | None, ended: bool
) -> None:
    """NFS keeps a state that is still mapped into memory, under another name."""
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / ".nfs0000000000000001").touch()
    if record is not None:
        (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert is_unfinished(tmp_path) is not ended
    (tmp_path / "resume" / "state-000000003.safetensors").touch()
    assert is_unfinished(tmp_path)


def test_one_process_has_a_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(SettingsError, match="another process is training in this directory"):
        run(settings(tmp_path / "run", precision="fp32"))
    assert run(settings(tmp_path / "run", precision="fp32"))["steps"] == 6


def test_a_full_disk_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ResumeFolder, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ResumeFolder, "save", full)
    result = run(settings(tmp_path / "run", precision="fp32", **TINY))
    assert result["warnings"] == ["the last state of the run could not be saved (No space left on device)"]
    assert result["steps"] == 6


def test_states_are_saved_in_time_and_not_too_often() -> None:
    now, saved = [0.0], []

    def save() -> None:
        saved.append(now[0])
        now[0] += 3.0  # what saving takes

    saver = Saver(save, minutes=5, clock=lambda: now[0])
    for _ in range(2000):
        now[0] += 1.0
        saver.after_update(validated=False)
    assert saved == [300.0, 603.0, 906.0, 1209.0, 1512.0, 1815.0]
    assert saver.seconds == 18.0
    saved.clear()
    for _ in range(1000):
        now[0] += 1.0
        saver.after_update(validated=True)
    assert 2 <= len(saved) <= 4  # 3 seconds of saving after 300 of training


def test_a_loss_that_is_not_finite_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RunObserver.step

    def step(self: Any, line: dict[str, Any]) -> None:
        original(self, line)
        if line["step"] == 5:
            raise TrainingError("the loss is not finite at update 6", hint="lower the learning rate")

    monkeypatch.setattr(RunObserver, "step", step)
    with pytest.raises(TrainingError, match="the state after update 4 is saved in"):
        run(settings(tmp_path / "run", precision="fp32"))
    assert not is_unfinished(tmp_path / "run")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("is_killed", [False, True], ids=["whole", "killed"])
def test_a_run_that_only_got_worse_leaves_no_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    wanted = settings(tmp_path / "run", precision="fp32", **TINY | {"learning_rate": 2.0, "limit": 3})
    if is_killed:
        kill_at(monkeypatch, [3], "step")
        with pytest.raises(Killed):
            run(wanted)
        assert (wanted.output / "adapter").is_dir()  # type: ignore[operator]  # better than nothing
    with pytest.raises(TrainingError, match="still all zero"):
        run(wanted)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "metrics.jsonl"}


KILLED: dict[str, dict[str, Any]] = {
    name: VARIANTS[name]
    for name in ("lora", "average", "int8", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix")
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KILLED)
def test_killed_by_the_system_at_random_moments(tmp_path: Path, whole: Callable[..., Path], name: str) -> None:
    """Dropout and accumulation are on; the moments lie in the start, in updates, in saving, and after the end."""
    changes = {**TINY, **KILLED[name], "epochs": 16}
    flags = {**COMMON, **changes, "output": tmp_path / "killed"}
    flags["targets"] = ",".join(changes.get("targets", ("all-linear",)))
    arguments = ["train", *(f"--{key.replace('_', '-')}={value}" for key, value in flags.items())]
    log, rng, kills, continued = tmp_path / "killed" / "metrics.jsonl", random.Random(7), 0, 0
    while True:
        begun = log.stat().st_size if log.exists() else 0
        continued += bool(ResumeFolder(tmp_path / "killed").states())
        process = started(arguments, tmp_path / "errors.txt")
        while process.is_alive() and (not log.exists() or log.stat().st_size == begun):
            time.sleep(0.005)
        process.join(rng.uniform(0.0, 0.6))
        if not process.is_alive() or kills == 20:
            break
        process.kill()
        process.join()
        kills += 1
    process.join()
    assert process.exitcode == 0, (tmp_path / "errors.txt").read_text(encoding="utf-8")
    print(f"{name}: {kills} kills, {continued} starts from a saved state")
    assert kills >= 5
    assert not list((tmp_path / "killed").rglob(".*")), "nothing is left of unfinished writes"
    expected = whole(**changes)
    assert metrics(tmp_path / "killed") == metrics(expected)
    assert learnt(tmp_path / "killed") == learnt(expected)
