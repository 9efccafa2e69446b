"""A comparison of trees with plain sequences on the user's own model, before a run begins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from tailora.core.errors import ModelError
from tailora.data.examples import Example
from tailora.inserts.prefix import windows_of
from tailora.training.trees.forward import TreeModel, evaluation
from tailora.training.trees.loss import FrozenHead
from tailora.training.trees.prefix_tree import build

ROUNDED = 0.1
"""Largest difference for a network whose products are rounded to 8 or 16 bits, in nats per token."""


def check_trees(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    head: FrozenHead | None = None,
    bound: float = 1e-3,
) -> None:
    """Compare the loss of a few texts as trees with that of the model's own forward pass, and run a backward pass.

    Without this check, an architecture that scales its logits or does not take its attention from the registry would
    silently train on something other than its texts. No parameter changes, and no random number is drawn.

    Args:
        model: a transformers causal language model.
        examples: all examples of the run; `samples` selects those that are compared.
        autocast: returns the context that forward passes run in.
        head: the vocabulary projection that trees are scored with, if it is not the model's own.
        bound: largest difference, relative to the loss or in nats per token, whichever is larger. 1e-3 suits fp32 and
            wider; `ROUNDED` suits narrower types.

    Raises:
        ModelError: the losses differ, or some layers do not attend to trees as they attend to texts, of which a
            difference of losses need not be large.
    """
    chosen = samples(examples)
    device = next(model.parameters()).device
    own, tokens = 0.0, sum(len(example.learnt) for example in chosen)
    with evaluation(model), autocast():
        for example in chosen:
            ids = torch.tensor([example.prompt + example.completion], device=device)
            places = torch.tensor(example.learnt, device=device) + len(example.prompt)
            logits = cast(Any, model)(input_ids=ids).logits[0, places - 1]
            own += F.cross_entropy(logits.float(), ids[0, places], reduction="sum").item()
        with TreeModel(model, head=head) as trees, torch.enable_grad():
            loss = trees.loss(build(chosen))
            tree = loss.item()
    _require_attention(model, max(map(len, examples)), trees.windows)
    if not abs(tree - own) <= bound * max(abs(own), tokens):
        raise ModelError(
            f"trees give a loss of {tree:.4f} where its own forward pass gives {own:.4f}",
            where=type(model).__name__,
            hint="choose a base whose architecture has plain attention and a plain vocabulary projection",
        )
    if loss.requires_grad:
        loss.backward()
        model.zero_grad(set_to_none=True)


def _require_attention(model: nn.Module, longest: int, seen: Sequence[int | None]) -> None:
    """Raise unless every layer attended to the trees, through the windows that the configuration has.

    Args:
        model: the network.
        longest: length of the longest text, in tokens.
        seen: `TreeModel.windows`.
    """
    config = cast(Any, model).config
    layers = config.num_hidden_layers
    if len(seen) != layers:
        what = (
            f"only {len(seen)} of its {layers} layers have an attention that can be replaced by one over prefix trees"
        )
        raise ModelError(what, where=type(model).__name__, hint="train another base model")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if others:
        what = f"has layers of the type {others[0]}, which do not compute the same on prefix trees"
        raise ModelError(what, where=type(model).__name__, hint="train another base model")
    windows = windows_of(config)
    if windows and longest > windows[0] and seen.count(windows[0]) != len(windows):
        what = f"the longest text has {longest} tokens, and some layers attend to a window of {windows[0]}"
        hint = "shorten the texts, or leave out the longest; trees attend to whole texts in this architecture"
        raise ModelError(what, where=type(model).__name__, hint=hint)


def samples(examples: Sequence[Example]) -> list[Example]:
    """Return three examples in two trees, one of which branches: the longest, a variant of it, and the shortest.

    The variant has the same prompt and the text's tokens rotated until the first one differs. Without it, data with
    one text per record would not test branches.
    """
    longest, shortest = max(examples, key=len), min(examples, key=len)
    text = longest.completion
    turn = next((n for n, token in enumerate(text) if token != text[0]), 0)
    chosen = [longest, Example(longest.record_id, longest.prompt, text[turn:] + text[:turn])]
    if shortest.prompt == longest.prompt:
        tokens = longest.prompt[::-1] + text
        shortest = Example(shortest.record_id, tokens[:1], tokens[1:])
    return [*chosen, shortest]
