"""Prefix trees of examples, in which every common prefix occurs once.

The texts of one record share its prompt, and often their first words. A tree has a node for each token that
predicts another. A node sees itself and its ancestors, so it computes what it would compute in every sequence
that runs through it. The last token of a sequence predicts nothing and has no node.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailora.data.examples import Example

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """The trees of one forward pass, concatenated; each is in depth-first order, parents before children.

    There are N nodes in T trees, and E scored edges from a node to a token that follows it.

    Attributes:
        tokens: [N] token ids.
        positions: [N] depth in the tree, which is the position in every sequence through the node.
        ends: [N] one past the last node below each node: node i sees node j ≤ i exactly if i < ends[j].
        starts: [T + 1] the first node of each tree, then N.
        edge_nodes: [E] the predicting node, ascending.
        edge_tokens: [E] the token to predict; equal pairs of node and token are listed once.
        edge_weights: [E] number of sequences in which this edge is a completion token, float32.
        examples: number of sequences in the trees.
    """

    tokens: Indices
    positions: Indices
    ends: Indices
    starts: Indices
    edge_nodes: Indices
    edge_tokens: Indices
    edge_weights: NDArray[np.float32]
    examples: int

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.tokens)

    @property
    def completion_tokens(self) -> int:
        """Number of completion tokens in all sequences, which is the sum of the edges' weights."""
        return int(self.edge_weights.sum(dtype=np.float64))


def build(examples: Sequence[Example]) -> TreeBatch:
    """Build the trees of examples: one for each distinct prompt, in order of first appearance.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("no examples to build trees of")
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt, []).append(example)
    nodes = _Nodes([], [], [], {})
    starts = [0]
    for prompt, group in groups.items():
        nodes.add_tree(prompt, sorted(group, key=lambda example: example.completion))
        starts.append(len(nodes.tokens))
    edges = sorted(nodes.edges.items())
    return TreeBatch(
        tokens=np.array(nodes.tokens, np.int64),
        positions=np.array(nodes.positions, np.int64),
        ends=np.array(nodes.ends, np.int64),
        starts=np.array(starts, np.int64),
        edge_nodes=np.array([node for (node, _), _ in edges], np.int64),
        edge_tokens=np.array([token for (_, token), _ in edges], np.int64),
        edge_weights=np.array([weight for _, weight in edges], np.float32),
        examples=len(examples),
    )


@dataclass
class _Nodes:
    tokens: list[int]
    positions: list[int]
    ends: list[int]
    edges: dict[tuple[int, int], int]

    def add_tree(self, prompt: tuple[int, ...], examples: Sequence[Example]) -> None:
        """Add the trie of examples sorted by completion; each shares its longest prefix with the one before."""
        path: list[int] = []
        before: tuple[int, ...] = ()
        for example in examples:
            sequence = prompt + example.completion
            shared = min(_common_prefix(before, sequence), len(path), len(sequence) - 1)
            self._close(path[shared:])
            del path[shared:]
            for depth in range(shared, len(sequence) - 1):
                path.append(len(self.tokens))
                self.tokens.append(sequence[depth])
                self.positions.append(depth)
                self.ends.append(-1)
            for place in example.learnt:
                edge = (path[len(prompt) + place - 1], example.completion[place])
                self.edges[edge] = self.edges.get(edge, 0) + 1
            before = sequence
        self._close(path)

    def _close(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            self.ends[node] = len(self.tokens)


def _common_prefix(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def visible(batch: TreeBatch, tree: int) -> NDArray[np.bool_]:
    """Return which nodes of a tree each of its nodes sees: [L, L], indexed by the seeing node first."""
    low, high = batch.starts[tree], batch.starts[tree + 1]
    order = np.arange(low, high)
    seen: NDArray[np.bool_] = (order[:, None] >= order) & (order[:, None] < batch.ends[low:high])
    return seen


def batches(
    examples: Sequence[Example], batch_size: int, *, group_size: int | None = None, rng: random.Random | None = None
) -> Iterator[list[Example]]:
    """Divide examples into batches of `batch_size` (the last may be smaller), placing equal prompts together.

    Args:
        examples: the examples, in any order.
        batch_size: number of examples in a batch.
        group_size: largest number of examples of one prompt that are kept together; by default an eighth of the batch,
            so that one record does not fill a batch.
        rng: shuffles the groups and the examples within them; None keeps the order of first appearance.
    """
    size = max(1, batch_size // 8) if group_size is None else group_size
    by_prompt: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        by_prompt.setdefault(example.prompt, []).append(example)
    groups: list[list[Example]] = []
    for group in by_prompt.values():
        members = rng.sample(group, len(group)) if rng else group
        parts = -(-len(members) // size)
        groups += [members[i * len(members) // parts : (i + 1) * len(members) // parts] for i in range(parts)]
    if rng:
        rng.shuffle(groups)
    ordered = [example for group in groups for example in group]
    for low in range(0, len(ordered), batch_size):
        yield ordered[low : low + batch_size]
