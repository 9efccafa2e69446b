"""Every precision on every backend, forced: with adapters, with the instructions of older processors, and in several
processes that choose at the same time, whatever this machine would choose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bases import KINDS, save_adapter, save_base
from tailora.core.hardware.processor import instruction_sets
from tailora.engine.decoding import Decoding
from tailora.engine.requests import Request, mixture_of
from tailora.inference import step_timing
from tailora.inference.attached import load_adapted
from tailora.inference.running import Running
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine

CASES = [("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("torch", "fp32"), ("torch", "bf16")]
PROMPT = tuple((7 * place) % 200 + 1 for place in range(24))


@pytest.fixture(scope="module", params=KINDS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter for it."""
    folder = tmp_path_factory.mktemp(request.param)
    save_base(folder / "base", request.param)
    save_adapter(folder / "one", str(folder / "base"))
    return folder


def logprobs(running: Running, adapter: str | None) -> np.ndarray:
    """How likely each token of the prompt is after those before it."""
    name = None if running.built_in else adapter
    request = Request(PROMPT, Decoding(max_new_tokens=1), mixture_of(name), score_prompt=True)
    ((completion,),) = running.engine.complete([request])
    return np.array(completion.prompt_logprobs)


def reference(folder: Path, adapter: bool, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """The same by transformers, with the adapter attached."""
    place = folder / "one" if adapter else None
    model: Any = load_adapted(place, str(folder / "base"), dtype=dtype).base.model
    with torch.inference_mode():
        rows = model(torch.tensor([PROMPT])).logits[0].float().log_softmax(-1)
    found: np.ndarray = rows[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0].numpy()
    return found


@pytest.mark.parametrize("way", ["alone", "beside", "merged"])
@pytest.mark.parametrize(("backend", "precision"), CASES)
def test_a_forced_precision_is_taken_and_right(
    models: Path, backend: Any, precision: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_timing, "choose", lambda *_: pytest.fail("precisions were timed"))
    adapters = {} if way == "alone" else {"one": models / "one"}
    setup = resolve_models(str(models / "base"), adapters)
    running = start_engine(setup, backend=backend, precision=precision, device="cpu", merged=way == "merged")
    assert (running.backend, running.precision) == (backend, precision)
    adapted = way != "alone"
    exact = reference(models, adapted)
    # What rounding does to transformers' own forward pass, and the same again.
    usual = 0.1 + 2 * np.abs(reference(models, adapted, torch.bfloat16) - exact).mean()
    error = np.abs(logprobs(running, "one" if adapted else None) - exact).mean()
    assert error < (1e-3 if precision == "fp32" else usual)
    if adapted:
        assert np.abs(exact - reference(models, False)).mean() > 5 * error  # the adapter has its effect


MEASURED = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_inference_precision import CASES, logprobs
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine

folder = Path(sys.argv[2])
found = {}
for backend, precision in CASES:
    setup = resolve_models(str(folder / "base"), {"one": folder / "one"})
    running = start_engine(setup, backend=backend, precision=precision, device="cpu")
    found[f"{backend} {precision}"] = logprobs(running, "one").tolist()
    if backend == "openvino":
        nodes = running.engine.backend._request.get_compiled_model().get_runtime_model().get_ordered_ops()
        kernels = sorted({str(node.get_rt_info()["primitiveType"].astype(str)) for node in nodes
                          if "primitiveType" in node.get_rt_info()})
        found[f"kernels {precision}"] = kernels
print(json.dumps(found))
"""


def measured(folder: Path, **environment: str) -> dict[str, Any]:
    """What a process of its own computes in every case."""
    command = [sys.executable, "-c", MEASURED, str(Path(__file__).parent), str(folder)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout.splitlines()[-1])
    return found


def products_with_avx512(kernels: list[str]) -> list[str]:
    """The kernels of matrix products that are made for AVX-512."""
    return [name for name in kernels if "gemm" in name and ("avx512" in name or "amx" in name)]


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in instruction_sets(), reason="needs a processor with AVX2")
def test_older_processors_compute_the_same(models: Path) -> None:
    """Products with AVX2 alone: oneDNN heeds the first variable in both backends, ATen the other."""
    older = measured(models, ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2")
    exact = reference(models, True)
    usual = 0.1 + 2 * np.abs(reference(models, True, torch.bfloat16) - exact).mean()
    for backend, precision in CASES:
        error = np.abs(np.array(older[f"{backend} {precision}"]) - exact).mean()
        assert error < (1e-3 if precision == "fp32" else usual), (backend, precision)
        if backend == "openvino":
            assert not products_with_avx512(older[f"kernels {precision}"])
    newer = measured(models)
    if "avx512f" in instruction_sets():
        assert products_with_avx512(newer["kernels fp32"])
    for backend in ("openvino", "torch"):
        np.testing.assert_allclose(older[f"{backend} fp32"], newer[f"{backend} fp32"], atol=1e-3)


CHOOSING = """
import sys, time
from pathlib import Path
from tailora.inference import step_timing
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine

step_timing.SMALL = 0
begin = Path(sys.argv[2])
print("ready", flush=True)
while not begin.exists():
    time.sleep(0.01)
running = start_engine(resolve_models(sys.argv[1], {}), device="cpu", backend="openvino")
print(running.description)
"""


def test_processes_that_choose_at_the_same_time(tmp_path: Path, cache: Path) -> None:
    """Both time, one result is kept, whole; who comes later takes it without timing."""
    save_base(tmp_path / "base")
    command = [sys.executable, "-c", CHOOSING, str(tmp_path / "base"), str(tmp_path / "begin")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "begin").touch()
    for process in processes:
        shown, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "timed for a batch: int8" in shown
        assert "cannot be used" not in errors
    (kept,) = (cache / "step-times").iterdir()
    assert set(json.loads(kept.read_text(encoding="utf-8"))["result"]) == {"int8", "bf16", "fp32"}
    later = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "timing" not in later.stderr
    assert "timed for a batch: int8" in later.stdout
