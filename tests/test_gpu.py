"""What holds on a CPU holds on a GPU: losses, gradients, what is learnt and written. Skipped where none is seen."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bases import KINDS, save_adapter, save_base
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.commands.generate import GenerateSettings
from tailora.commands.generate import run as generate
from tailora.data.examples import Example
from tailora.engine.backends.torch import TorchBackend
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.engine.requests import Request, mixture_of
from tailora.models.load import load_base
from tailora.training.run import run as train
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel
from tailora.training.trees.prefix_tree import build

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")


@pytest.fixture(params=[kind for kind in KINDS if kind != "gemma3_text"])  # its window is shorter than the texts
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    save_base(tmp_path / "base", request.param)
    return str(tmp_path / "base")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"id": f"{name} {colour}", "facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
        for name in ("Ada", "Bob", "Cy")
        for colour in ("red", "blue", "green", "grey")
    ]
    for split, part in (("train", rows[:9]), ("valid", rows[9:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return folder


@pytest.mark.parametrize("frozen_head", [True, False])
def test_trees_have_the_loss_and_the_gradients_of_a_cpu(base: str, frozen_head: bool) -> None:
    rng = random.Random(1)
    examples = [
        Example(str(record), tuple(rng.choices(range(1, 200), k=5 + record)), (*rng.choices((7, 8), k=6), 0))
        for record in range(6)
        for _ in range(4)
    ]

    def measured(device: str) -> tuple[float, torch.Tensor]:
        model = load_base(base, dtype=torch.float32, device=device).model
        model.requires_grad_(True)
        model.get_output_embeddings().requires_grad_(not frozen_head)
        with TreeModel(model) as trees:
            loss = trees.loss(build(examples), label_smoothing=0.1)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])

    loss, slopes = measured("cpu")
    same, on_gpu = measured(DEVICE)
    assert same == pytest.approx(loss, rel=1e-5)
    assert (on_gpu - slopes).norm() <= 1e-4 * slopes.norm()


def test_a_run_learns_what_it_learns_on_a_cpu(data: Path, tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")  # no dropout, which a GPU draws otherwise

    def learnt(device: str) -> dict[str, Any]:
        settings = TrainSettings(
            data=str(data),
            base=str(tmp_path / "base"),
            targets=("attention", "mlp"),
            epochs=4,
            batch_size=4,
            learning_rate=1e-2,
            precision="fp32",
            device=device,
            output=tmp_path / device,
        )
        return train(settings)

    on_cpu, on_gpu = learnt("cpu"), learnt(DEVICE)
    assert on_gpu["account"]["device"] == DEVICE
    assert on_gpu["validation_loss"]["after"] < on_gpu["validation_loss"]["before"]
    assert on_gpu["validation_loss"]["after"] == pytest.approx(on_cpu["validation_loss"]["after"], abs=1e-3)
    assert on_gpu["peak_gpu_memory_bytes"] > 0
    assert on_cpu["peak_gpu_memory_bytes"] is None


@pytest.mark.parametrize("method", ["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"])
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_every_method_learns(method: Any, precision: Any, data: Path, tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    settings = TrainSettings(
        data=str(data),
        base=str(tmp_path / "base"),
        method=method,
        epochs=6,
        batch_size=4,
        learning_rate=1e-1 if method == "prefix" else 1e-2,
        precision=precision,
        device=DEVICE,
        output=tmp_path / "run",
    )
    losses = train(settings)["validation_loss"]
    assert losses["after"] < losses["before"] - 0.1


@pytest.mark.parametrize(
    "decoding", [{}, {"num_beams": 3, "num_candidates": 2, "length_penalty": 0.8, "no_repeat_ngram_size": 2}]
)
def test_mixed_adapters_write_what_each_writes_alone_on_a_cpu(tmp_path: Path, decoding: dict[str, Any]) -> None:
    save_base(tmp_path / "base", "llama")

    def backend(device: str) -> TorchBackend:
        room: dict[str, Any] = {"cache_tokens": 12 * 32, "slots": 2, "rank": 4, "layers": ("q_proj",)}
        made = TorchBackend(load_base(str(tmp_path / "base"), device=device), **room)
        for number in range(3):
            rng = np.random.default_rng(number)
            factors = LowRank(
                rng.normal(size=(3, 32)).astype(np.float32), rng.normal(size=(32, 3)).astype(np.float32), 0.5
            )
            layers = {f"model.layers.{layer}.self_attn.q_proj": LayerAdapter("linear", (factors,)) for layer in (0, 1)}
            made.adapter_slots.register(str(number), Adapter(LoraConfig(rank=3), layers))
        return made

    rng = np.random.default_rng(5)
    asked = [
        Request(
            tuple(int(token) for token in rng.integers(1, 257, rng.integers(1, 50))),
            Decoding(**{"max_new_tokens": 12, **decoding}),
            mixture_of(None if number % 4 == 0 else str(number % 4 - 1)),
        )
        for number in range(10)
    ]
    together = Engine(backend(DEVICE), end=0, blocks=12, step_tokens=24, sequences=8).complete(asked)
    cpu = backend("cpu")
    for request, texts in zip(asked, together, strict=True):
        alone = Engine(cpu, end=0, blocks=12, step_tokens=128, sequences=8, prefix_cache=False).complete([request])[0]
        assert [text.token_ids for text in texts] == [text.token_ids for text in alone]


@pytest.mark.parametrize("merged", [False, True])
def test_the_verb_writes_what_it_writes_on_a_cpu(base: str, data: Path, tmp_path: Path, merged: bool) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)

    def written(device: str) -> list[str]:
        settings = GenerateSettings(
            adapter=(str(adapter),),
            input=str(data / "valid.jsonl"),
            output=tmp_path / f"{device}.jsonl",
            backend="torch",
            precision="fp32",
            device=device,
            merged=merged,
            max_new_tokens=8,
        )
        assert generate(settings)["device"] == device
        lines = (tmp_path / f"{device}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines]

    assert written(DEVICE) == written("cpu")
