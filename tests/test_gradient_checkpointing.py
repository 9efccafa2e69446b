"""Gradient checkpointing: the same bits as without it, in less memory."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from tailora.training import int8
from tailora.training.precision import apply
from tailora.training.trees import forward
from tailora.training.trees.attention import masks_side_by_side
from tailora.training.trees.forward import TreeModel, training_mode
from tailora.training.trees.prefix_tree import build
from training_cases import EXAMPLES, METHODS, prepared, settings_of

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma3_text", "phi3", "opt", "gpt_neox")


def gradients(model: nn.Module, trees: TreeModel, autocast: Any = contextlib.nullcontext) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    with trees:
        training_mode(model)
        with autocast():
            loss = trees.loss(build(EXAMPLES))
        loss.backward()
    result = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), **result}


def assert_same_bits(model: nn.Module, **options: Any) -> None:
    autocast = options.pop("autocast", contextlib.nullcontext)
    plain = gradients(model, TreeModel(model, **options), autocast)
    kept = gradients(model, TreeModel(model, checkpointing=True, **options), autocast)
    assert len(plain) > 1
    assert plain.keys() == kept.keys()
    assert all(torch.equal(plain[name], kept[name]) for name in plain)


@pytest.fixture(params=["trees one by one", "padded trees"])
def either_attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of tree attention; the padded one is that of GPUs."""
    if request.param == "padded trees":
        monkeypatch.setattr(forward, "tree_masks", masks_side_by_side)


@pytest.mark.usefixtures("either_attention")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_family_gets_the_same_bits(family: str, method: str) -> None:
    dropout = {"dropout": 0.3} if method == "lora" else {}
    assert_same_bits(prepared(family, settings_of(method, **dropout)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gets_the_same_bits(method: str) -> None:
    assert_same_bits(prepared("gpt2", settings_of(method)))


@pytest.mark.parametrize(("method", "precision"), [("lora", "bf16"), ("full", "bf16"), ("lora", "int8")])
def test_every_precision_gets_the_same_bits(method: str, precision: str) -> None:
    if precision == "int8" and not int8.supported():
        pytest.skip("int8 needs an x86 CPU with AVX2")
    settings = settings_of(method, precision=precision)
    model = prepared("llama", settings)
    arithmetic = apply(model, precision, settings, build(EXAMPLES))
    head = arithmetic.head
    if head is not None:  # its rounding draws random numbers
        head.generator.manual_seed(0)  # type: ignore[attr-defined]
    plain = gradients(model, TreeModel(model, head=head), arithmetic.autocast)
    if head is not None:
        head.generator.manual_seed(0)  # type: ignore[attr-defined]
    kept = gradients(model, TreeModel(model, head=head, checkpointing=True), arithmetic.autocast)
    assert all(torch.equal(plain[name], kept[name]) for name in plain)


def test_only_the_inputs_of_blocks_are_kept() -> None:
    model = prepared("gpt2", settings_of("lora"))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept_bytes(checkpointing: bool) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with TreeModel(model, checkpointing=checkpointing) as trees:
            training_mode(model)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                trees.hidden(build(EXAMPLES))
        return sum(sizes.values())

    assert kept_bytes(checkpointing=True) < kept_bytes(checkpointing=False) / 4


def test_blocks_have_their_own_forward_afterwards() -> None:
    model = prepared("llama", settings_of("lora"))
    before = {name: module.forward for name, module in model.named_modules()}
    with TreeModel(model, checkpointing=True):
        pass
    # Fused norms replace layers, so that only modules of both are compared.
    after = {name: module.forward for name, module in model.named_modules()}
    assert all(after[name] == before[name] for name in before if name.rpartition(".")[2].isdigit())
