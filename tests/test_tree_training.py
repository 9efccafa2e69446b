"""The trainer's central equality: trees give the loss and the gradients of the padded computation."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from networks import network
from tailora.data.examples import Example
from tailora.training.trees import forward
from tailora.training.trees.attention import masks_one_by_one, masks_side_by_side
from tailora.training.trees.forward import TreeModel
from tailora.training.trees.prefix_tree import build

VOCABULARY = 41


def tiny_gpt2() -> nn.Module:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0
    )
    return GPT2LMHeadModel(config)  # type: ignore[no-any-return]


def tiny_llama(tied: bool = False) -> nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)  # type: ignore[no-any-return]


MODELS: dict[str, Any] = {"gpt2": tiny_gpt2, "llama": tiny_llama, "llama-tied": lambda: tiny_llama(tied=True)}


def random_examples(rng: random.Random) -> list[Example]:
    """A few prompts with texts that share beginnings, some of them twice."""
    examples = []
    for record in range(rng.randint(1, 4)):
        prompt = tuple(rng.randrange(3) for _ in range(rng.randint(1, 6)))
        for _ in range(rng.randint(1, 5)):
            completion = (*(rng.randrange(3) for _ in range(rng.randint(0, 8))), VOCABULARY - 1)
            examples += [Example(str(record), prompt, completion)] * rng.choice([1, 1, 2])
    rng.shuffle(examples)
    return examples


def padded_loss(model: nn.Module, examples: list[Example], smoothing: float) -> torch.Tensor:
    """Mean cross-entropy over completion tokens of every sequence, padded on the right, by transformers itself."""
    longest = max(map(len, examples))
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    for row, example in enumerate(examples):
        tokens[row, : len(example)] = torch.tensor(example.prompt + example.completion)
        labels[row, len(example.prompt) : len(example)] = torch.tensor(example.completion)
    mask = (torch.arange(longest) < torch.tensor([[len(e)] for e in examples])).long()
    logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=smoothing)


def norms_in_own_dtype(model: nn.Module) -> None:
    """Llama's RMSNorm goes through fp32 whatever the model's dtype; fp64 bounds need one that does not."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=child.weight.dtype)
                setattr(module, name, norm)


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("frozen_head", [True, False])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_tree_equals_padded(
    name: str, dtype: torch.dtype, bound: float, smoothing: float, frozen_head: bool, seed: int
) -> None:
    torch.manual_seed(seed % 1000)
    model = MODELS[name]().to(dtype)
    if dtype == torch.float64:
        norms_in_own_dtype(model)
    if frozen_head:  # a tied embedding is frozen with it
        model.get_output_embeddings().requires_grad_(False)
    examples = random_examples(random.Random(seed))

    padded = padded_loss(model, examples, smoothing)
    padded.backward()
    expected = gradients(model)
    model.zero_grad()

    batch = build(examples)
    with TreeModel(model) as trees:
        total = trees.loss(batch, label_smoothing=smoothing)
    tree = total / batch.completion_tokens
    tree.backward()

    assert tree.item() == pytest.approx(padded.item(), rel=bound)
    assert (gradients(model) - expected).norm() <= bound * expected.norm()


KINDS = ["sliding_attention", "full_attention"]
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "a window in all layers": ("mistral", {"sliding_window": 6}),
    "a window from a layer on": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "a window and two rotations": ("gemma3_text", {"sliding_window": 6, "layer_types": KINDS}),
    "a window wider than the texts": ("phi3", {"sliding_window": 24}),
    "capped scores and logits": (
        "gemma2",
        {"sliding_window": 6, "layer_types": KINDS, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 3.0},
    ),
    "divided logits": ("granite", {"logits_scaling": 2.0, "attention_multiplier": 0.3}),
    "multiplied logits": ("cohere", {"logit_scale": 0.3}),
}
LONG = [
    Example("1", tuple(range(1, 14)), (20, 21, 22, 23, 24, 25, 0)),
    Example("1", tuple(range(1, 14)), (20, 21, 30, 31, 0)),
    Example("2", (5, 6), (7, 8, 9, 0)),
    Example("3", tuple(range(30, 50)), (1, 2, 0)),
]


@pytest.mark.parametrize("frozen_head", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_attention_and_logits(form: str, frozen_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    family, config = FORMS[form]
    model = network(family, **config)
    model.get_output_embeddings().requires_grad_(not frozen_head)
    padded = padded_loss(model, LONG, 0.1)
    padded.backward()
    expected = gradients(model)
    batch = build(LONG)
    for masks in (masks_one_by_one, masks_side_by_side):
        monkeypatch.setattr(forward, "tree_masks", lambda *given, rows, prefix, f=masks: f(*given, prefix=prefix))
        model.zero_grad()
        with TreeModel(model) as trees:
            tree = trees.loss(batch, label_smoothing=0.1) / batch.completion_tokens
        tree.backward()
        assert tree.item() == pytest.approx(padded.item(), rel=1e-5)
        assert (gradients(model) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_as_on_a_gpu_side_by_side_and_filled_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    model = MODELS[name]().double()
    batch = build(random_examples(random.Random(3)))
    assert len(set(np.diff(batch.starts))) > 1

    def loss_and_gradients() -> tuple[float, torch.Tensor]:
        model.zero_grad()
        with TreeModel(model) as trees:
            loss = trees.loss(batch)
        loss.backward()
        return loss.item(), gradients(model)

    expected, slopes = loss_and_gradients()
    filled = forward._filled
    monkeypatch.setattr(forward, "_filled", lambda values, _, device: filled(values, 128, device))
    monkeypatch.setattr(
        forward, "tree_masks", lambda *given, rows, prefix: masks_side_by_side(*given, rows=128, prefix=prefix)
    )
    loss, same = loss_and_gradients()
    assert loss == pytest.approx(expected, rel=1e-12)
    assert (same - slopes).norm() <= 1e-9 * slopes.norm()
