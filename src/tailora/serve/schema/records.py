"""The body of POST /v1/records."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from tailora.data.readers import json_text
from tailora.engine.decoding import Decoding
from tailora.serve.schema.body import Body
from tailora.serve.schema.decoding import COLD, MOST, Bias, bias_pairs, check_stops, stop_strings
from tailora.serve.schema.mixture import Mixing

Scalar = str | int | float | bool
Facts = dict[str, Scalar | list[Scalar | None] | None] | list[list[Scalar | None]]


class RecordItem(Body):
    """A record as an object around its facts, as in a data file."""

    empty = ([], "")

    facts: Facts
    """Facts as {attribute: value}, [[attribute, value], …] or [[subject, attribute, value], …]."""


def _kind(item: Any) -> str:
    """Distinguish a record with a field `facts` from facts with an attribute of that name."""
    facts = item.get("facts") if isinstance(item, dict) else None
    nested = isinstance(facts, dict) or (isinstance(facts, list) and any(isinstance(row, list) for row in facts))
    return "item" if nested or isinstance(item, RecordItem) else "facts"


RecordInput = Annotated[Annotated[RecordItem, Tag("item")] | Annotated[Facts, Tag("facts")], Discriminator(_kind)]


class RecordsBody(Mixing):
    """Body of POST /v1/records."""

    model: str
    """Name of the base or of an adapter, as GET /v1/models lists them."""
    facts: Facts | None = None
    """Facts of one record as {attribute: value}, where a value may be a list of values, [[attribute, value], …] or
    [[subject, attribute, value], …]."""
    records: list[RecordInput] | None = Field(None, min_length=1, max_length=1000)
    """Several records, each in a form of facts, or as {"facts": …}."""
    max_tokens: int | None = Field(None, ge=1, le=MOST)
    """Largest number of tokens of a text; prompt and text together must fit into the model's context. Default: 100, or
    what the context leaves."""
    beams: int = Field(1, ge=1, le=64)
    """Number of beams, from 1 to 64; 1 is greedy search, or sampling if the temperature is above 0."""
    n: int = Field(1, ge=1, le=64)
    """Number of texts for each record, from 1 to 64: the best beams, or samples."""
    rerank: Literal["fidelity"] | None = None
    """"fidelity" orders the texts of a record by their number of slot errors, the fewest first."""
    faithful: bool = False
    """Put the most likely text without slot errors first, and sample further texts for a record if there is none."""
    faithful_candidates: int = Field(32, ge=0, le=128)
    """Maximum number of further texts for a record, with faithful, from 0 to 128."""
    length_penalty: float = Field(1.0, ge=-10, le=10)
    """Exponent of the length in the score of a beam, which is log-probability / tokens ** length_penalty; values above
    1 favour long texts."""
    no_repeat_ngram_size: int = Field(0, ge=0, le=MOST)
    """Length of token sequences that may occur only once in a text; 0 allows repetition."""
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    """Penalty for tokens that the prompt or the text contains; values above 1 make them less likely."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Number from -2 to 2, subtracted from the logit of every token that the text contains."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Number from -2 to 2, subtracted from the logit of a token once for each time that the text contains it."""
    logit_bias: Bias = Field(default_factory=dict)
    """Numbers from -100 to 100 to add to the logits of up to 300 tokens, by token id."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Sampling temperature from 0 to 2; 0 always takes the most likely token."""
    top_k: int = Field(0, ge=0, le=MOST)
    """Sample from the k most likely tokens; 0 samples from all."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Sample from the smallest set of tokens whose probabilities sum to this value, from 0 to 1; 0 always takes the
    most likely token."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Sampling seed; a record's text depends on the seed and the record alone."""
    stop: str | list[str] = Field(default_factory=list)
    """Up to 16 strings that end a text; the text is cut before the first of them."""
    stream: bool = False
    """Send the texts in pieces while they are written, as server-sent events."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if (self.facts is None) == (self.records is None):
            raise ValueError("send either facts (one record) or records (several)")
        check_stops(self.stops)
        if self.rerank and not self.faithful and max(self.beams, self.n) == 1:
            raise ValueError("rerank needs several texts to choose from; raise beams, or n with a temperature")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        return stop_strings(self.stop)

    @property
    def chooses(self) -> bool:
        """Whether the texts of a record are ordered by their slot errors."""
        return self.rerank is not None or self.faithful

    @property
    def all_facts(self) -> list[Facts]:
        """The facts of each record."""
        if self.facts is not None:
            return [self.facts]
        return [item.facts if isinstance(item, RecordItem) else item for item in self.records or ()]

    def facts_as_written(self, source: bytes) -> list[Any]:
        """The facts of each record with their numbers as the request writes them: `1.50`, not 1.5.

        Args:
            source: the JSON that this body was read from.

        """
        value = json_text.whole(source.decode("utf-8-sig"), "the request", hint="send one JSON object")
        if self.facts is not None:
            return [value["facts"]]
        return [item["facts"] if _kind(item) == "item" else item for item in value["records"]]

    def decoding(self, max_new_tokens: int) -> Decoding:
        """Return how the engine writes.

        Args:
            max_new_tokens: limit of a text.

        Raises:
            SettingsError: a combination without a meaning.
        """
        candidates = max(self.n, self.beams if self.chooses else 1)
        greedy = self.temperature < COLD or self.top_p == 0
        if self.beams == 1 and greedy:
            candidates = 1  # greedy search has one text; others would be copies
        return Decoding(
            max_new_tokens=max_new_tokens,
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
