"""The precision of the fastest steps is taken, unless the preferred one is as fast up to the noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bases import save_adapter, save_base
from tailora.core.hardware.memory import Memory
from tailora.engine.backend import Step
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.backends.torch import TorchBackend
from tailora.engine.drafting import StepCost
from tailora.inference import step_timing
from tailora.inference.model_settings import BackendName
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.step_timing import batch_milliseconds, choose, fastest
from tailora.models.load import load_base


def never(precision: str) -> OpenVinoBackend:
    pytest.fail(f"{precision} was timed")


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"int8": 10.0, "bf16": 12.0, "fp32": 20.0}, "int8"),
        ({"int8": 10.0, "bf16": 9.5, "fp32": 20.0}, "int8"),
        ({"int8": 10.0, "bf16": 8.0, "fp32": 7.0}, "fp32"),
        ({"fp32": 10.0, "bf16": 5.0}, "bf16"),
    ],
)
def test_the_preferred_one_is_left_for_more_than_the_noise(times: dict[str, float], expected: str) -> None:
    assert fastest(times) == expected


def test_a_small_model_or_a_full_machine_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_base(tmp_path)
    assert choose(tmp_path, {}, ("int8", "fp32"), never) == step_timing.PrecisionTiming("int8", {})
    monkeypatch.setattr(step_timing, "SMALL", 0)
    monkeypatch.setattr(step_timing, "memory", lambda: Memory(1000, 1000))
    assert choose(tmp_path, {}, ("int8", "fp32"), never).precision == "int8"


def test_times_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_base(tmp_path)
    monkeypatch.setattr(step_timing, "SMALL", 0)
    speeds = {"int8": 10.0, "bf16": 3.0, "fp32": 30.0}
    monkeypatch.setattr(step_timing, "batch_milliseconds", lambda backend, limit: speeds[backend])
    first = choose(tmp_path, {"a": 1}, tuple(speeds), lambda name: name)  # type: ignore[arg-type,return-value]
    assert first.precision == "bf16"
    assert first.description == "timed for a batch: int8 10 ms, bf16 3 ms, fp32 30 ms"
    assert choose(tmp_path, {"a": 1}, tuple(speeds), never) == first
    with pytest.raises(pytest.fail.Exception, match="int8 was timed"):
        choose(tmp_path, {"a": 2}, tuple(speeds), never)


def test_the_cost_of_a_step_is_a_line_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_base(tmp_path, "llama")
    backend = TorchBackend(load_base(str(tmp_path)), cache_tokens=8 * 32)
    assert step_timing.step_cost(tmp_path, {}, backend) == StepCost()  # small models are not timed
    monkeypatch.setattr(step_timing, "SMALL", 0)
    sizes: list[int] = []

    def timed(_: object, step: Step) -> float:
        sizes.append(len(step.tokens))
        return 10.0 + 2.0 * len(step.tokens)

    with monkeypatch.context() as patched:
        patched.setattr(step_timing, "_milliseconds", timed)
        cost = step_timing.step_cost(tmp_path, {"a": 1}, backend)
    assert cost.fixed == pytest.approx(10)
    assert cost.per_token == pytest.approx(2)
    assert set(sizes) == {1, 2, 4, 8}  # more texts than blocks do not fit
    monkeypatch.setattr(step_timing, "_milliseconds", lambda *_: pytest.fail("was timed"))
    assert step_timing.step_cost(tmp_path, {"a": 1}, backend) == cost
    monkeypatch.undo()
    monkeypatch.setattr(step_timing, "SMALL", 0)
    real = step_timing.step_cost(tmp_path, {"a": 2}, backend)
    assert real.fixed >= 0
    assert real.per_token > 0


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_steps_that_are_timed_are_steps(tmp_path: Path, kind: str) -> None:
    save_base(tmp_path, kind)
    backends = (
        OpenVinoBackend(tmp_path, precision="fp32", cache_tokens=step_timing.CACHE_TOKENS, slots=0),
        TorchBackend(load_base(str(tmp_path)), cache_tokens=step_timing.CACHE_TOKENS),
    )
    for backend in backends:
        assert 0 < batch_milliseconds(backend) < float("inf")
        scores = backend.run(step_timing._step(backend, step_timing.TEXTS, 0, step_timing.PROMPT))
        assert scores.logits.shape == (step_timing.TEXTS, backend.vocabulary)
        assert np.isfinite(scores.logits).all()


def test_a_slow_one_is_given_up_after_a_lap(tmp_path: Path) -> None:
    save_base(tmp_path)
    backend = OpenVinoBackend(tmp_path, precision="fp32", cache_tokens=step_timing.CACHE_TOKENS, slots=0)
    steps: list[int] = []
    run = backend.run
    backend.run = lambda step: steps.append(len(step.tokens)) or run(step)  # type: ignore[method-assign,func-returns-value]
    batch_milliseconds(backend, limit=0.0)
    assert len(steps) == 2 * 3


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_an_engine_starts_in_the_precision_of_the_fastest_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: BackendName
) -> None:
    save_base(tmp_path / "base")
    save_adapter(tmp_path / "one", str(tmp_path / "base"))
    monkeypatch.setattr(step_timing, "SMALL", 0)
    timed: list[str] = []

    def milliseconds(network: Any, limit: float) -> float:
        timed.append(type(network).__name__)
        return 10.0 / len(timed)

    monkeypatch.setattr(step_timing, "batch_milliseconds", milliseconds)
    setup = resolve_models(str(tmp_path / "base"), {"one": tmp_path / "one"})
    for merged in (False, True):
        timed.clear()
        running = start_engine(setup, backend=backend, device="cpu", merged=merged)
        if not merged or backend == "openvino":
            assert len(timed) == (3 if backend == "openvino" else 2)
        assert running.precision == ("fp32" if backend == "openvino" else "bf16")
        assert running.description.startswith(f"{running.precision} on {backend}, timed for a batch: ")
    assert start_engine(setup, backend=backend, device="cpu", precision="fp32").description == f"fp32 on {backend}"
