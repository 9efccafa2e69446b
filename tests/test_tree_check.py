"""The check that an architecture honours trees and the estimates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from networks import gpt2, llama, network
from tailora.core.errors import ModelError
from tailora.data.examples import Example
from tailora.training.estimate import seconds, workload
from tailora.training.settings import TrainSettings
from tailora.training.trees import attention as trees_attention
from tailora.training.trees.check import check_trees
from tailora.training.trees.forward import TreeModel

EXAMPLES = [Example("1", (1, 2, 3), (4, 5, 6)), Example("1", (1, 2, 3), (4, 7)), Example("2", (8, 2), (9, 10, 11))]


CHAINS = [Example("1", (1, 2, 3), (4, 5, 6)), Example("2", (8, 2), (9, 10, 11)), Example("3", (7,), (7, 7))]
"""Records with one text each, as most data has them: no tree of theirs branches."""


@pytest.mark.parametrize("examples", [EXAMPLES, CHAINS, CHAINS[:1], CHAINS[2:]])
@pytest.mark.parametrize("family", [gpt2, llama])
def test_known_families_pass(family: object, examples: list[Example]) -> None:
    model = family()  # type: ignore[operator]
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_trees(model, examples)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("examples", [EXAMPLES, CHAINS])
@pytest.mark.parametrize("family", ["gpt_neo", "bloom", "gptj"])
def test_an_attention_that_cannot_be_replaced_is_refused(family: str, examples: list[Example]) -> None:
    """transformers only logs that it kept the architecture's own attention, for which a batch is one long text."""
    with pytest.raises(ModelError, match=f"'{family}' has its own attention, which cannot be replaced"):
        check_trees(network(family), examples)


def test_an_attention_that_is_not_told_of_the_trees_is_refused() -> None:
    with pytest.raises(ModelError, match="does not pass the trees on to its attention"):
        check_trees(network("stablelm"), EXAMPLES)


def test_an_attention_that_ignores_trees_is_found_in_data_that_does_not_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TreeModel, "_takes", lambda *_: True)  # as if transformers had not said so
    for family in ("gpt_neo", "bloom", "gptj"):
        with pytest.raises(ModelError, match="only 0 of its 2 layers"):
            check_trees(network(family), CHAINS)


LONG = Example("2", tuple(range(1, 12)), (5, 6, 7))


@pytest.mark.parametrize("form", ["mistral", "qwen2", "gemma3_text"])
def test_a_window_shorter_than_the_longest_text_passes(form: str) -> None:
    check_trees(network(form, sliding_window=8, use_sliding_window=True, max_window_layers=1), [*EXAMPLES, LONG])


@pytest.mark.parametrize("bound", [1e-3, 100.0])  # whatever the precision of the products
def test_a_window_that_attention_does_not_ask_for_is_refused(bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees_attention.TreeMasks, "within", lambda self, _: self.windows.append(None) or self.masks)
    model = network("mistral", sliding_window=8)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()  # no loss shows it
    check_trees(model, EXAMPLES, bound=bound)
    with pytest.raises(ModelError, match=r"the longest text has 14 tokens, .* a window of 8; shorten the texts"):
        check_trees(model, [*EXAMPLES * 20, LONG], bound=bound)


LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "only 1 of its 2 layers"),
        ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"], **LINEAR}, "only 1 of its 2 layers"),
        ("mamba", {"hidden_size": 32, "state_size": 4}, "only 0 of its 2 layers|does not pass|own attention"),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}, "an input s_aux"),
    ],
)
def test_layers_that_mix_tokens_otherwise_are_refused_in_every_precision(
    family: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_trees(network(family, **config), EXAMPLES, bound=100.0)


def test_a_kind_of_attention_that_trees_do_not_have_is_refused() -> None:
    model = network("llama")
    model.config.layer_types, model.config.attention_chunk_size = ["chunked_attention", "full_attention"], 64
    with pytest.raises(ModelError, match="has layers of the type chunked_attention"):
        check_trees(model, EXAMPLES)


def test_a_base_that_knows_its_texts_by_heart_passes() -> None:
    """A loss near 0, of which rounding is a large part."""
    model = llama()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    check_trees(model, CHAINS)


def test_scaled_logits_are_refused() -> None:
    model = gpt2()

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.config = model.config
            self.base_model = model.base_model
            self.dtype = model.dtype

        def get_output_embeddings(self) -> nn.Module:
            return self.inner.get_output_embeddings()  # type: ignore[no-any-return]

        def set_attn_implementation(self, name: str) -> None:
            self.inner.set_attn_implementation(name)

        def forward(self, **inputs: torch.Tensor) -> object:
            out = self.inner(**inputs)
            out.logits = out.logits * 5
            return out

    with pytest.raises(ModelError, match=r"Scaled: trees give a loss of .* its own forward pass gives"):
        check_trees(Scaled(), EXAMPLES)


def test_workload_counts_every_scored_node() -> None:
    work = workload(EXAMPLES, TrainSettings(data="restaurants", batch_size=2, tokens_per_pass=5))
    assert work.updates == 2
    assert work.scored <= work.nodes <= sum(len(e) - 1 for e in EXAMPLES)
    assert work.largest_pass <= 5
    assert seconds(1e9, "fp32", "cpu") == pytest.approx(0.1 * seconds(1e10, "fp32", "cpu"), rel=2)
