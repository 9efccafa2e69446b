"""The memory of a run by part."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from bases import save_base
from tailora.core.hardware.memory import rss
from tailora.data.examples import Example
from tailora.models.load import load_base
from tailora.training import int8
from tailora.training import memory_plan as module
from tailora.training.estimate import workload
from tailora.training.memory_plan import MemoryPlan, memory_limit, memory_plan, process_bytes
from tailora.training.methods import prepare
from tailora.training.precision import apply, loading_dtype
from tailora.training.settings import TrainSettings
from tailora.training.trees.prefix_tree import build
from tailora.training.vocabulary import UsedRows, keep_used_rows, used_tokens
from training_cases import METHODS, settings_of

ALL_PRECISIONS = {"lora", "dora", "full", "top2", "adapter-h", "prefix"}
"""Methods that differ in what is frozen or converted; the slow tests have all."""
TEXTS = [Example(str(n), (n, 2, 3), (*range(10, 20 + n), 0)) for n in range(4, 12)]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_base(folder, request.param)
    return folder


def planned(settings: TrainSettings, precision: str = "fp32", *, validates: bool = True) -> MemoryPlan:
    work = workload(TEXTS, settings)
    return memory_plan(settings, work, precision, "cpu", process=1000, validates=validates)


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        pytest.param(
            method, precision, marks=() if precision == "int8" or method in ALL_PRECISIONS else pytest.mark.slow
        )
        for method, precision in itertools.product(METHODS, ("fp32", "bf16", "int8"))
        if precision != "int8" or settings_of(method).method == "lora"
    ],
)
def test_weights_are_those_of_the_converted_network(base: Path, method: str, precision: str) -> None:
    settings = settings_of(method, base=str(base))
    if precision == "int8" and not int8.supported():
        pytest.skip("int8 needs an x86 CPU with AVX2")
    loaded = load_base(str(base), dtype=torch.float32)
    if loaded.model_type == "llama" and method in ("bitfit", "lora and biases"):
        pytest.skip("Llama has no biases")
    prepare(loaded, settings)
    apply(loaded.model, precision, settings, build(TEXTS))
    plan = planned(settings, precision)
    learning = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    assert plan.learning == plan.gradients == plan.best == sum(4 * parameter.numel() for parameter in learning)
    frozen = [parameter for parameter in loaded.model.parameters() if not parameter.requires_grad]
    sizes = {"fp32": 0, "bf16": 0}
    for parameter in frozen:
        sizes["fp32" if parameter.dtype == torch.float32 else "bf16"] += parameter.numel() * parameter.element_size()
    projections = {layer.projections for layer in loaded.model.modules() if isinstance(layer, int8.Int8Linear)}
    sizes["fp32"] += sum(4 * group.bias.numel() for group in projections if group.bias is not None)
    assert plan.weights.get("fp32", 0) == sizes["fp32"]
    assert plan.weights.get("bf16", 0) == sizes["bf16"]
    assert ("int8" in plan.weights) == (precision == "int8")


def test_rows_of_the_vocabulary_that_are_not_used_do_not_count(base: Path) -> None:
    if not int8.supported():
        pytest.skip("int8 needs an x86 CPU with AVX2")
    settings, tokens = settings_of("lora", base=str(base)), used_tokens(TEXTS)
    loaded = load_base(str(base), dtype=torch.float32)
    prepare(loaded, settings)
    head = apply(loaded.model, "int8", settings, build(TEXTS)).head
    assert isinstance(head, int8.Int8Head)
    keep_used_rows(loaded.model, head, tokens)
    tensors = [p for p in loaded.model.parameters() if not p.requires_grad and p.device.type == "cpu"]
    tensors += [b for m in loaded.model.modules() if isinstance(m, UsedRows) for b in m.buffers()]
    projections = {layer.projections for layer in loaded.model.modules() if isinstance(layer, int8.Int8Linear)}
    tensors += [head.weight, *(group.bias for group in projections if group.bias is not None)]
    sizes = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}
    work = workload(TEXTS, settings)
    plan = memory_plan(settings, work, "int8", "cpu", process=0, validates=True, tokens=len(tokens))
    assert plan.weights["fp32"] == sum(sizes.values())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_base_of_bf16_is_loaded_in_it(stored: torch.dtype, tmp_path: Path) -> None:
    save_base(tmp_path, "llama", dtype=stored)
    expected = load_base(str(tmp_path), dtype=torch.float32).model.to(torch.bfloat16)
    loaded = load_base(str(tmp_path), dtype=loading_dtype(settings_of("lora"), "bf16")).model
    for one, other in zip(expected.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)
    settings = settings_of("lora", base=str(tmp_path))
    exact, cast = (planned(settings, name).loading - 1000 for name in ("fp32", "bf16"))
    assert cast / exact == pytest.approx(1 / 3 if stored == torch.bfloat16 else 3 / 2)


def test_base_is_loaded_in_fp32_where_something_is_computed_from_it() -> None:
    for method in ("dora", "lora and biases", "full", "bitfit"):
        assert loading_dtype(settings_of(method), "bf16") == torch.float32
    assert loading_dtype(settings_of("lora"), "fp32") == torch.float32
    assert loading_dtype(settings_of("adapter-h"), "bf16") == torch.bfloat16


def test_weights_in_8_bits_leave_the_file(tmp_path: Path) -> None:
    if not int8.supported():
        pytest.skip("int8 needs an x86 CPU with AVX2")
    save_base(tmp_path, "gpt2")
    base = load_base(str(tmp_path), dtype=torch.float32)
    settings = settings_of("lora")
    prepare(base, settings)
    mapped = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    apply(base.model, "int8", settings, build(TEXTS))
    frozen = [parameter for parameter in base.model.parameters() if not parameter.requires_grad]
    assert frozen
    assert mapped.isdisjoint(parameter.untyped_storage().data_ptr() for parameter in frozen)


def test_state_of_the_optimizer(base: Path) -> None:
    plan = planned(settings_of("full", base=str(base)))
    assert plan.optimizer == 2 * plan.learning
    assert plan.weights == {}
    assert plan.peak >= 1000 + 4 * plan.learning + plan.activations
    assert planned(settings_of("full", base=str(base)), validates=False).best == 0


def test_smaller_passes_and_checkpointing_need_less(base: Path) -> None:
    whole = planned(settings_of("lora", base=str(base)))
    smaller = planned(settings_of("lora", base=str(base), tokens_per_pass=32))
    checkpointed = planned(settings_of("lora", base=str(base), gradient_checkpointing=True))
    assert smaller.activations < whole.activations / 2
    assert checkpointed.activations < whole.activations


def test_equal_shapes_are_counted_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in another folder; every setting and example that changes a shape is counted again."""
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    monkeypatch.setattr(module, "_COUNTED", {})
    first = planned(settings_of("lora", base=str(base)))
    counted: list[object] = []
    count = module._count
    monkeypatch.setattr(module, "_count", lambda *given: counted.append(given) or count(*given))  # type: ignore[func-returns-value]
    others: dict[str, object] = {
        "learning_rate": 0.5,
        "epochs": 9,
        "schedule": "constant",
        "eval_every": 2,
        "limit": 50,
    }
    others |= {"precision": "bf16", "save_every": 1.0, "prompt_form": "arrow", "weight_decay": 0.0, "max_length": 99}
    assert planned(settings_of("lora", base=str(copy), output=tmp_path / "run", **others)) == first
    assert not counted
    planned(settings_of("lora", base=str(base)), "bf16")
    planned(settings_of("lora", base=str(base), rank=8))
    planned(settings_of("lora", base=str(base), batch_size=4))
    planned(settings_of("lora", base=str(base), label_smoothing=0.1))
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": 300}), encoding="utf-8")
    assert planned(settings_of("lora", base=str(copy))) != first
    assert len(counted) == 5


def test_planning_takes_no_memory_for_weights(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "gpt2")
    config = (tmp_path / "base" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "base" / "config.json").write_text(config.replace('"n_embd": 32', '"n_embd": 8192'), encoding="utf-8")
    settings = settings_of("full", base=str(tmp_path / "base"))
    planned(settings)
    module._COUNTED.clear()
    before = rss()
    plan = planned(settings)
    after = rss()
    assert before is not None
    assert after is not None
    assert plan.learning > 2**32
    assert after - before < 2**26


def test_processes_share_trees_and_with_full_what_learns(base: Path) -> None:
    work = workload(TEXTS, settings_of("full", base=str(base)))
    for method, divided in [("full", 4), ("lora", 1)]:
        settings = settings_of(method, base=str(base))
        alone = memory_plan(settings, work, "fp32", "cpu", process=0, validates=True)
        shared = memory_plan(settings, work, "fp32", "cpu", process=0, validates=True, processes=4)
        assert shared.optimizer == alone.optimizer // divided
        assert shared.activations < alone.activations / 2


def test_processes_share_an_explicit_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("lora", memory_limit=2)
    assert memory_limit(settings, "cpu") == 2**31
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_limit(settings, "cpu") == 2**29


def test_limit_is_what_is_available_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("lora")
    limit = memory_limit(settings, "cpu")
    if limit is None:
        pytest.skip("this system does not report its available memory")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = memory_limit(settings, "cpu")
    assert shared is not None
    assert shared < limit
    assert process_bytes("cpu") > 0
    assert process_bytes("cuda:0") == 0
