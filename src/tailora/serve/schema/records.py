"""The body of POST /v1/records."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tailora.engine.decoding import Decoding
from tailora.serve.schema.body import Body
from tailora.serve.schema.decoding import COLD, MOST, Bias, bias_pairs

Scalar = str | int | float | bool
Facts = dict[str, Scalar | list[Scalar | None] | None] | list[list[Scalar | None]]


class RecordsBody(Body):
    """Of POST /v1/records."""

    model: str
    """Name of the base or of an adapter, as GET /v1/models lists them."""
    facts: Facts | None = None
    """One record: {attribute: value}, [[attribute, value], …] or [[subject, attribute, value], …]."""
    records: list[Facts] | None = Field(None, min_length=1, max_length=1000)
    """Several records."""
    max_tokens: int = Field(100, ge=1, le=MOST)
    """Most tokens of a text."""
    beams: int = Field(1, ge=1, le=64)
    """Beams kept side by side; 1 is greedy search, or sampling if the temperature is above 0."""
    n: int = Field(1, ge=1, le=64)
    """Texts to give of each record: the best beams, or so many draws."""
    rerank: Literal["fidelity"] | None = None
    """Put the texts with the fewest slot errors first."""
    length_penalty: float = Field(1.0, ge=-10, le=10)
    """Beams are ranked by log-probability / tokens ** this."""
    no_repeat_ngram_size: int = Field(0, ge=0, le=MOST)
    """No run of so many tokens comes twice in a text."""
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    """Above 1, make tokens less likely that stand in the prompt or the text already."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Number from -2 to 2, subtracted from the logit of every token that the text holds."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Number from -2 to 2, subtracted from a token's logit for each time that the text holds it."""
    logit_bias: Bias = Field(default_factory=dict)
    """Numbers from -100 to 100 that are added to the logits of up to 300 tokens, by token id."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Above 0, draw tokens."""
    top_k: int = Field(0, ge=0, le=MOST)
    """Draw only from so many likeliest tokens; 0 from all."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Draw only from the fewest tokens whose probabilities reach this sum; 0 takes the likeliest."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Of the draws."""
    stop: list[str] = Field([], max_length=16)
    """Strings at the first of which a text ends; it is cut before them."""
    stream: bool = False
    """Send the texts piece by piece, as server-sent events."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.facts is None) == (self.records is None):
            raise ValueError("give one of facts and records")
        if not all(self.stop):
            raise ValueError("stop holds an empty string")
        if self.rerank and max(self.beams, self.n) == 1:
            raise ValueError("there is one text to choose from: raise beams for rerank")
        return self

    @property
    def given(self) -> list[Facts]:
        """The records."""
        return [self.facts] if self.facts is not None else list(self.records or ())

    def decoding(self) -> Decoding:
        """How the engine is to write.

        Raises:
            SettingsError: a combination that has no meaning.
        """
        candidates = max(self.n, self.beams if self.rerank else 1)
        greedy = self.temperature < COLD or self.top_p == 0
        if self.beams == 1 and greedy:
            candidates = 1  # greedy search has one text; the others would be its copies
        return Decoding(
            max_new_tokens=self.max_tokens,
            num_beams=self.beams,
            num_candidates=candidates,
            length_penalty=self.length_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=bias_pairs(self.logit_bias),
            temperature=0.0 if greedy else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p or 1.0,
            seed=self.seed,
        )
