"""The check that an architecture honours trees and the estimates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from networks import gpt2, llama, network
from tailora.core.errors import ModelError
from tailora.data.examples import Example
from tailora.training.estimate import seconds, workload
from tailora.training.settings import TrainSettings
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
        with pytest.raises(ModelError, match="trees give a loss of"):
            check_trees(network(family), CHAINS)


def test_a_window_shorter_than_the_longest_text_is_refused_wherever_that_stands() -> None:
    model = network("mistral", sliding_window=8)
    short = Example("1", (1, 2), (3, 4))
    long = Example("2", tuple(range(1, 12)), (5, 6, 7))
    check_trees(model, [short])
    for bound in (1e-3, 100.0):  # whatever the precision of the products
        with pytest.raises(ModelError, match=r"the longest text has 14 tokens, .* a window of 8; shorten the texts"):
            check_trees(model, [short] * 20 + [long], bound=bound)


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
