"""Whether an architecture computes on trees what it computes on sequences, seen before a run begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from tailora.data.examples import Example
from tailora.data.prefix_tree import build
from tailora.errors import ModelError
from tailora.train.forward import TreeModel, evaluation


def check_trees(model: nn.Module, examples: Sequence[Example], *, bound: float = 1e-3) -> None:
    """Compare the loss of two texts as a tree with that of the model's own forward pass.

    An architecture that scales its logits, looks back through a window, or does not hand the trees to its attention
    would otherwise train on something else than it is asked to.

    Args:
        model: a transformers causal language model in fp32 or wider.
        examples: the first is taken, and another of its prompt if there is one.
        bound: largest relative difference.

    Raises:
        ModelError: if they differ.
    """
    first = examples[0]
    others = (e for e in examples[1:] if e.prompt == first.prompt and e.completion != first.completion)
    chosen = [first, *[e for e in [next(others, None)] if e is not None]]
    device = next(model.parameters()).device
    own = 0.0
    with evaluation(model):
        for example in chosen:
            tokens = torch.tensor([example.prompt + example.completion], device=device)
            logits = cast(Any, model)(input_ids=tokens).logits[0, len(example.prompt) - 1 : -1]
            own += F.cross_entropy(logits.float(), tokens[0, len(example.prompt) :], reduction="sum").item()
        with TreeModel(model) as trees:
            tree = trees.loss(build(chosen)).item()
    if not abs(tree - own) <= bound * abs(own):
        raise ModelError(
            f"trees give a loss of {tree:.4f} where its own forward pass gives {own:.4f}",
            where=type(model).__name__,
            mend="choose a base whose architecture has plain attention and a plain vocabulary projection",
        )
