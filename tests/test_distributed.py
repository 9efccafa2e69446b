"""Runs of several processes, as torchrun starts them: they end as a run of one process with the same batches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import distributed_gradients
from command_processes import run_together
from tailora.cli import main
from tailora.core import launch
from tailora.data.examples import Example
from tailora.training.run import TrainingInterrupted, run
from tailora.training.run_report import RunObserver
from tailora.training.settings import TrainSettings
from tailora.training.trees.shares import shares, tree_cost

TESTS = Path(__file__).parent
COMMON: dict[str, Any] = {
    "data": "restaurants",
    "base": "tiny",
    "limit": 7,
    "valid_limit": 4,
    "batch_size": 8,
    "epochs": 2,
    "eval_every": 2,
    "learning_rate": 5e-3,
    "tokens_per_pass": 200,
    "save_every": 0,
    "device": "cpu",
    "precision": "fp32",
}


def train(size: int, folder: Path, *, event: str = "", **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run `tailora train --json`; see `distributed_train.py` for the event."""
    options, environment = changes.pop("torchrun", ()), changes.pop("environment", {})
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**COMMON, **changes, "output": folder}.items()]
    program = [str(TESTS / "distributed_train.py"), "train", "--json", *flags]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}", *options, *program]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "EVENT": event, "PYTHONWARNINGS": "ignore"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=240, check=False)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_course(folder: Path, other: Path) -> None:
    """Compare the metrics of two runs up to the rounding of sums in another order."""
    one, two = metrics(folder), metrics(other)
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for line, expected in zip(one, two, strict=True):
        assert line == pytest.approx(expected, rel=2e-4)


def learnt(folder: Path) -> dict[str, bytes]:
    file = next((folder / "adapter").glob("*.safetensors"))
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}


def own_lines(process: subprocess.CompletedProcess[str]) -> list[str]:
    """The messages of Tailora on stderr."""
    return [line for line in process.stderr.splitlines() if line.startswith("tailora: ")]


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_gradients_and_losses_are_those_of_one_process(size: int, tmp_path: Path) -> None:
    errors = tmp_path / "errors.txt"
    codes = run_together(size, distributed_gradients.main, tmp_path / "differences.json", errors=errors)
    assert codes == [0] * size, errors.read_text("utf-8")
    differences = json.loads((tmp_path / "differences.json").read_text("utf-8"))
    assert len(differences) >= 97
    for case, (gradient, *losses) in differences.items():
        exact = case not in ("bf16", "int8")
        # Products of other shapes round 16-bit sums differently, and int8 rounds the head's gradient at random.
        assert gradient < (1e-12 if exact else 0.05), case
        assert max(losses) < (1e-12 if exact else 1e-5), case


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_continue_a_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    original = RunObserver.step

    def step(self: Any, line: dict[str, Any]) -> None:
        original(self, line)
        if line["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunObserver, "step", step)
        with pytest.raises(TrainingInterrupted):
            run(TrainSettings(**COMMON, output=tmp_path / "run"))
    done = train(size, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object, of one process
    assert result["processes"] == size
    assert result["steps"] == 6
    assert done.stderr.count("continuing ") == 1
    assert "after update 3" in done.stderr
    assert done.stderr.count("tiny: 4,470,272 parameters") == 1
    assert f"in {size} processes with 1 thread each" in " ".join(done.stderr.split())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"adapter", "loss.svg", "metrics.jsonl", "run.json"}
    run(TrainSettings(**COMMON, output=tmp_path / "alone"))
    assert_same_course(tmp_path / "run", tmp_path / "alone")


def test_the_others_end_when_one_is_killed_and_one_process_continues(tmp_path: Path) -> None:
    killed = train(2, tmp_path / "run", event="1:3:SIGKILL")
    assert killed.returncode != 0
    assert len(own_lines(killed)) == 1, killed.stderr
    assert "process 0 of 2 has lost the connection" in own_lines(killed)[0]
    assert "the same command continues the run" in own_lines(killed)[0]
    assert killed.stdout == ""
    # All that the first process had computed is saved, and what it saved can be used.
    assert metrics(tmp_path / "run")[-1]["step"] == 3
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    run(TrainSettings(**COMMON, output=tmp_path / "run"))
    run(TrainSettings(**COMMON, output=tmp_path / "alone"))
    assert_same_course(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_torchrun_passes_an_interrupt_on(tmp_path: Path, name: str) -> None:
    """Each process gets the signal in its own time; all end after the same update, and one process continues."""
    stopped = train(2, tmp_path / "run", event=f"1:3:torchrun {name}", save_every=60, epochs=30, max_steps=60)
    assert stopped.returncode != 0
    assert len(own_lines(stopped)) == 1, stopped.stderr
    assert "interrupted" in own_lines(stopped)[0]
    last = metrics(tmp_path / "run")[-1]["step"]
    assert 3 <= last < 60
    assert stopped.stderr.count("interrupted: the state after update ") == 1
    run(TrainSettings(**COMMON | {"save_every": 60, "epochs": 30, "max_steps": 60}, output=tmp_path / "run"))
    assert metrics(tmp_path / "run")[-1]["step"] == 60


def test_other_commands_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["evaluate", "--data", "restaurants"]) == 2
    assert "tailora evaluate: runs in one process, not in 2; start it without torchrun" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["evaluate", "--data", "restaurants"]) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["models"]) == 0


def test_variables_of_other_programs_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    assert (launch.size(), launch.rank(), launch.local_rank(), launch.local_size()) == (1, 0, 0, 1)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(1, 5),
    st.floats(0, 2),
)
def test_shares(texts: list[tuple[int, int]], number: int, head: float) -> None:
    examples = [Example("", (prompt,) * (prompt + 1), (11,) * length) for prompt, length in texts]
    parts = shares(examples, number, head=head)
    assert parts == shares(examples, number, head=head)
    assert sorted(map(id, examples)) == sorted(id(example) for part in parts for example in part)
    trees = {example.prompt for example in examples}
    whole = [tree_cost([example for example in examples if example.prompt == prompt], head) for prompt in trees]
    bound = max(sum(whole) / number, max(whole))  # no division of whole trees is better than this
    assert max(cost_of(part, head) for part in parts) <= (2 - 1 / number) * bound + 1e-9


def cost_of(part: list[Example], head: float) -> float:
    prompts = {example.prompt for example in part}
    return sum(tree_cost([example for example in part if example.prompt == prompt], head) for prompt in prompts)


def test_texts_of_one_prompt_are_divided() -> None:
    examples = [Example("", (1,), (start, *range(10, 40))) for start in range(8)]
    assert [len(part) for part in shares(examples, 4)] == [2, 2, 2, 2]


@pytest.mark.slow
def test_an_error_in_one_process_is_the_one_message(tmp_path: Path) -> None:
    failed = train(2, tmp_path / "run", event="1:3:error")
    assert failed.returncode != 0
    assert failed.stderr.count("RuntimeError: out of order") == 1
    assert len(own_lines(failed)) == 1, failed.stderr
    assert "this is a bug in Tailora" in own_lines(failed)[0]
    assert metrics(tmp_path / "run")[-1]["step"] == 3
    wrong = train(2, tmp_path / "wrong", targets="nothing")
    assert len(own_lines(wrong)) == 1, wrong.stderr
    again = train(2, tmp_path / "run", learning_rate=1e-3)
    assert len(own_lines(again)) == 1, again.stderr
    assert "learning_rate was 0.005 and is 0.001" in own_lines(again)[0]


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run(tmp_path: Path) -> None:
    began = time.monotonic()
    hung = train(
        2,
        tmp_path / "run",
        event="1:3:SIGSTOP",
        torchrun=("--shutdown-timeout=3",),
        environment={"TAILORA_PROCESS_TIMEOUT": "20"},
    )
    assert hung.returncode != 0
    assert time.monotonic() - began < 100
    assert len(own_lines(hung)) == 1, hung.stderr
    assert "has ended or does not answer" in own_lines(hung)[0]


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_to_the_same_bits(tmp_path: Path) -> None:
    """The same number of processes gives the same bits, with dropout, killed or not."""
    for changes in ({"dropout": 0.2}, {"precision": "int8", "targets": "all-linear"}, {"precision": "auto"}):
        name = re.sub(r"\W", "", str(changes))
        whole = train(2, tmp_path / f"{name}-whole", **changes)
        assert whole.returncode == 0, whole.stderr
        if changes["precision" if "precision" in changes else "dropout"] == "auto":
            assert "timed" in whole.stderr
            continue
        killed = train(2, tmp_path / name, event="1:3:SIGKILL", **changes)
        assert killed.returncode != 0
        resumed = train(2, tmp_path / name, **changes)
        assert resumed.returncode == 0, resumed.stderr
        assert metrics(tmp_path / name) == metrics(tmp_path / f"{name}-whole")
        assert learnt(tmp_path / name) == learnt(tmp_path / f"{name}-whole")


@pytest.mark.slow
def test_full_fine_tuning_is_sharded_and_continues_with_another_number(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"method": "full", "learning_rate": 5e-4}
    killed = train(3, tmp_path / "run", event="2:3:SIGKILL", **changes)
    assert killed.returncode != 0
    assert len(own_lines(killed)) == 1, killed.stderr
    for size in (2, 1):  # the second is interrupted, the last one ends
        done = train(size, tmp_path / "run", event="0:5:torchrun SIGTERM" if size == 2 else "", **changes)
    assert done.returncode == 0, done.stderr
    run(TrainSettings(**COMMON | changes, output=tmp_path / "alone"))
    assert_same_course(tmp_path / "run", tmp_path / "alone")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "alone"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert float((tensor - two[name]).abs().max()) < 2e-3, name  # Adam's steps amplify gradients of about 0
