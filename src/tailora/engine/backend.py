"""What a step of the engine asks of a backend, and the protocol that backends keep. Numbers only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tailora.engine.adapter_slots import AdapterSlots

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Precision = Literal["int8", "bf16", "fp32"]
"""What a backend computes products in."""


@dataclass(frozen=True, eq=False)
class Step:
    """The tokens of one step, those of a sequence side by side: T tokens of S sequences, K logits asked for.

    Attributes:
        tokens: [T] token ids.
        positions: [T] of each in its sequence.
        past: [S] tokens of each sequence that the cache holds already.
        begins: [S + 1] where each sequence's tokens begin, and T.
        blocks: all sequences' cache blocks, one sequence after the other, those to be written included.
        block_begins: [S + 1] where each sequence's blocks begin, and their number.
        slots: [T] the slot of each token's adapter, -1 for none.
        scales: [T] what the adapter's effect is multiplied by.
        sampled: [K] the tokens after which logits are wanted.
        best: how many of the likeliest tokens are wanted of each.
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


class Row(NamedTuple):
    """What may follow a sequence.

    Attributes:
        logits: [vocabulary].
        tokens: the likeliest, best first.
        log_z: logarithm of the sum of the exponentials of the logits: a logit less this is a log-probability.
    """

    logits: Floats
    tokens: Ints
    log_z: float


@dataclass(frozen=True, eq=False)
class Scores:
    """What a step gave, valid until the next: logits [K, vocabulary], likeliest tokens [K, best], log_z [K]."""

    logits: Floats
    tokens: Ints
    log_z: Floats

    def rows(self) -> list[Row]:
        """Row by row."""
        return [Row(*row) for row in zip(self.logits, self.tokens, self.log_z.tolist(), strict=True)]


class Backend(Protocol):
    """A network with its cache and its room for adapters, on some device. Used by one thread.

    Attributes:
        context: most tokens a sequence may have.
        vocabulary: how many token ids there are.
        adapter_slots: the adapters.
        block_size: tokens a block of the cache holds.
        blocks: how many there are.
    """

    context: int
    vocabulary: int
    adapter_slots: AdapterSlots
    block_size: int
    blocks: int

    def run(self, step: Step) -> Scores:
        """Write the step's keys and values into their blocks, and score what may follow the tokens asked for."""

    def copy_blocks(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Copy blocks of the cache, in all layers, from the first of each pair to the second."""
