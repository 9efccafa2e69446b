"""A backend that computes something else than transformers is found out as it starts, once and cheaply."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tailora
from bases import save_adapter, save_base
from tailora.core.errors import ModelError, SettingsError
from tailora.core.hardware.memory import Memory
from tailora.engine import architecture
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.inference import self_check, step_timing
from tailora.inference.model_settings import PrecisionName
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from test_architecture import IN_THE_GRAPH, LLAMA, save_model


@pytest.fixture(autouse=True)
def mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(self_check.VARIABLE, "once")


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the graph read configurations as if every field that it does not know were harmless."""
    monkeypatch.setattr(architecture._Fields, "require", lambda self, wanted, read: None)


LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}
YARN = {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}}


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        *((precision, changes) for precision in ("fp32", "bf16", "int8") for changes in (LINEAR, YARN)),
        ("fp32", {"hidden_act": "gelu"}),  # close to silu: rounding hides the difference
    ],
)
def test_what_the_graph_ignores_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, changes: dict[str, Any]
) -> None:
    folder = save_model(tmp_path, "llama", {**LLAMA, **changes})
    blind(monkeypatch)
    with pytest.raises(ModelError, match=r"self-check .*those of transformers by .* nats.*use --backend torch"):
        start_engine(resolve_models(str(folder), {}), backend="openvino", precision=precision)
    if precision == "fp32":
        assert start_engine(resolve_models(str(folder), {}), precision=precision, device="cpu").backend == "torch"


def test_it_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_model(tmp_path, *IN_THE_GRAPH["llama"])
    setup = resolve_models(str(folder), {})
    start_engine(setup, precision="fp32", device="cpu")
    assert "comparing the engine with transformers once" in caplog.text  # which takes seconds
    with monkeypatch.context() as patched:
        patched.setattr(self_check, "reference_of", lambda folder, prompt: pytest.fail("it ran again"))
        start_engine(setup, precision="fp32", device="cpu")
        patched.setenv(self_check.VARIABLE, "never")
        start_engine(setup, precision="int8", device="cpu")
    asked: list[Path] = []
    monkeypatch.setattr(self_check, "reference_of", lambda folder, prompt: asked.append(folder))
    start_engine(setup, precision="int8", device="cpu")  # another precision
    monkeypatch.setenv(self_check.VARIABLE, "always")
    start_engine(setup, precision="fp32", device="cpu")
    assert asked == [folder, folder]
    monkeypatch.setenv(self_check.VARIABLE, "often")
    with pytest.raises(SettingsError, match="'often' is not once, always or never"):
        start_engine(setup, precision="fp32", device="cpu")


def test_a_failure_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path, "llama", {**LLAMA, "hidden_act": "gelu"})
    blind(monkeypatch)
    for _ in range(2):
        with pytest.raises(ModelError, match="self-check"):
            start_engine(resolve_models(str(folder), {}), backend="openvino", precision="fp32")
        monkeypatch.setattr(self_check, "reference_of", lambda folder, prompt: pytest.fail("it ran again"))


def test_torch_is_checked_against_its_own_forward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailora.engine.backends.torch import TorchBackend

    save_base(tmp_path / "base")
    save_adapter(tmp_path / "one", str(tmp_path / "base"))
    setup = resolve_models(str(tmp_path / "base"), {"one": tmp_path / "one"})
    for merged in (False, True):
        assert start_engine(setup, backend="torch", precision="fp32", device="cpu", merged=merged).backend == "torch"
    gathered = TorchBackend._gathered
    monkeypatch.setattr(TorchBackend, "_gathered", lambda self, step, past: gathered(self, step, 0))
    monkeypatch.setenv(self_check.VARIABLE, "always")
    with pytest.raises(ModelError, match=r"self-check|cannot run this architecture"):
        start_engine(setup, backend="torch", precision="fp32", device="cpu")


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_an_architecture_that_keeps_something_else_than_keys_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: PrecisionName
) -> None:
    monkeypatch.setattr(step_timing, "SMALL", 0)
    shape = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 257, "intermediate_size": 64}
    folder = save_model(tmp_path, "mamba", shape)
    with pytest.raises(ModelError, match=r"cannot run this architecture|self-check"):
        start_engine(resolve_models(str(folder), {}), precision=precision, device="cpu")


def test_without_torch_in_the_process_another_asks_transformers(tmp_path: Path) -> None:
    folder = save_model(tmp_path, *IN_THE_GRAPH["gpt2"])
    program = f"""
import sys
from pathlib import Path
from tailora.engine.backends.openvino import OpenVinoBackend
import tailora
from tailora.inference import self_check
backend = OpenVinoBackend(Path({str(folder)!r}), slots=0, cache_tokens=512, precision="fp32")
prompt = self_check.probe(backend)
reference = self_check.reference_of(Path({str(folder)!r}), prompt)
assert self_check.divergence(reference, self_check.logits_of(backend, prompt)) < 1e-6
print(sorted({{"torch", "transformers"}} & sys.modules.keys()))
"""
    # A file of the user's that is called like a module of Python's is not run.
    (tmp_path / "random.py").write_text("raise SystemExit('the working directory is on the path')", encoding="utf-8")
    command = [sys.executable, "-P", "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(tailora.__file__).parents[1])}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert shown.stdout.strip() == "[]"


def test_without_a_place_for_temporary_files_nothing_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container with a read-only file system has none."""

    def refuse() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    save_base(tmp_path)
    monkeypatch.setattr(self_check.tempfile, "TemporaryDirectory", refuse)
    monkeypatch.delitem(sys.modules, "torch")  # else this process computes the reference
    with caplog.at_level(logging.WARNING, "tailora"):
        assert self_check.reference_of(tmp_path, [1, 2]) is None
    assert "self-check skipped: [Errno 2] No usable temporary directory found" in caplog.text


def test_a_model_that_would_not_fit_is_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_base(tmp_path)
    monkeypatch.setattr(self_check, "memory", lambda: Memory(1000, 1000))
    with caplog.at_level(logging.WARNING, "tailora"):
        assert start_engine(resolve_models(str(tmp_path), {}), device="cpu").backend == "openvino"
    assert "does not fit into memory" in caplog.text


def test_one_block_is_enough(tmp_path: Path) -> None:
    save_base(tmp_path)
    backend = OpenVinoBackend(tmp_path, slots=0, cache_tokens=64, precision="fp32")
    prompt = self_check.probe(backend)
    reference = self_check.reference_of(tmp_path, prompt)
    assert reference is not None
    assert self_check.divergence(reference, self_check.logits_of(backend, prompt)) < 1e-6


def test_divergence() -> None:
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    assert self_check.divergence(logits, logits + 5) == pytest.approx(0, abs=1e-7)
    assert self_check.divergence(logits, logits[:, ::-1]) == pytest.approx(2 * (0.66524 - 0.09003), abs=1e-4)
