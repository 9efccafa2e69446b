"""What an engine is started with: room for adapters that come later, and the backend and precision that run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bases import KINDS, save_adapter, save_base
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.inference.model_settings import BackendName
from tailora.inference.setup import resolve_models
from tailora.inference.start import AdapterCapacity, start_engine
from test_architecture import LLAMA, save_model


@pytest.mark.parametrize("model_type", [*KINDS, "qwen2_moe", "phi3", "gpt_neox"])
def test_adapters_that_come_later_fit_whatever_the_names_of_the_layers(tmp_path: Path, model_type: str) -> None:
    """Of families whose names are known as paths, as patterns, and of one that is known by nothing but patterns."""
    if model_type in KINDS:
        save_base(tmp_path / "base", model_type)
    else:
        moe = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 48, "num_experts": 2}
        save_model(tmp_path / "base", model_type, LLAMA | (moe if model_type == "qwen2_moe" else {}))
    targets = ("o_proj", "shared_expert.down_proj") if model_type == "qwen2_moe" else ("attention", "mlp")
    save_adapter(tmp_path / "one", str(tmp_path / "base"), config=LoraConfig(rank=4, alpha=8, targets=targets))
    backends: tuple[BackendName, ...] = ("openvino", "torch") if model_type in KINDS else ("torch",)
    for backend in backends:
        running = start_engine(
            resolve_models(str(tmp_path / "base"), {}),
            backend=backend,
            precision="fp32",
            capacity=AdapterCapacity(2, 12),
        )
        running.engine.backend.adapter_slots.register("one", formats.load(tmp_path / "one"))
        assert running.engine.backend.adapter_slots.acquire(["one"]) is not None
        factors = running.engine.backend.adapter_slots.factors
        assert all(np.isfinite(each.a).all() for each in factors.values())
