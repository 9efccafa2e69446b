"""The demonstration of examples/NLG: exact parameter counts, and the three scripts on a reduced network."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol, cast

import pytest
import torch

import demo_network
import demo_training
from tailora.core.errors import ModelError
from tailora.data.examples import Example
from tailora.lora.inject import attach, parameter_table

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "examples" / "NLG"


class Script(Protocol):
    """A script of examples/NLG."""

    METHODS: tuple[str, ...]

    def main(self, arguments: list[str]) -> int: ...

    def show(self, lora: dict[str, float], full: dict[str, float]) -> None: ...


def script(name: str) -> Script:
    return cast(Script, importlib.import_module(name))


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstration network with narrow layers, so that a run takes a second."""
    build = demo_network.build
    monkeypatch.setattr(demo_network, "build", lambda: build(width=32, inner=64))


def test_the_parameter_counts_are_exact() -> None:
    with torch.device("meta"):
        network = demo_network.DemoNetwork()
        base = sum(parameter.numel() for parameter in network.parameters())
    network = network.to_empty(device="cpu")
    attach(network, demo_network.lora_config())
    table = parameter_table(network)
    assert table.frozen == base
    counts = demo_training.ParameterCounts(base=base, adapter=table.trainable)
    assert counts.adapter == 1_062_160
    assert (counts.total, counts.base) == (87_752_033, 86_689_873)
    shown = [counts.percent, counts.base_megabytes, counts.adapter_megabytes]
    shown += [counts.fewer_percent, counts.times_smaller]
    assert [f"{value:.2f}" for value in shown] == ["1.21", "330.70", "4.05", "98.77", "81.62"]


def test_a_network_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_network, "fingerprint_module", lambda network: "another fingerprint")
    monkeypatch.setattr(demo_network, "DemoNetwork", lambda **sizes: _small())
    with pytest.raises(ModelError, match="do not have the expected fingerprint"):
        demo_network.build()


_SMALL = demo_network.DemoNetwork


def _small() -> demo_network.DemoNetwork:
    return _SMALL(vocabulary=10, width=4, inner=8)


def test_weights_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    states = []
    for count in (1, 2):
        torch.set_num_threads(count)
        states.append(demo_network.build(vocabulary=3000, width=32, inner=64).state_dict())
    torch.set_num_threads(threads)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_only_completion_tokens_are_scored() -> None:
    ids, targets = demo_training.padded([Example("a", (1, 2), (3, 4)), Example("b", (5,), (6,))])
    assert ids.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert targets.tolist() == [[-100, 3, 4], [6, -100, -100]]


@pytest.mark.usefixtures("reduced")
def test_train_then_run_in_both_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--max_train_samples", "16", "--num_epochs", "2", "--lr", "0.03", "--lora_dim", "4"]
    assert script("run_training").main(arguments) == 0
    state = torch.load("lora_model/pytorch_model.bin", weights_only=True)
    assert len(state) == 10
    assert state["blocks.0.first.lora_A"].shape == (4, 32)
    assert script("run_inference").main([]) == 0
    printed = capsys.readouterr().out
    assert printed.count("logits [2, 32, 50257]") == 2
    assert "the two modes agree" in printed


@pytest.mark.usefixtures("reduced")
def test_measuring_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    compare = script("compare_lora_vs_full")
    measured = {}
    for method in compare.METHODS:
        assert compare.main(["--max_train_samples", "16", "--lora_dim", "4", "--measure", method]) == 0
        measured[method] = json.loads(capsys.readouterr().out)
    assert measured["lora"]["trainable"] < measured["full"]["trainable"] == measured["full"]["base"]
    compare.show(measured["lora"], {**measured["full"], "memory": 2.0})
    assert "smaller" in capsys.readouterr().out


@pytest.mark.usefixtures("reduced")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("run_training", ["--max_train_samples", "100000"], "100000 train records were requested, but there are 600"),
        ("run_training", ["--lora_dim", "0"], "at least 1"),
        ("run_training", ["--lr", "-1", "--max_train_samples", "2"], "lr: must be positive"),
        ("run_inference", [], "run run_training.py first"),
    ],
)
def test_mistakes_are_one_line(
    name: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert script(name).main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("training", "inference"),
    [(SCRIPTS, ROOT), pytest.param(ROOT, SCRIPTS, marks=pytest.mark.slow)],
    ids=["trained in examples/NLG", "trained in the repository"],
)
def test_the_scripts_run_as_in_the_guide(training: Path, inference: Path, tmp_path: Path) -> None:
    """`--model tiny` is fast; the imports and paths are the same as without it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def run(folder: Path, name: str, *arguments: str) -> str:
        command = [sys.executable, str(SCRIPTS.relative_to(folder) / name), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ["--model", "tiny", "--max_train_samples", "8", "--num_epochs", "1"]
    trained = run(training, "run_training.py", *small, "--output_dir", str(tmp_path))
    assert re.search(r"^parameters: [\d,]+ total, [\d,]+ trainable", trained, re.MULTILINE)
    shown = run(inference, "run_inference.py", "--checkpoint_dir", str(tmp_path))
    assert shown.endswith("the two modes agree\n")


def test_the_demonstration_is_not_in_the_package() -> None:
    assert not list((ROOT / "src").rglob("demo*.py"))
