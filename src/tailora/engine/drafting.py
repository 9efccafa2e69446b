"""Drafts: the next tokens of texts as their prompts and training texts suggest them, for a step to verify.

A wrong draft costs time and never changes a text. How far it pays to draft follows from how often predictions of each
kind were right, and from what a step and each of its tokens cost.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from tailora.adapters.draft_table import ORDER, START, DraftTable

LONGEST = 8
"""Largest number of tokens in a draft by default."""
COPIED = (1, 2, 3)  # lengths of the n-grams whose continuation is looked up in the prompt
_LEVELS = 64  # kinds of predictions by a table, by their stated probability
_PRIORS = (0.1, 0.4, 0.6)  # of the continuations of these n-grams, before any is measured
# Where steps cost almost nothing besides their tokens, not even a perfect draft gains more than this fraction, which
# would not pay for the predictions.
_WORTHWHILE = 0.15
_WEIGHT, _MEMORY = 4.0, 1000.0  # number of predictions that a prior counts for, and after which old ones fade


class Prediction(NamedTuple):
    """A predicted token, and the kind of prediction (`Accuracy`)."""

    token: int
    kind: int


class OpenText(NamedTuple):
    """A text that a step continues: what predicts it, and how many tokens it may still have after the next one."""

    predictor: Predictor
    room: int


class Drafter(Protocol):
    """Drafts tokens for the texts of an engine."""

    def predictor(self, prompt: Sequence[int], adapters: Sequence[str]) -> Predictor:
        """Return what predicts a text.

        Args:
            prompt: its prompt.
            adapters: names of its adapters, the one with the largest weight first.
        """
        ...

    def draft(self, texts: Sequence[OpenText], tokens: int) -> list[tuple[int, ...]]:
        """Return a draft for each text of a step; an empty one if it is not worth its time.

        Args:
            texts: the texts that the step continues.
            tokens: number of tokens of the step without drafts.
        """
        ...


class Accuracy:
    """How often predictions of each kind were right: `_LEVELS` kinds of a table's, then one for each of `COPIED`."""

    def __init__(self) -> None:
        self._priors = [(level + 0.5) / _LEVELS for level in range(_LEVELS)] + list(_PRIORS)
        self._right = [0.0] * len(self._priors)
        self._made = [0.0] * len(self._priors)
        self._all_right = self._all_expected = _WEIGHT

    def of(self, kind: int) -> float:
        """Return the probability that a prediction of a kind is right.

        A kind that was seldom observed is trusted as much as all predictions together have deserved.
        """
        prior = self._priors[kind] * min(1.0, self._all_right / self._all_expected)
        return (self._right[kind] + _WEIGHT * prior) / (self._made[kind] + _WEIGHT)

    def count(self, kind: int, right: bool) -> None:
        """Take note of a prediction."""
        if self._made[kind] > _MEMORY:
            self._made[kind] /= 2
            self._right[kind] /= 2
        if self._all_expected > _MEMORY:
            self._all_expected /= 2
            self._all_right /= 2
        self._made[kind] += 1
        self._right[kind] += right
        self._all_expected += self._priors[kind]
        self._all_right += right


class Predictor:
    """Predicts the next tokens of a text from a table, and from its prompt where the table knows too little.

    Args:
        prompt: token ids of the prompt.
        table: n-grams of the training texts of its adapter; None if there are none.
        accuracy: the accuracy of earlier predictions for the same adapter.
    """

    def __init__(self, prompt: Sequence[int], table: DraftTable | None, accuracy: Accuracy) -> None:
        self._table, self._accuracy = table, accuracy
        self._prompt, self._said = frozenset(prompt), set[int]()
        self._history = [START]
        self._predictions: list[Prediction | None] = []
        self._after = {
            tuple(prompt[place - length : place]): prompt[place]
            for length in COPIED
            for place in range(length, len(prompt))
        }

    def add(self, token: int) -> None:
        """Append a token to the text."""
        if self._predictions:
            prediction = self._predictions.pop(0)
            if prediction is not None:
                self._accuracy.count(prediction.kind, prediction.token == token)
            if prediction is None or prediction.token != token:
                self._predictions.clear()
        self._history.append(token)
        self._said.add(token)

    def predict(self, draft: Sequence[int]) -> tuple[int, float] | None:
        """Return the likeliest token after the text and a draft of its predictions, and the probability."""
        del self._predictions[len(draft) :]
        prediction = self._prediction([*self._history[-max(ORDER, COPIED[-1]) :], *draft], draft)
        self._predictions.append(prediction)
        return None if prediction is None else (prediction.token, self._accuracy.of(prediction.kind))

    def _prediction(self, history: list[int], draft: Sequence[int]) -> Prediction | None:
        best = None
        if self._table is not None:
            said = self._said.union(draft) if draft else self._said
            known = self._table.predict(history, self._prompt, said)
            if known is not None:
                best = Prediction(known[0], min(_LEVELS - 1, int(known[1] * _LEVELS)))
        for number, length in reversed(list(enumerate(COPIED))):
            token = self._after.get(tuple(history[-length:]))
            if token is not None:
                kind = _LEVELS + number
                if best is None or self._accuracy.of(kind) > self._accuracy.of(best.kind):
                    best = Prediction(token, kind)
                break
        return best


class StepCost(NamedTuple):
    """The time of a step as a line over its number of tokens, in any unit: only the ratio of the two has an effect."""

    fixed: float = 8.0
    per_token: float = 1.0


class NgramDrafter:
    """See `Drafter`. Drafts the tokens that raise the expected number of tokens per second.

    Args:
        table: returns the table of an adapter by its name; of the network itself for None.
        vocabulary: number of token ids of the network; a table with others is not used.
        longest: largest number of tokens in a draft.
        cost: what a step costs.
    """

    def __init__(
        self,
        table: Callable[[str | None], DraftTable | None],
        vocabulary: int,
        longest: int = LONGEST,
        cost: StepCost = StepCost(),  # noqa: B008 (immutable)
    ) -> None:
        self._table, self._vocabulary, self._longest = table, vocabulary, longest
        self._accuracy: WeakKeyDictionary[DraftTable, Accuracy] = WeakKeyDictionary()
        self._accuracy_without = Accuracy()
        self._cost = cost

    def predictor(self, prompt: Sequence[int], adapters: Sequence[str]) -> Predictor:
        """See `Drafter`."""
        table = self._table(adapters[0] if adapters else None)
        if table is None or table.largest >= self._vocabulary:
            return Predictor(prompt, None, self._accuracy_without)
        return Predictor(prompt, table, self._accuracy.setdefault(table, Accuracy()))

    def draft(self, texts: Sequence[OpenText], tokens: int) -> list[tuple[int, ...]]:
        """See `Drafter`.

        A step of T tokens takes `fixed + per_token · T` and is expected to write E of them. One more drafted token,
        which is right with probability p, raises E / time if p exceeds per_token · E / time. The likeliest come first,
        and the probability of a token includes those of the tokens before it in its draft.
        """
        drafts: list[list[int]] = [[] for _ in texts]
        expected, cost = float(len(texts)), self._cost
        if cost.fixed < _WORTHWHILE * cost.per_token * tokens:
            return [() for _ in texts]
        queue: list[tuple[float, int, int]] = []  # (-probability, text, token)

        def predict(number: int, probability: float) -> None:
            text, draft = texts[number], drafts[number]
            if len(draft) < min(self._longest, text.room):
                prediction = text.predictor.predict(draft)
                if prediction is not None:
                    heapq.heappush(queue, (-probability * prediction[1], number, prediction[0]))

        for number in range(len(texts)):
            predict(number, 1.0)
        while queue:
            negative, number, token = heapq.heappop(queue)
            if -negative * (cost.fixed + cost.per_token * tokens) <= cost.per_token * expected:
                break
            drafts[number].append(token)
            tokens, expected = tokens + 1, expected - negative
            predict(number, -negative)
        return [tuple(draft) for draft in drafts]
