"""State of one request: its sequences, and how new logits extend them. Independent of cache blocks and batches."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field

import numpy as np

from tailora.core.errors import SettingsError
from tailora.data.mixtures import Mixture
from tailora.engine.backend import TokenScores
from tailora.engine.decoding import Alternatives, Completion, Decoding, FinishReason
from tailora.engine.sampling import UniformNumbers, draw, penalised


def mixture_of(adapter: str | None, weight: float = 1.0) -> Mixture:
    """Return the mixture of a single adapter; None for the base alone."""
    return () if adapter is None else ((adapter, weight),)


@dataclass(frozen=True)
class Request:
    """A prompt to complete.

    Attributes:
        prompt: token ids, at least one.
        decoding: the decoding options.
        adapters: adapters to write with; empty for the base alone.
        ended: called with a completion's tokens after each new one; returns whether the completion ends there, as at
            the end-of-text token. It implements stop strings, because the engine does not decode tokens.
        score_prompt: return the log-probability of each prompt token given the ones before it; not for beams.
    """

    prompt: tuple[int, ...]
    decoding: Decoding = field(default_factory=Decoding)
    adapters: Mixture = ()
    ended: Callable[[Listed[int]], bool] | None = None
    score_prompt: bool = False


@dataclass(eq=False)
class Sequence:
    """A prompt and the tokens written after it.

    Attributes:
        tokens: prompt and completion.
        computed: number of tokens whose keys and values are in the cache.
        blocks: the cache blocks of these tokens, in order.
        keys: keys of the full blocks, as far as computed.
    """

    tokens: list[int]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.tokens) - self.computed


class RequestState(ABC):
    """The state of a request in progress.

    Args:
        request: the prompt and how to complete it.
        ends: the end-of-text tokens.
        room: largest number of tokens to write, within the context.

    Attributes:
        sequences: the sequences that continue; one until the prompt is computed.
        completions: the finished completions, in any order.
        cached_tokens: number of prompt tokens in the prefix cache when the request began; None before that.
    """

    def __init__(self, request: Request, ends: frozenset[int], room: int) -> None:
        self.request, self.room = request, room
        self.cached_tokens: int | None = None
        self.sequences = [Sequence(list(request.prompt))]
        self.completions: list[Completion] = []
        self._prompt: dict[int, tuple[float, Alternatives]] = {}
        stops = frozenset(request.decoding.stop_tokens)
        self._end_tokens = stops if request.decoding.ignore_end else stops | ends

    @property
    def scores_prompt(self) -> bool:
        """Whether there are prompt tokens that still have to be scored."""
        return self.request.score_prompt and len(self._prompt) < len(self.request.prompt) - 1

    def score(self, place: int, row: TokenScores) -> None:
        """Record the log-probability of the prompt's token at `place`, from the scores after the tokens before it."""
        logprob = float(row.logits[self.request.prompt[place]]) - row.log_z
        self._prompt[place] = logprob, _likeliest(row, self.request.decoding.top_logprobs)

    @property
    @abstractmethod
    def width(self) -> int:
        """Largest number of its sequences at once."""

    @property
    def room_after_next(self) -> int:
        """Number of tokens that a draft may have: those after the next one, for a request of one text; else 0."""
        return 0

    @property
    @abstractmethod
    def best(self) -> int:
        """Number of the likeliest tokens that it needs."""

    @abstractmethod
    def settle(self, rows: Listed[TokenScores]) -> list[tuple[int, int]]:
        """Choose the next tokens from the scores of each sequence.

        Returns:
            The sequences that continue, each as its parent's number and the next token; empty when all are done.
        """

    @abstractmethod
    def result(self) -> list[Completion]:
        """The requested completions, the best or first one first."""

    def written(self, number: int) -> list[int]:
        """Return the completion so far of a sequence."""
        return self.sequences[number].tokens[len(self.request.prompt) :]

    def ends(self, written: Listed[int], token: int) -> bool:
        """Return whether a completion ends with a token after the tokens `written`."""
        ended = self.request.ended
        return token in self._end_tokens or (ended is not None and ended([*written, token]))


def state_of(request: Request, ends: frozenset[int], room: int) -> RequestState:
    """Return the initial state of a request."""
    return (Beams if request.decoding.num_beams > 1 else Samples)(request, ends, room)


class Samples(RequestState):
    """Greedy search or sampling: sequences are independent of each other."""

    def __init__(self, request: Request, ends: frozenset[int], room: int) -> None:
        super().__init__(request, ends, room)
        count = request.decoding.num_candidates
        self._numbers = list(range(count))
        self._logprobs: list[list[float]] = [[] for _ in range(count)]
        self._top: list[list[Alternatives]] = [[] for _ in range(count)]
        self._done: dict[int, Completion] = {}
        self._draws = [UniformNumbers(request.decoding.seed, number, request.prompt) for number in range(count)]

    @property
    def width(self) -> int:
        """See `RequestState`."""
        return self.request.decoding.num_candidates

    @property
    def room_after_next(self) -> int:
        """See `RequestState`."""
        return 0 if self.width > 1 else self.room - 1 - len(self.written(0))

    @property
    def best(self) -> int:
        """See `RequestState`."""
        return max(1, self.request.decoding.top_logprobs)

    def settle(self, rows: Listed[TokenScores]) -> list[tuple[int, int]]:
        """See `RequestState`."""
        going = []
        kept = []
        for place, number in enumerate(self._numbers):
            parent = place if len(rows) == len(self._numbers) else 0  # the prompt's logits serve all
            written = self.written(parent)
            token, logprob = self._choose(rows[parent], written, number)
            self._logprobs[number].append(logprob)
            if self.request.decoding.top_logprobs:
                self._top[number].append(_likeliest(rows[parent], self.request.decoding.top_logprobs))
            ended = self.ends(written, token)
            if ended or len(written) + 1 == self.room:
                reason: FinishReason = "stop" if ended else "length"
                top = tuple(self._top[number])
                own = tuple(self._logprobs[number])
                before = [self._prompt[place] for place in sorted(self._prompt)]
                self._done[number] = Completion(
                    (*written, token), own, reason, top, tuple(s[0] for s in before), tuple(s[1] for s in before)
                )
                self.completions.append(self._done[number])
            else:
                going.append((parent, token))
                kept.append(number)
        self._numbers = kept
        return going

    def result(self) -> list[Completion]:
        """See `RequestState`."""
        return [self._done[number] for number in sorted(self._done)]

    def last(self, number: int) -> tuple[float, Alternatives]:
        """Return the log-probability of the last token of a completion, and the likeliest tokens in its place."""
        top = self._top[number]
        return self._logprobs[number][-1], top[-1] if top else ()

    def _choose(self, row: TokenScores, written: list[int], number: int) -> tuple[int, float]:
        decoding = self.request.decoding
        scores = penalised(row.logits, self.request.prompt, written, decoding)
        if scores is not row.logits and scores.max() == -math.inf:
            raise _all_banned()
        if decoding.greedy:
            token = int(row.tokens[0] if scores is row.logits else scores.argmax())
        else:
            token = draw(scores, self._draws[number][len(written)], decoding)
        return token, float(row.logits[token]) - row.log_z


def _all_banned() -> SettingsError:
    what = "every token of the vocabulary would repeat an n-gram of the text"
    return SettingsError(what, where="no_repeat_ngram_size", hint="raise it or lower max_new_tokens")


def _likeliest(row: TokenScores, count: int) -> Alternatives:
    tokens = row.tokens[:count].tolist()
    return tuple((token, float(row.logits[token]) - row.log_z) for token in tokens)


class Beams(RequestState):
    """Beam search with transformers' rules for ending a beam, ranking ended beams, and stopping.

    Beams are ranked by sums of log-probabilities with penalties and biases; the reported log-probability of a token is
    without them.
    """

    def __init__(self, request: Request, ends: frozenset[int], room: int) -> None:
        super().__init__(request, ends, room)
        self._logprobs: list[tuple[float, ...]] = [()]  # of the tokens of each sequence
        self._totals = [0.0]
        self._ended: list[tuple[float, Completion]] = []

    @property
    def width(self) -> int:
        """See `RequestState`."""
        return self.request.decoding.num_beams

    @property
    def best(self) -> int:
        """See `RequestState`. Each beam needs one token to continue with in addition to all end-of-text tokens."""
        return max(2, 1 + len(self._end_tokens)) * self.width

    def settle(self, rows: Listed[TokenScores]) -> list[tuple[int, int]]:
        """See `RequestState`. Only ends among the best `width` choices count: others would be poor short texts."""
        going: list[tuple[int, int]] = []
        logprobs: list[tuple[float, ...]] = []
        totals: list[float] = []
        for rank, (total, parent, token) in enumerate(self._choices(rows)):
            extended = (*self._logprobs[parent], float(rows[parent].logits[token]) - rows[parent].log_z)
            if self.ends(self.written(parent), token):
                if rank < self.width:
                    self._end([*self.written(parent), token], total, extended, "stop")
            elif len(going) < self.width:
                going.append((parent, token))
                logprobs.append(extended)
                totals.append(total)
        self._logprobs, self._totals = logprobs, totals
        length = len(self.sequences[0].tokens) + 1 - len(self.request.prompt)
        if length == self.room:
            for (parent, token), total, extended in zip(going, totals, logprobs, strict=True):
                self._end([*self.written(parent), token], total, extended, "length")
            return []
        return [] if self._is_done(length) else going

    def result(self) -> list[Completion]:
        """See `RequestState`."""
        return [completion for _, completion in self._ended[: self.request.decoding.num_candidates]]

    def _choices(self, rows: Listed[TokenScores]) -> list[tuple[float, int, int]]:
        """Return the `best` continuations as (sum of scores, parent, token), the best first."""
        decoding, count = self.request.decoding, self.best
        candidates: list[tuple[float, int, int]] = []
        for parent, row in enumerate(rows):
            logits, log_z = row.logits, row.log_z
            if decoding.repetition_penalty != 1:  # applies to log-probabilities; additive penalties commute with log_z
                logits, log_z = logits - np.float32(log_z), 0.0
            scores = penalised(logits, self.request.prompt, self.written(parent), decoding)
            tokens = row.tokens[:count]
            if scores is not row.logits:
                tokens = np.argpartition(-scores, min(count, len(scores)) - 1)[:count].astype(np.int32)
            totals = scores[tokens].astype(np.float64) + (self._totals[parent] - log_z)
            candidates += zip(totals.tolist(), itertools.repeat(parent), tokens.tolist(), strict=False)
        candidates = [choice for choice in candidates if choice[0] > -math.inf]
        if not candidates and not self._ended:
            raise _all_banned()
        return sorted(candidates, key=lambda choice: (-choice[0], choice[1], choice[2]))[:count]

    def _is_done(self, length: int) -> bool:
        """Whether no running beam could enter the list of the best with its present score."""
        best = max(self._totals, default=-math.inf)
        if best == -math.inf:
            return True
        return len(self._ended) >= self.width and self._ended[self.width - 1][0] >= self._rank(best, length)

    def _end(self, tokens: list[int], total: float, logprobs: tuple[float, ...], reason: FinishReason) -> None:
        self._ended.append((self._rank(total, len(tokens)), Completion(tuple(tokens), logprobs, reason)))
        self._ended.sort(key=lambda pair: -pair[0])
        del self._ended[self.width :]

    def _rank(self, logprob: float, length: int) -> float:
        return logprob / float(length**self.request.decoding.length_penalty)
