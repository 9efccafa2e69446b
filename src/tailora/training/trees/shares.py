"""Shares of an update: its trees divided among processes so that all of them finish at about the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from torch import nn

from tailora.data.examples import Example
from tailora.training.trees.prefix_tree import build


def shares(examples: Sequence[Example], number: int, *, head: float = 0.0) -> list[list[Example]]:
    """Divide examples into shares of about equal cost. Examples of one prompt stay together, since they form one tree.

    Trees are assigned in order of cost, the largest first, each to the share with the lowest cost so far (Graham 1969,
    doi:10.1137/0117039): the largest share costs at most 4/3 of that of the best division.

    Args:
        examples: the examples of an update.
        number: number of shares.
        head: cost of predicting from a node, relative to the cost of the node in the rest of the network.

    Returns:
        The shares, each in the order of the examples. Those beyond the number of trees are empty. The same examples
        always give the same shares.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for place, example in enumerate(examples):
        by_prompt.setdefault(example.prompt, []).append(place)
    trees = list(by_prompt.values())
    costs = [tree_cost([examples[place] for place in places], head) for places in trees]
    places_of: list[list[int]] = [[] for _ in range(number)]
    totals = [0.0] * number
    for tree in sorted(range(len(trees)), key=lambda tree: -costs[tree]):
        least = totals.index(min(totals))
        places_of[least] += trees[tree]
        totals[least] += costs[tree]
    return [[examples[place] for place in sorted(places)] for places in places_of]


def tree_cost(examples: Sequence[Example], head: float) -> float:
    """Return the cost of a tree: its nodes, and its nodes that predict a completion token times `head`."""
    tree = build(examples)
    return len(tree) + head * len(np.unique(tree.edge_nodes))


def head_cost(model: nn.Module) -> float:
    """Return the cost of a node in a network's vocabulary projection, relative to that in its blocks.

    A block has about 12 · width² weights: 4 · width² for attention and 8 · width² between attention and the next block.
    """
    config = cast(Any, model).config
    return float(config.vocab_size / (12 * config.num_hidden_layers * config.hidden_size))
