"""Choose a token from a row of logits: penalties, biases and sampling. A sample depends on its request only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from tailora.engine.arrays import Floats
from tailora.engine.decoding import Decoding


def penalised(logits_V: Floats, prompt: Sequence[int], written: Sequence[int], decoding: Decoding) -> Floats:
    """Apply penalties and biases, and set banned tokens to -inf. Returns the same array if nothing changes.

    The repetition penalty comes first, because it depends on the sign. Additive penalties and biases follow, then bans.

    Args:
        logits_V: [vocabulary] logits; or log-probabilities, to which beam search applies penalties as in transformers.
        prompt: token ids of the prompt, which the repetition penalty counts as in transformers.
        written: token ids of the completion so far; n-grams, presence and frequency are counted in it only.
        decoding: the options of the request.
    """
    banned = repeating(written, decoding.no_repeat_ngram_size)
    counted = bool(written) and (decoding.presence_penalty != 0 or decoding.frequency_penalty != 0)
    if decoding.repetition_penalty == 1 and not (banned or counted or decoding.logit_bias):
        return logits_V
    scores = logits_V.copy()
    if decoding.repetition_penalty != 1:
        seen = np.unique(np.array([*prompt, *written], np.int64))
        values = scores[seen]
        scores[seen] = np.where(values < 0, values * decoding.repetition_penalty, values / decoding.repetition_penalty)
    if counted:
        tokens, counts = np.unique(np.array(written, np.int64), return_counts=True)
        scores[tokens] -= decoding.presence_penalty + decoding.frequency_penalty * counts
    for token, bias in decoding.logit_bias:
        scores[token] += bias
    scores[banned] = -np.inf
    return scores


def repeating(written: Sequence[int], size: int) -> list[int]:
    """Return the tokens that would repeat an n-gram of `written`; none if `size` is 0."""
    if size == 0:
        return []
    tail = tuple(written[len(written) - size + 1 :])
    starts = range(len(written) - size + 1)
    return [written[at + size - 1] for at in starts if tuple(written[at : at + size - 1]) == tail]


def draw(logits_V: Floats, uniform: float, decoding: Decoding) -> int:
    """Sample a token by inversion: the first, by id, at which the cumulative probability exceeds a uniform number.

    The temperature is applied first, then top-k, top-p and min-p, each to the tokens that the previous one kept.
    """
    # Relative to the largest, which stays finite at any temperature.
    with np.errstate(over="ignore"):
        scaled = (logits_V.astype(np.float64) - logits_V.max()) / decoding.temperature
    kept = np.arange(len(scaled))
    if 0 < decoding.top_k < len(scaled):
        kept = np.sort(np.argpartition(-scaled, decoding.top_k - 1)[: decoding.top_k])
    weights = np.exp(scaled[kept])
    if decoding.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        chosen = np.sort(order[before < decoding.top_p * weights.sum()])
        kept, weights = kept[chosen], weights[chosen]
    if decoding.min_p > 0:
        likely = weights >= decoding.min_p * weights.max()
        kept, weights = kept[likely], weights[likely]
    reached = np.cumsum(weights)
    place = np.searchsorted(reached, uniform * reached[-1], side="right")
    return int(kept[min(int(place), len(kept) - 1)])


class UniformNumbers:
    """Uniform random numbers for the tokens of a completion. They depend on the seed, its number and the prompt only.

    Args:
        seed: seed of the request.
        number: number of the completion among those of its prompt.
        prompt: token ids of the prompt.
    """

    def __init__(self, seed: int, number: int, prompt: Sequence[int]) -> None:
        key = hashlib.blake2b(f"{seed} {number} {list(prompt)}".encode(), digest_size=16).digest()
        self._generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        self._drawn: list[float] = []

    def __getitem__(self, token: int) -> float:
        """Return the random number of a token of the completion; the first token is 0."""
        while len(self._drawn) <= token:
            self._drawn.append(float(self._generator.random()))
        return self._drawn[token]
