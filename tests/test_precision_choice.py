"""The choice of a precision: stable on a busy machine, and kept for the machine."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tailora.data.examples import Example
from tailora.training import precision_choice
from tailora.training.precision import available
from tailora.training.precision_choice import NOISE, PrecisionChoice, choose, compare, fastest
from training_cases import EXAMPLES, prepared, settings_of

PRECISIONS = ("fp32", "bf16", "int8")


class Timed:
    """Stands in for the timing of blocks: counts its calls and gives the times that it was made with."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self, names: Sequence[str]) -> dict[str, float]:
        self.calls += 1
        return {name: self.seconds[name] for name in names}


def chosen(
    timed: Timed,
    method: str = "lora",
    operations: float = 1e13,
    model: nn.Module | None = None,
    texts: Sequence[Example] = EXAMPLES,
    **more: Any,
) -> PrecisionChoice:
    settings, names = settings_of(method, **more), tuple(timed.seconds)
    return choose(model or prepared("llama", settings), texts, settings, "cpu", operations, names, timed)


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ({"fp32": 1.0, "bf16": 2.0, "int8": 3.0}, "fp32"),
        ({"fp32": 1.0, "bf16": 0.5, "int8": 0.7}, "bf16"),
        ({"fp32": 1.0, "bf16": 0.5, "int8": 0.4}, "int8"),
        ({"fp32": 1.0, "bf16": 0.99, "int8": 0.97}, "fp32"),  # no more than the noise
        ({"fp32": 2.0, "bf16": 0.41, "int8": 0.4}, "bf16"),
        ({"fp32": 1.0, "tf32": 0.6, "bf16": 0.6}, "tf32"),
        ({"int8": 0.4}, "int8"),
    ],
)
def test_the_fastest_is_taken_and_the_most_exact_of_equals(seconds: dict[str, float], taken: str) -> None:
    assert fastest(seconds) == taken
    assert seconds[taken] <= NOISE * min(seconds.values())


def test_auto_takes_what_the_times_say_and_times_once() -> None:
    timed = Timed(fp32=1.0, bf16=0.5, int8=0.7)
    first, second = chosen(timed), chosen(timed)
    assert (first.precision, first.reason, dict(first.seconds)) == ("bf16", "timed", timed.seconds)
    assert (second.precision, second.reason, dict(second.seconds)) == ("bf16", "timed by an earlier run", timed.seconds)
    assert timed.calls == 1
    assert str(first) == "bf16 (timed: an update takes fp32 1000 ms, bf16 500 ms, int8 700 ms)"


@pytest.mark.parametrize(
    ("method", "change"),
    [("full", {}), ("dora", {}), ("lora", {"rank": 2}), ("lora", {"dropout": 0.1}), ("lora", {"batch_size": 8})],
)
def test_another_method_has_times_of_its_own(method: str, change: dict[str, Any]) -> None:
    timed = Timed(fp32=1.0, bf16=0.5)
    chosen(timed)
    chosen(timed, method, **change)
    assert timed.calls == 2


@pytest.mark.parametrize("change", ["threads", "model", "texts"])
def test_another_model_or_size_has_times_of_its_own(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    timed = Timed(fp32=1.0, bf16=0.5)
    chosen(timed)
    texts = [*EXAMPLES, Example("9", tuple(range(1, 50)), (3, 0))] if change == "texts" else EXAMPLES
    model = prepared("mistral" if change == "model" else "llama", settings_of("lora"))
    with monkeypatch.context() as patched:
        if change == "threads":
            patched.setattr(torch, "get_num_threads", lambda: 1000)
        chosen(timed, model=model, texts=texts)
    assert timed.calls == 2


def test_nothing_is_timed_where_it_is_not_asked_for_or_does_not_pay() -> None:
    timed = Timed(fp32=1.0, bf16=0.5)
    assert chosen(timed, operations=1e9) == PrecisionChoice("fp32", "too short a run to time others")
    for name in PRECISIONS:
        assert chosen(timed, precision=name) == PrecisionChoice(name, "as set")
    for name in available("lora", "cpu"):
        why = "the only one here" if len(available("lora", "cpu")) == 1 else "the one that fits into memory"
        choice = chosen(Timed(**{name: 1.0}))
        assert (choice.precision, choice.reason) == (name, why)
    assert timed.calls == 0


@pytest.mark.parametrize("kept", [{}, {"fp32": "soon"}, {"fp64": 1.0}, {"fp32": -1}, [1.0], None])
def test_times_that_cannot_be_used_are_measured_again(kept: Any, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    timed = Timed(fp32=1.0, bf16=0.5)
    chosen(timed)
    (path,) = (cache / "precision").iterdir()
    sound = path.read_text(encoding="utf-8")
    path.write_text(json.dumps({**json.loads(sound), "result": kept}), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert chosen(timed).precision == "bf16"
    assert timed.calls == 2
    assert f"{path}: this cache file cannot be used" in caplog.text
    assert path.read_text(encoding="utf-8") == sound


class Machine:
    """A machine with a clock of its own, on which passes take what `costs` says and whatever else it has to do."""

    def __init__(self, costs: dict[str, float], slowdown: Callable[[int], float]) -> None:
        self.costs, self.slowdown = costs, slowdown
        self.run: list[str] = []

    def seconds(self) -> dict[str, float]:
        return compare({name: lambda name=name: self.run_pass(name) for name in self.costs})  # type: ignore[misc]

    def run_pass(self, name: str) -> float:
        self.run.append(name)
        return self.costs[name] * self.slowdown(len(self.run))


COSTS = [
    ({"fp32": 0.10, "bf16": 0.09}, "bf16"),
    ({"fp32": 0.09, "bf16": 0.10}, "fp32"),
    ({"fp32": 0.10, "bf16": 0.08, "int8": 0.07}, "int8"),
    ({"fp32": 0.07, "bf16": 0.08, "int8": 0.10}, "fp32"),
    ({"fp32": 0.10, "bf16": 0.07, "int8": 0.08}, "bf16"),
    ({"fp32": 0.30, "bf16": 0.10, "int8": 0.20}, "bf16"),
]


@pytest.mark.parametrize(("costs", "taken"), COSTS)
@pytest.mark.parametrize("drift", [0.9, 0.97, 1.0, 1.03, 1.1])
def test_a_machine_that_becomes_slower_or_faster_favours_no_precision(
    costs: dict[str, float], taken: str, drift: float
) -> None:
    assert fastest(Machine(costs, lambda count: drift**count).seconds()) == taken


@pytest.mark.parametrize(("costs", "taken"), COSTS)
@pytest.mark.parametrize("busy", range(1, 7))
def test_a_load_during_one_pass_or_one_round_decides_nothing(costs: dict[str, float], taken: str, busy: int) -> None:
    assert fastest(Machine(costs, lambda count: 3.0 if count == busy else 1.0).seconds()) == taken
    rounds = len(costs)
    assert fastest(Machine(costs, lambda count: 3.0 if -(-count // rounds) == busy else 1.0).seconds()) == taken


def test_the_choice_seldom_changes_under_random_loads() -> None:
    """A fifth of the passes takes up to three times as long: the better by 12% and more is found nearly always."""
    wrong = 0
    for seed in range(500):
        costs, taken = COSTS[seed % len(COSTS)]
        load = random.Random(seed)
        machine = Machine(costs, lambda _, load=load: load.uniform(1, 3) if load.random() < 0.2 else 1.0)  # type: ignore[misc]
        wrong += fastest(machine.seconds()) != taken
    assert wrong < 50


def test_the_comparison_ends_early_where_one_is_clearly_ahead_or_the_passes_are_long() -> None:
    clear, close, slow = (
        Machine(costs, lambda _: 1.0) for costs in ({"a": 0.1, "b": 0.2}, {"a": 0.1, "b": 0.11}, {"a": 9.0, "b": 9.9})
    )
    assert clear.seconds() == pytest.approx({"a": 0.1, "b": 0.2})
    assert close.seconds() == pytest.approx({"a": 0.1, "b": 0.11})
    assert slow.seconds() == pytest.approx({"a": 9.0, "b": 9.9})
    assert clear.run == ["a", "b", "b", "a"]
    assert close.run == ["a", "b", "b", "a"] * (precision_choice.ROUNDS // 2)
    assert slow.run == ["a", "b", "b", "a"]


def test_a_precision_that_is_far_behind_is_timed_once() -> None:
    machine = Machine({"a": 0.1, "b": 2.0, "c": 0.11}, lambda _: 1.0)
    assert machine.seconds() == pytest.approx({"a": 0.1, "b": 2.0, "c": 0.11})
    assert machine.run == ["a", "b", "c", *["c", "a", "a", "c"] * (precision_choice.ROUNDS // 2 - 1), "c", "a"]
    alone = Machine({"a": 0.1, "b": 2.0}, lambda _: 1.0)
    assert alone.seconds() == pytest.approx({"a": 0.1, "b": 2.0})
    assert alone.run == ["a", "b"]


def test_one_precision_alone_is_timed_once() -> None:
    machine = Machine({"a": 0.5}, lambda _: 1.0)
    assert machine.seconds() == {"a": 0.5}
    assert machine.run == ["a"]
