"""The memory of a pass, counted without values, against what PyTorch's allocator hands out in a real pass."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from networks import network
from tailora.core.errors import ModelError
from tailora.data.examples import Example
from tailora.training.methods import prepare
from tailora.training.pass_memory import pass_bytes, without_values
from tailora.training.precision import apply
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel, training_mode
from tailora.training.trees.prefix_tree import TreeBatch, build
from training_cases import METHODS, settings_of

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma3_text", "phi3", "opt", "gpt_neox")
FIRST = ("gpt2", "llama")
TEXTS = [
    Example(str(record), (record, 2, 3, *range(10, 20)), (*range(20, 30 + text), 0))
    for record, text in itertools.product(range(4, 8), range(6))
]


def allocated_peak(model: nn.Module, trees: TreeBatch, settings: TrainSettings, autocast: Any) -> int:
    """Run a pass; return the peak of the bytes that the allocator handed out and did not get back."""
    with TreeModel(model, checkpointing=settings.gradient_checkpointing) as network:
        training_mode(model)

        def update() -> None:
            with autocast():
                loss = network.loss(trees, label_smoothing=settings.label_smoothing)
            loss.backward()

        update()  # libraries allocate buffers at the first call
        model.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            update()
    events: Any = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), int(event.nbytes())) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate(change for _, change in changes))


def counted(
    family: str,
    settings: TrainSettings,
    trees: TreeBatch,
    precision: str = "fp32",
    *,
    first: bool = True,
    **config: Any,
) -> int:
    with without_values():
        model = network(family, **config)
        base: Any = SimpleNamespace(model=model, model_type=family, name=family)
        prepare(base, settings)
        autocast = apply(model, precision, settings, trees).autocast
        return pass_bytes(model, trees, settings, autocast, first=first)


def real(family: str, settings: TrainSettings, trees: TreeBatch, precision: str = "fp32", **config: Any) -> int:
    model = network(family, **config)
    base: Any = SimpleNamespace(model=model, model_type=family, name=family)
    prepare(base, settings)
    autocast = apply(model, precision, settings, trees).autocast
    return allocated_peak(model, trees, settings, autocast)


@pytest.mark.parametrize(
    ("family", "method", "checkpointing"),
    [
        pytest.param(family, method, checkpointing, marks=() if family in FIRST or is_quick else pytest.mark.slow)
        for family in FAMILIES
        for method, checkpointing, is_quick in (
            ("lora", False, True),
            ("lora", True, False),
            ("full", False, False),
            ("full", True, True),
        )
    ],
)
def test_count_is_that_of_the_allocator(family: str, method: str, checkpointing: bool) -> None:
    settings, trees = settings_of(method, gradient_checkpointing=checkpointing), build(TEXTS)
    assert counted(family, settings, trees) == pytest.approx(real(family, settings, trees), rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_count_of_every_method(method: str) -> None:
    settings, trees = settings_of(method, label_smoothing=0.1), build(TEXTS)
    assert counted("gpt2", settings, trees) == pytest.approx(real("gpt2", settings, trees), rel=0.05)


@pytest.mark.parametrize("method", ["lora", "full", "top2", "bitfit", "adapter-h", "adapter-l"])
@pytest.mark.parametrize(("family", "count"), [("gpt2", "n_layer"), ("llama", "num_hidden_layers")])
def test_equal_blocks_count_as_often_as_there_are(family: str, count: str, method: str) -> None:
    if (family, method) == ("llama", "bitfit"):
        pytest.skip("Llama has no biases")
    settings, trees, blocks = settings_of(method), build(TEXTS), dict[str, Any]([(count, 7)])
    expected = real(family, settings, trees, **blocks)
    assert counted(family, settings, trees, **blocks) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("method", ["lora", "lora and biases", "full"])
def test_count_in_bf16(method: str) -> None:
    settings, trees = settings_of(method), build(TEXTS)
    expected = real("gpt2", settings, trees, "bf16")
    # Autocast's products take buffers of their own, which matter in networks of this size.
    assert counted("gpt2", settings, trees, "bf16") == pytest.approx(expected, rel=0.1)


def test_gradients_of_earlier_passes_count() -> None:
    settings, trees = settings_of("full"), build(TEXTS[:2])
    first, later = (counted("gpt2", settings, trees, first=first) for first in (True, False))
    assert first < later < first + 4 * sum(parameter.numel() for parameter in network("gpt2").parameters())


def test_what_depends_on_values_is_a_clear_error() -> None:
    with pytest.raises(ModelError, match="cannot be planned without its weights"), without_values():
        torch.ones(3).sum().item()
