"""Decoding options of a request, and its completions. Values only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tailora.core.errors import SettingsError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Decoding:
    """Decoding options.

    Attributes:
        max_new_tokens: largest number of tokens of a completion, including the end-of-text token.
        num_beams: number of beams; 1 is greedy search or sampling.
        length_penalty: beams are ranked by log-probability / tokens ** length_penalty, as in transformers.
        no_repeat_ngram_size: no n-gram of this many tokens occurs twice in a completion; 0 sets no limit. Unlike
            transformers' option, it ignores the prompt, whose values a text has to repeat.
        repetition_penalty: above 1 makes tokens of prompt and completion less likely (Keskar et al. 2019).
        presence_penalty: from -2 to 2, subtracted from the logit of every token of the completion, as OpenAI's API
            defines it.
        frequency_penalty: from -2 to 2, subtracted once for each occurrence of the token in the completion.
        logit_bias: pairs of a token id and a number added to its logit, from -100 to 100; each id at most once.
        temperature: logits are divided by it before a token is drawn; 0 takes the likeliest token.
        top_k: sample from the k likeliest tokens; 0 samples from all.
        top_p: sample from the smallest set of tokens whose probabilities reach this sum (Holtzman et al. 2020); 0 takes
            the likeliest token.
        min_p: sample from tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024).
        num_candidates: completions per prompt: the best beams, or independent samples.
        seed: seed of the samples.
        stop_tokens: token ids that end a completion as the end-of-text token does.
        ignore_end: continue after the end-of-text token, for measurements.
        top_logprobs: number of likeliest tokens to report in each place; not for beams.

    Raises:
        SettingsError: a value is out of its range, or options contradict each other.
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
            raise SettingsError("a token id occurs twice", where="logit_bias")
        if not 0 < self.repetition_penalty < math.inf:
            raise SettingsError("must be above 0", where="repetition_penalty")
        if not math.isfinite(self.length_penalty):
            raise SettingsError("must be a finite number", where="length_penalty")
        if self.num_beams > 1 and self.temperature > 0:
            raise SettingsError("beams are not sampled", where="temperature", hint="set num_beams=1 or temperature=0")
        if self.num_beams > 1 and self.top_logprobs:
            raise SettingsError("are not available for beams", where="top_logprobs", hint="set num_beams=1")
        if self.num_beams > 1 and self.num_candidates > self.num_beams:
            raise SettingsError("exceeds the number of beams", where="num_candidates", hint="raise num_beams")
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
    """A completion of a prompt.

    Attributes:
        token_ids: token ids, including the end-of-text token, the stop token or the tokens of the stop string.
        logprobs: log-probability of each token in nats, at temperature 1 and without penalties, biases and bans.
        finish_reason: "stop" at an end-of-text token, stop token or stop string, "length" at the length limit.
        top: for each token, the likeliest tokens in its place, if requested.
        prompt_logprobs: log-probability of each prompt token except the first, if requested.
        prompt_top: the likeliest tokens in these places.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    top: tuple[Alternatives, ...] = ()
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top: tuple[Alternatives, ...] = ()

    @property
    def logprob(self) -> float:
        """Log-probability of the completion, in nats."""
        return sum(self.logprobs)
