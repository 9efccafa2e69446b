"""The time of an update, estimated from a few blocks of the base."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bases import save_tokenizer
from networks import network
from tailora.core.errors import UserError
from tailora.data.examples import Example
from tailora.models.load import Base, load_base, load_part, outline
from tailora.models.save import save_quantized
from tailora.training import block_timing, int8, planning, precision_choice
from tailora.training.block_timing import clock_of, precision_seconds, step_of, update_seconds
from tailora.training.methods import prepare
from tailora.training.pass_memory import without_values
from tailora.training.precision import available
from tailora.training.run import run
from tailora.training.settings import TrainSettings
from tailora.training.trees.prefix_tree import build
from training_cases import METHODS, settings_of

BLOCKS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 8},
    "llama": {"num_hidden_layers": 8},
    "gemma3_text": {"num_hidden_layers": 8},
    "gpt_neo": {"num_layers": 8, "attention_types": [[["global", "local"], 4]]},
}
NEEDS_INT8 = pytest.mark.skipif(not int8.supported(), reason="this CPU has no AVX2 instructions")
TEXTS = [Example(str(n), (n, 2, 3), (*range(10, 20 + n), 0)) for n in range(4, 12)]


def saved(folder: Path, family: str, **config: Any) -> Path:
    """A base of eight blocks."""
    vocabulary = save_tokenizer(folder)
    network(family, **{**BLOCKS[family], "vocab_size": vocabulary, **config}).save_pretrained(folder)
    return folder


def outlined(settings: TrainSettings) -> Base:
    with without_values():
        base = outline(settings.base)
        prepare(base, settings)
    return base


@pytest.mark.parametrize("is_quantised", [False, True])
@pytest.mark.parametrize("family", BLOCKS)
def test_part_has_the_first_blocks(tmp_path: Path, family: str, is_quantised: bool) -> None:
    folder = saved(tmp_path / "base", family)
    if is_quantised:
        save_quantized(load_base(str(folder)), tmp_path / "int8", "int8")
        folder = tmp_path / "int8"
    whole, part = load_base(str(folder), dtype=torch.float32).model, load_part(str(folder), 3).model
    others = dict(whole.named_parameters())
    own = dict(part.named_parameters())
    assert len(own) < len(others)
    assert all(torch.equal(parameter, others[name]) for name, parameter in own.items())
    assert {name for name in others if ".3." not in name and name not in own} == {
        name for name in others if any(f".{number}." in name for number in range(4, 8))
    }
    assert torch.isfinite(part(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_timed_and_draws_no_random_number(tmp_path: Path, method: str) -> None:
    folder = saved(tmp_path, "gpt2")
    settings = settings_of(method, base=str(folder), dropout=0.1 if METHODS[method].get("method") is None else 0.0)
    states = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    precision = "int8" if method == "lora" and int8.supported() else "fp32"
    base = outlined(settings)
    seconds, nodes = update_seconds(base, TEXTS, settings, "cpu", precision)
    assert seconds > 0
    assert nodes == len(build(TEXTS))
    assert (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())) == states
    again, _ = update_seconds(base, TEXTS, settings, "cpu", precision)
    assert again == seconds  # kept for the machine
    precisions = available(settings.method, "cpu")
    times = precision_seconds(base, TEXTS, settings, "cpu", precisions)
    assert set(times) == set(precisions)
    assert min(times.values()) > 0
    assert (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())) == states


@pytest.mark.parametrize("method", ["lora", "full"])
def test_estimate_is_near_the_time_of_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Also beside other processes; `benchmarks/plan.py` measures how near."""
    folder = saved(tmp_path, "gpt2", n_embd=256, n_layer=16)
    settings = settings_of(method, base=str(folder))
    ratios = []
    for lap in range(3):
        monkeypatch.setenv("TAILORA_CACHE", str(tmp_path / str(lap)))
        estimate, _ = update_seconds(outlined(settings), TEXTS, settings, "cpu", "fp32")
        base = load_base(str(folder), dtype=torch.float32)
        prepare(base, settings)
        real = block_timing._Timer(base, build(TEXTS), settings, "cpu", "fp32").seconds()
        ratios.append(estimate / real)
        if 0.67 < ratios[-1] < 1.5:
            return
    pytest.fail(f"estimates are {ratios} times the real ones")


def test_what_cannot_be_shortened_is_an_error_that_a_plan_survives(tmp_path: Path) -> None:
    folder = saved(tmp_path, "gpt2")
    settings = TrainSettings(data="restaurants", base=str(folder), targets=("h.7.attn.c_attn",))
    with pytest.raises(UserError, match="match"):
        update_seconds(outlined(settings), TEXTS, settings, "cpu", "fp32")


@pytest.mark.parametrize("chosen", ["fp32", "bf16", pytest.param("int8", marks=NEEDS_INT8)])
def test_timing_needs_no_more_memory_than_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    folder = saved(tmp_path / "base", "gpt2", n_embd=96, n_layer=12)
    rows = "".join(json.dumps({"name": "Ada", "text": f"Ada is {number}."}) + "\n" for number in range(8))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    options: dict[str, Any] = {"data": str(tmp_path / "rows.jsonl"), "base": str(folder), "max_steps": 1}
    settings = TrainSettings(**options, device="cpu", precision="auto", output=tmp_path / "auto")
    monkeypatch.setattr(precision_choice, "SHORT", 0)
    monkeypatch.setattr(precision_choice, "ROUNDS", 2)
    monkeypatch.setattr(block_timing, "LAPS", 1)
    seconds, peaks = dict.fromkeys(available("lora", "cpu"), 2.0) | {chosen: 1.0}, list[int]()

    def timed(*arguments: Any) -> dict[str, float]:
        with counted_allocations() as timing:
            assert set(precision_seconds(*arguments)) == set(seconds)
        peaks.append(timing.peak)
        return seconds

    monkeypatch.setattr(planning, "precision_seconds", timed)
    assert run(settings)["account"]["precision"] == chosen
    with counted_allocations() as whole:
        # A base in bf16 is loaded as such, so six of these blocks in fp32 are more than all of them.
        wider = "fp32" if chosen == "bf16" else chosen
        run(settings.model_copy(update={"precision": wider, "output": tmp_path / "set"}))
    (peak,) = peaks
    assert 0 < peak < whole.peak


class Allocations:
    """The largest sum of the bytes that PyTorch had allocated in a context."""

    peak = 0


@contextmanager
def counted_allocations() -> Iterator[Allocations]:
    allocations = Allocations()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield allocations
    total = 0
    events: Any = recorded.profiler
    for event in events.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            allocations.peak = max(allocations.peak, total)


def test_a_precision_that_does_not_fit_into_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(data="unused", base=str(saved(tmp_path / "base", "gpt2")))
    too_large = {"fp32"}

    def measured(base: Base, batch: Any, settings: TrainSettings, device: str, precision: str, budget: float) -> float:
        if precision in too_large:
            raise torch.OutOfMemoryError("as on a GPU")
        return 1.0

    monkeypatch.setattr(block_timing, "_measure", measured)
    base = outlined(settings)
    assert list(precision_seconds(base, TEXTS, settings, "cpu", ("fp32", "bf16"))) == ["bf16"]
    too_large.add("bf16")
    with pytest.raises(torch.OutOfMemoryError):
        precision_seconds(base, TEXTS, settings, "cpu", ("fp32", "bf16"))


@pytest.mark.parametrize(
    ("device", "step", "clock"),
    [
        ("cpu", 1e-7, time.thread_time),
        ("cpu", 0.01, time.perf_counter),  # gVisor
        ("cpu", 0.0156, time.perf_counter),  # Windows
        ("cuda", 1e-7, time.perf_counter),
    ],
)
def test_a_clock_has_steps_that_are_shorter_than_an_update(
    monkeypatch: pytest.MonkeyPatch, device: str, step: float, clock: Any
) -> None:
    monkeypatch.setattr(block_timing, "step_of", lambda clock: step)
    assert clock_of(torch.device(device)) is clock


def test_the_step_of_a_clock_is_measured() -> None:
    times = iter([2.0] * 50 + [2.0156])
    assert step_of(lambda: next(times)) == pytest.approx(0.0156)
    assert step_of(lambda: 2.0) == math.inf
    assert 0 < step_of(time.perf_counter) < 1e-3
