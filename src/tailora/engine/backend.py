"""Inputs and outputs of one engine step, and the Backend protocol. Numbers only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from tailora.engine.adapter_slots import AdapterSlots
from tailora.engine.arrays import Floats, Ints

Precision = Literal["int8", "bf16", "fp32"]
"""Precision of matrix products."""


@dataclass(frozen=True, eq=False)
class Step:
    """The tokens of one step, sequence by sequence: T tokens of S sequences, K of them with logits.

    Attributes:
        tokens: [T] token ids.
        positions: [T] position of each token in its sequence.
        past: [S] number of cached tokens of each sequence.
        begins: [S + 1] offset of each sequence's tokens, and T.
        blocks: the cache blocks of all sequences, sequence by sequence, including those to be written.
        block_begins: [S + 1] offset of each sequence's blocks, and their total.
        slots: [T, A] slots of each token's adapters, all in one group, -1 in unused places.
        scales: [T, A] factors of the adapters' effects.
        sampled: [K] tokens after which logits are computed.
        best: number of likeliest tokens to return for each.
    """

    tokens: Ints
    positions: Ints
    past: Ints
    begins: Ints
    blocks: Ints
    block_begins: Ints
    slots: Ints
    scales: Floats
    sampled: Ints
    best: int


class TokenScores(NamedTuple):
    """Scores of the tokens that can follow a sequence.

    Attributes:
        logits: [vocabulary].
        tokens: the likeliest tokens, best first.
        log_z: log of the sum of exp(logits); a logit minus log_z is a log-probability.
    """

    logits: Floats
    tokens: Ints
    log_z: float


@dataclass(frozen=True, eq=False)
class StepScores:
    """Result of a step, valid until the next one: logits [K, vocabulary], likeliest tokens [K, best], log_z [K]."""

    logits: Floats
    tokens: Ints
    log_z: Floats

    def rows(self) -> list[TokenScores]:
        """Return the scores row by row."""
        return [TokenScores(*row) for row in zip(self.logits, self.tokens, self.log_z.tolist(), strict=True)]


class Backend(Protocol):
    """A network with its cache and adapter slots, on one device. Used by one thread.

    Attributes:
        context: longest sequence in tokens.
        vocabulary: number of token ids.
        adapter_slots: the registered adapters and their slots.
        block_size: tokens per block of the cache.
        blocks: number of blocks.
    """

    context: int
    vocabulary: int
    adapter_slots: AdapterSlots
    block_size: int
    blocks: int

    def run(self, step: Step) -> StepScores:
        """Write the step's keys and values to their blocks, and score the tokens that can follow the `sampled` ones."""

    def copy_blocks(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Copy blocks of the cache, in all layers, from the first of each pair to the second."""
