"""`tailora plan`, and what a run announces."""

from __future__ import annotations

import gc
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensor

from bases import save_base
from tailora import cli
from tailora.adapters import formats
from tailora.commands.plan import PlanSettings
from tailora.commands.plan import run as plan_command
from tailora.core.errors import CheckError, TrainingError
from tailora.training import int8, memory_plan, planning
from tailora.training.distributed import Processes
from tailora.training.memory_plan import MemoryPlan
from tailora.training.planning import RunPlan, Shortage, plan
from tailora.training.run import run
from tailora.training.settings import TrainSettings

ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy")
    for colour in ("red", "blue", "green", "grey")
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("recipe")
    save_base(folder / "base", "gpt2")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return {"base": str(folder / "base"), "data": str(data), "valid": str(data), "batch_size": 4, "epochs": 1}


def random_states() -> tuple[Any, ...]:
    """The states of all generators that a program may draw from."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


@pytest.mark.parametrize("method", ["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plan_is_what_the_run_announces(recipe: dict[str, Any], method: str, precision: str, tmp_path: Path) -> None:
    settings = TrainSettings(**recipe, method=method, precision=precision, output=tmp_path / "run")
    memory_plan._COUNTED.clear()
    before = random_states()
    planned = plan(settings)
    assert random_states() == before
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is FakeTensor], "a tensor without values is left"
    announced = run(settings)["account"]
    assert announced.pop("base_fingerprint")
    assert planned.pop("fits") is True
    assert planned.pop("settings") == settings.model_dump(mode="json")
    for content in (planned, announced):
        estimate = content["estimate"]
        assert estimate["peak_memory_bytes"] == estimate["memory"]["peak"] > 2**27
        assert estimate["seconds"] > 0
        for name in ("process", "loading", "updating", "peak"):  # they contain the size of this process
            estimate["memory"].pop(name)
        content["estimate"] = estimate["memory"]
    assert planned == announced


@pytest.mark.parametrize(
    "changes",
    [{"dropout": 0.2}, {"dora": True, "precision": "bf16"}, {"method": "prefix"}, {"precision": "int8"}],
    ids=str,
)
def test_a_plan_changes_no_bit_of_a_later_run(recipe: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    """Also not what is kept in memory: the plan runs the network on tensors without values."""
    if changes.get("precision") == "int8" and not int8.supported():
        pytest.skip("int8 needs an x86 CPU with AVX2")
    common = {"precision": "fp32", "max_steps": 2, "learning_rate": 0.01} | changes
    hashes = []
    for name in ("alone", "planned"):
        int8._sums_in_32_bits.cache_clear()
        memory_plan._COUNTED.clear()
        if name == "planned":
            plan(TrainSettings(**recipe, **common))
        result = run(TrainSettings(**recipe, **common, output=tmp_path / name))
        hashes.append(formats.load_any(tmp_path / name / result["saved"]).content_hash)
    assert hashes[0] == hashes[1]


def test_what_does_not_fit_is_a_failed_check(recipe: dict[str, Any]) -> None:
    settings = TrainSettings(**recipe, memory_limit=0.125)
    with pytest.raises(
        CheckError, match=r"needs .* of memory at its peak, and the limit is .*; raise --memory"
    ) as caught:
        plan_command(PlanSettings(**settings.model_dump()))
    result = caught.value.result
    assert result["fits"] is False
    assert result["alternatives"] == []
    assert result["estimate"]["memory"]["learning"] > 0


def test_run_that_does_not_fit_is_refused_before_it_loads(recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = TrainSettings(**recipe, memory_limit=0.125, output=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"needs .* of memory at its peak, and the limit is "):
        run(settings)
    assert not (tmp_path / "run" / "run.json").exists()


def test_suggested_settings_fit(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "process_bytes", lambda device: 0)  # the network is small beside it
    longer = recipe | {"batch_size": 12, "method": "full", "precision": "fp32"}
    whole = plan(TrainSettings(**longer))["estimate"]["memory"]
    limit = (whole["peak"] - whole["activations"] // 3) / 2**30
    result = plan(TrainSettings(**longer, memory_limit=limit))
    alternatives = result["alternatives"]
    assert len(alternatives) == 3
    for alternative in alternatives:
        assert f"{alternative['flags']} (peak: " in result["hint"]
        words = iter(alternative["flags"].split())
        changes = {w[2:].replace("-", "_"): True if "checkpointing" in w else next(words) for w in words}
        assert plan(TrainSettings(**longer | changes, memory_limit=limit))["fits"] is True
        assert {name: str(value) for name, value in changes.items()} == {
            name: str(value) for name, value in alternative["settings"].items()
        }


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"rank": 100_000_000}, "--rank 64"),
        ({"method": "adapter-l", "bottleneck": 100_000_000}, "--bottleneck 64"),
    ],
    ids=["lora", "adapter-l"],
)
def test_a_size_that_is_too_large_is_named(recipe: dict[str, Any], changes: dict[str, Any], flag: str) -> None:
    assert re.search(f"add .*{flag}", plan(TrainSettings(**recipe | changes, memory_limit=20.0))["hint"])


@pytest.mark.parametrize(
    ("changes", "chosen", "hint"),
    [
        ({"process": 500}, True, "raise --memory-limit; Python, its libraries and the data alone take 500 MiB"),
        ({"process": 500}, False, "free some memory; Python, its libraries and the data alone take 500 MiB"),
        ({"learning": 500}, True, "raise --memory-limit, or use a smaller --base"),
        ({"loading": 500}, False, "free some memory, or use a smaller --base"),
        ({"activations": 500}, False, "free some memory, or use shorter texts (--max-length)"),
    ],
)
def test_a_hint_is_about_what_takes_the_memory(changes: dict[str, int], chosen: bool, hint: str) -> None:
    parts = dict.fromkeys(
        ("process", "learning", "gradients", "optimizer", "best", "average", "activations", "loading"), 20
    )
    sizes = {name: amount * 2**20 for name, amount in {**parts, **changes}.items()}
    short = Shortage("fp32", MemoryPlan(weights={}, **sizes), 300 * 2**20, chosen, ())
    assert short.hint == hint
    limit = "the limit is 300 MiB" if chosen else "300 MiB are free"
    assert short.what.endswith(f" MiB of memory at its peak, and {limit}")


def test_sizes_of_a_refusal_have_one_unit() -> None:
    sizes = dict.fromkeys(("gradients", "optimizer", "best", "average", "activations", "loading"), 0)
    short = Shortage("fp32", MemoryPlan(process=0, weights={}, learning=2**31, **sizes), 2**28, True, ())
    assert short.what == "the run needs 2.00 GiB of memory at its peak, and the limit is 0.25 GiB"


def test_precision_that_fits_is_chosen(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "process_bytes", lambda device: 0)
    planned = {name: plan(TrainSettings(**recipe, precision=name)) for name in ("fp32", "bf16")}
    peaks = {name: result["estimate"]["peak_memory_bytes"] for name, result in planned.items()}
    assert peaks["bf16"] < peaks["fp32"]
    monkeypatch.setattr(planning, "available", lambda method, device: ("fp32", "bf16"))
    limit = (peaks["bf16"] + 1) / 2**30
    assert plan(TrainSettings(**recipe, memory_limit=limit))["precision"] == "bf16"


def test_precisions_are_counted_where_memory_is_short(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def counting(settings: TrainSettings, work: Any, precision: str, *others: Any, **more: Any) -> MemoryPlan:
        counted.append(precision)
        return memory_plan.memory_plan(settings, work, precision, *others, **more)

    monkeypatch.setattr(planning, "memory_plan", counting)
    monkeypatch.setattr(planning, "available", lambda method, device: ("fp32", "bf16"))
    settings = TrainSettings(**recipe, precision="auto", memory_limit=1000)
    chosen = plan(settings)["precision"]
    assert counted == ["fp32"] if chosen == "fp32" else ["fp32", "bf16"]
    counted.clear()
    needed = plan(TrainSettings(**recipe, precision="fp32"))["estimate"]["memory"]["peak"]
    counted.clear()
    plan(settings.model_copy(update={"memory_limit": 1.5 * needed / 2**30}))
    assert counted == ["fp32", "bf16"]


class Exchanges(Processes):
    """Processes that report an exchange which only the first of them takes part in."""

    def __init__(self) -> None:
        self.is_alone = False

    def from_first(self, value: Callable[[], Any]) -> Any:
        self.is_alone = True
        try:
            return value()
        finally:
            self.is_alone = False

    def from_all(self, value: Any) -> list[Any]:
        assert not self.is_alone, "the other processes wait for another exchange"
        return [value]


def test_all_processes_agree_on_precisions_where_the_free_memory_is_not_known(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "memory_limit", lambda settings, device: None)  # as on macOS
    processes = Exchanges()
    planned = RunPlan(TrainSettings(**recipe), "cpu", Console(quiet=True), processes)
    planned.require_fit()
    assert processes.from_first(planned.choice).precision == "fp32"


def test_command_prints_parts_and_json(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [part for name, value in recipe.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.main(["plan", *flags, "--method", "full", "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["fits"] is True
    assert result["steps"] == 3
    for text in ("trained weights", "state of AdamW", "Python, libraries and data", "available", "precision: "):
        assert text in output.err
    assert not list(tmp_path.iterdir())
