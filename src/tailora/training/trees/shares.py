"""Shares of an update: its trees divided among processes so that all of them finish at about the same time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from torch import nn

from tailora.data.examples import Example
from tailora.training.trees.prefix_tree import build


def shares(examples: Sequence[Example], number: int, *, head: float = 0.0) -> list[list[Example]]:
    """Divide examples into shares of about equal cost.

    Examples of one prompt stay together, since they form one tree, unless the largest share becomes cheaper by
    dividing large trees, which repeats their prompts. Trees are assigned in order of cost, the largest first, each to
    the share with the lowest cost so far (Graham 1969, doi:10.1137/0117039).

    Args:
        examples: the examples of an update.
        number: number of shares.
        head: cost of predicting from a node, relative to the cost of the node in the rest of the network.

    Returns:
        The shares, each in the order of the examples; some may be empty. The same examples always give the same shares.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for place, example in enumerate(examples):
        by_prompt.setdefault(example.prompt, []).append(place)
    whole = [_Tree.of(examples, places, head) for places in by_prompt.values()]
    divided = list(_divided(examples, whole, number, head))
    best = min((_assigned(trees, number) for trees in (whole, divided)), key=lambda assigned: max(assigned[1]))
    return [[examples[place] for place in sorted(places)] for places in best[0]]


class _Tree(NamedTuple):
    places: list[int]
    cost: float

    @classmethod
    def of(cls, examples: Sequence[Example], places: list[int], head: float) -> _Tree:
        return cls(places, tree_cost([examples[place] for place in places], head))


def _divided(examples: Sequence[Example], trees: Sequence[_Tree], number: int, head: float) -> Iterator[_Tree]:
    """Yield the trees, those above a share's part of the cost divided. Neighbours in a tree share the most tokens."""
    limit = sum(tree.cost for tree in trees) / number
    for tree in trees:
        parts = min(math.ceil(tree.cost / limit), len(tree.places))
        if parts < 2:
            yield tree
            continue
        ordered = sorted(tree.places, key=lambda place: (examples[place].completion, place))
        bounds = [part * len(ordered) // parts for part in range(parts + 1)]
        for low, high in itertools.pairwise(bounds):
            yield _Tree.of(examples, ordered[low:high], head)


def _assigned(trees: Sequence[_Tree], number: int) -> tuple[list[list[int]], list[float]]:
    """Return the places of each share, and its cost."""
    places_of: list[list[int]] = [[] for _ in range(number)]
    totals = [0.0] * number
    for tree in sorted(trees, key=lambda tree: -tree.cost):
        least = totals.index(min(totals))
        places_of[least] += tree.places
        totals[least] += tree.cost
    return places_of, totals


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
