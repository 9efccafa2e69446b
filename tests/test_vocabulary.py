"""Rows of the vocabulary that no text uses are dropped in int8 without changing a bit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from networks import network, stir
from tailora.data.examples import Example
from tailora.training import int8
from tailora.training.methods import learning_parameters, prepare
from tailora.training.trees.forward import TreeModel
from tailora.training.trees.prefix_tree import build
from tailora.training.vocabulary import keep_used_rows, used_tokens
from training_cases import settings_of

pytestmark = pytest.mark.skipif(not int8.supported(), reason="int8 needs an x86 CPU with AVX2")
TEXTS = [Example(str(n), (n, 2, 3), (*range(10, 20 + n), 0)) for n in range(4, 12)]


def prepared(family: str, targets: tuple[str, ...] = ("attention", "mlp"), **config: Any) -> tuple[nn.Module, Any]:
    model = network(family, **config)
    base: Any = SimpleNamespace(model=model, model_type=family, name=family)
    prepare(base, settings_of("lora", targets=targets))
    stir(model, size=0.05)
    return model, int8.quantise_frozen(model, build(TEXTS))


def update(model: nn.Module, head: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of the texts, and its gradients."""
    head.generator.manual_seed(0)
    with TreeModel(model, head=head) as trees:
        loss = trees.loss(build(TEXTS), label_smoothing=0.1)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in learning_parameters(model).items()}
    model.zero_grad(set_to_none=True)
    return loss.detach(), {name: gradient for name, gradient in gradients.items() if gradient is not None}


@pytest.mark.parametrize(
    ("family", "config"),
    [("gpt2", {}), ("gpt2", {"tie_word_embeddings": False}), ("llama", {}), ("llama", {"tie_word_embeddings": True})],
)
def test_losses_and_gradients_are_the_same_bits(family: str, config: dict[str, Any]) -> None:
    model, head = prepared(family, **config)
    loss, gradients = update(model, head)
    before = size(model)
    keep_used_rows(model, head, used_tokens(TEXTS))
    again, others = update(model, head)
    assert torch.equal(loss, again)
    assert gradients.keys() == others.keys()
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    dropped = 64 - len(used_tokens(TEXTS))
    assert before - size(model) >= dropped * 32
    assert head.weight.shape == (len(used_tokens(TEXTS)), 32)


def size(model: nn.Module) -> int:
    """The number of values that a network has in memory in fp32."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() for tensor in tensors if tensor.device.type == "cpu" and tensor.dtype == torch.float32)


def test_tokens_without_a_row_are_an_error() -> None:
    model, head = prepared("gpt2")
    keep_used_rows(model, head, used_tokens(TEXTS))
    assert 63 not in used_tokens(TEXTS)
    with pytest.raises(IndexError):
        model.get_input_embeddings()(torch.tensor([63]))  # type: ignore[operator]


def test_what_learns_keeps_its_rows() -> None:
    """Also an embedding with an adapter, whose layer reads its weight."""
    model, head = prepared("gpt2", ("attention", "embedding"))
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    keep_used_rows(model, head, used_tokens(TEXTS))
    assert model.get_input_embeddings() is embedding  # type: ignore[operator]
    assert head.weight.shape == (64, 32)


def test_tokens_are_those_of_prompts_and_completions() -> None:
    assert used_tokens([Example("1", (5, 9), (2, 0)), Example("2", (5,), (7,))]) == [0, 2, 5, 7, 9]
