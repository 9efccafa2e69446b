"""Settings that choose how texts are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tailora.core.errors import SettingsError
from tailora.core.settings import Settings, Verbatim
from tailora.engine.decoding import Decoding

_LENGTH_PENALTY: Mapping[Any, float] = {"lora-paper": 0.8, "lora-paper-e2e": 0.9}


class DecodingSettings(Settings):
    """How to write."""

    preset: Literal["lora-paper", "lora-paper-e2e"] | None = None
    """How Hu et al. 2021 decode WebNLG and DART (lora-paper) or E2E (lora-paper-e2e); other flags override it."""
    max_new_tokens: int = Field(100, ge=1)
    """Most tokens a text may have."""
    beams: int = Field(1, ge=1)
    """Beams kept side by side; 1 is greedy search, or sampling if the temperature is above 0."""
    length_penalty: float = 1.0
    """Beams are ranked by log-probability / tokens ** this."""
    no_repeat_ngram_size: int = Field(0, ge=0)
    """No run of so many tokens comes twice in a text; 0 allows it."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1, make tokens less likely that stand in the prompt or the text already."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """What is subtracted from the logit of every token that the text holds, from -2 to 2."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """What is subtracted from a token's logit for each time that the text holds it, from -2 to 2."""
    logit_bias: dict[int, float] = Field(default_factory=dict)
    """What is added to the logit of a token id, as ID=BIAS with a bias from -100 to 100. Again for more."""
    temperature: float = Field(0.0, ge=0)
    """Above 0, draw tokens from the distribution flattened (or, below 1, sharpened) by this."""
    top_k: int = Field(0, ge=0)
    """Draw only from so many likeliest tokens; 0 from all."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Draw only from the fewest tokens whose probabilities reach this sum; 0 takes the likeliest."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Draw only tokens at least this part as likely as the likeliest."""
    num_candidates: int = Field(1, ge=1)
    """Texts for each record: the best beams, or so many draws."""
    rerank: Literal["fidelity"] | None = None
    """fidelity: of a record's candidates (all beams, unless told otherwise) take that with the fewest slot errors."""
    slot_rules: Path | None = None
    """File of rules how texts say values, beside the bundled ones for E2E (see docs/evaluate.md)."""
    logprobs: bool = False
    """Say each token's log-probability too, in nats."""
    stop: Annotated[tuple[str, ...], Verbatim()] = ()
    """String that ends a text, which is cut before it; \\n is a line end and \\t a tab. Again for more."""
    seed: int = 0
    """Of the draws; with it a record's text depends on nothing but the record."""

    @field_validator("stop")
    @classmethod
    def _line_ends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty string ends every text; leave it out")
        return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in value)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        penalty = _LENGTH_PENALTY.get(values.get("preset")) if isinstance(values, dict) else None
        if penalty is None:
            return values
        paper = {"beams": 10, "no_repeat_ngram_size": 4, "max_new_tokens": 64, "stop": ("\n\n",)}
        return {**paper, "length_penalty": penalty, **values}

    @model_validator(mode="after")
    def _combination(self) -> Self:
        if self.rerank and max(self.beams, self.num_candidates) == 1:
            raise SettingsError("there is one candidate to choose from", where="rerank", hint="raise beams")
        self.decoding()
        return self

    def decoding(self) -> Decoding:
        """The engine's options, checked together."""
        same = set(DecodingSettings.model_fields) - {"preset", "beams", "stop", "logprobs", "rerank", "slot_rules"}
        chosen = {name: getattr(self, name) for name in same}
        chosen["logit_bias"] = tuple(sorted(self.logit_bias.items()))
        if self.rerank and "num_candidates" not in self.model_fields_set:
            chosen["num_candidates"] = self.beams
        try:
            return Decoding(num_beams=self.beams, **chosen)
        except SettingsError as error:
            where = "beams" if error.where == "num_beams" else error.where
            hint = error.hint and error.hint.replace("num_beams", "beams")
            raise SettingsError(error.what, where=where, hint=hint) from error
