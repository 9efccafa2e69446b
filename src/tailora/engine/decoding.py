"""How a request wants its text, and what it gets. Values only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tailora.core.errors import SettingsError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Decoding:
    """How to write.

    Attributes:
        max_new_tokens: most tokens a completion may have, the end-of-text token included.
        num_beams: beams kept side by side; 1 is greedy search or sampling.
        length_penalty: beams are ranked by log-probability / tokens ** length_penalty, as in transformers.
        no_repeat_ngram_size: no run of so many tokens comes twice within a completion; 0 allows it. Unlike
            transformers' option of this name it leaves the prompt alone, whose values a text has to repeat.
        repetition_penalty: above 1 makes tokens less likely that prompt or completion hold (Keskar et al. 2019).
        presence_penalty: from -2 to 2, subtracted from the logit of every token that the completion holds, as OpenAI's
            API defines it.
        frequency_penalty: from -2 to 2, subtracted as many times as the completion holds the token.
        logit_bias: pairs of a token id and what is added to its logit, from -100 to 100; each id at most once.
        temperature: logits are divided by it before a token is drawn; 0 takes the likeliest token.
        top_k: draw only from so many likeliest tokens; 0 from all.
        top_p: draw only from the fewest tokens whose probabilities reach this sum (Holtzman et al. 2020); 0 takes the
            likeliest token.
        min_p: draw only tokens at least this part as likely as the likeliest (Nguyen et al. 2024).
        num_candidates: completions for each prompt: the best of the beams, or so many draws.
        seed: of the draws.
        stop_tokens: token ids that end a completion as the end-of-text token does.
        ignore_end: write on past the end-of-text token, for measurements.
        top_logprobs: tell so many of the likeliest tokens in each place, of greedy and sampled completions.

    Raises:
        SettingsError: a value out of its range, or a combination that has no meaning.
    """

    max_new_tokens: int = 100
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    num_candidates: int = 1
    seed: int = 0
    stop_tokens: tuple[int, ...] = ()
    ignore_end: bool = False
    top_logprobs: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "num_candidates"):
            if getattr(self, name) < 1:
                raise SettingsError("must be at least 1", where=name)
        for name in ("no_repeat_ngram_size", "temperature", "top_k", "top_logprobs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError("must be at least 0", where=name)
        for name in ("top_p", "min_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError("must be from 0 to 1", where=name)
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise SettingsError("must be from -2 to 2", where=name)
        if not all(-100 <= bias <= 100 for _, bias in self.logit_bias):
            raise SettingsError("every bias must be from -100 to 100", where="logit_bias")
        if len(dict(self.logit_bias)) < len(self.logit_bias):
            raise SettingsError("a token id is named twice", where="logit_bias")
        if not 0 < self.repetition_penalty < math.inf:
            raise SettingsError("must be above 0", where="repetition_penalty")
        if not math.isfinite(self.length_penalty):
            raise SettingsError("must be a finite number", where="length_penalty")
        if self.num_beams > 1 and self.temperature > 0:
            raise SettingsError("beams are not sampled", where="temperature", hint="set num_beams=1 or temperature=0")
        if self.num_beams > 1 and self.top_logprobs:
            raise SettingsError("not told of beams", where="top_logprobs", hint="set num_beams=1")
        if self.num_beams > 1 and self.num_candidates > self.num_beams:
            raise SettingsError("more than there are beams", where="num_candidates", hint="raise num_beams")
        if self.greedy and self.num_candidates > 1:
            raise SettingsError(
                "greedy search has one result", where="num_candidates", hint="raise num_beams or temperature"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken in each place."""
        return self.num_beams == 1 and (self.temperature == 0 or self.top_p == 0)


Alternatives = tuple[tuple[int, float], ...]
"""The likeliest tokens of a place with their log-probabilities, the likeliest first."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        token_ids: with the end-of-text or stop token, or the stop string's tokens, if it wrote them.
        logprobs: of each token, in nats under the model itself (temperature 1, no penalty or bias, nothing banned).
        finish_reason: "stop" at the end-of-text or a stop token or string, "length" where the room ended.
        top: for each token what else was likely in its place, if it was asked for.
        prompt_logprobs: of each token of the prompt but the first, if they were asked for.
        prompt_top: what else was likely in their places.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    top: tuple[Alternatives, ...] = ()
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top: tuple[Alternatives, ...] = ()

    @property
    def logprob(self) -> float:
        """Of the whole."""
        return sum(self.logprobs)
