"""The part of a frozen vocabulary that a run uses: its texts have a few thousand of fifty thousand tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailora.data.examples import Example
from tailora.training.int8 import Int8Head


class UsedRows(nn.Module):
    """A frozen embedding that has the rows of some tokens only.

    Args:
        rows: [tokens, width].
        places: [vocabulary] the row of each token; -1 for tokens without one.
    """

    def __init__(self, rows: Tensor, places: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("places", places, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens, […] to […, width]; a token without a row is an error."""
        return F.embedding(cast(Tensor, self.places)[tokens], cast(Tensor, self.rows))


def used_tokens(examples: Iterable[Example]) -> list[int]:
    """Return the tokens of examples, ascending."""
    used: set[int] = set()
    for example in examples:
        used.update(example.prompt, example.completion)
    return sorted(used)


def is_reducible(model: nn.Module) -> bool:
    """Return whether the embedding can be reduced: it is plain, frozen, and without an adapter."""
    embedding = cast(Any, model).get_input_embeddings()
    return type(embedding) is nn.Embedding and not embedding.weight.requires_grad


@torch.no_grad()
def keep_used_rows(model: nn.Module, head: Int8Head, tokens: Iterable[int]) -> None:
    """Drop the rows of embedding and vocabulary projection that no text needs in fp32, in place.

    The 8-bit projection still scores all tokens. The network's own projection keeps its shape, without values.

    Args:
        model: the network after `int8.quantise_frozen`.
        head: what that returned.
        tokens: all tokens that the network will be given or learns.
    """
    if not is_reducible(model):
        return
    causal = cast(Any, model)
    embedding, projection = causal.get_input_embeddings(), causal.get_output_embeddings()
    used = torch.tensor(list(tokens))
    places = torch.full((len(embedding.weight),), -1)
    places[used] = torch.arange(len(used))
    rows = embedding.weight[used]
    tied = projection.weight is embedding.weight
    head.keep_rows(rows if tied else projection.weight[used], places)
    causal.set_input_embeddings(UsedRows(rows, places))
    projection.weight = nn.Parameter(torch.empty_like(projection.weight, device="meta"), requires_grad=False)
