"""The settings for decoding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tailora.core.errors import SettingsError
from tailora.core.problems import FieldError
from tailora.core.settings import Settings, Unset, Verbatim
from tailora.engine.decoding import Decoding

Preset = Literal["lora-paper", "lora-paper-e2e"]
_LENGTH_PENALTY: Mapping[Any, float] = {"lora-paper": 0.8, "lora-paper-e2e": 0.9}


class DecodingSettings(Settings):
    """How texts are written."""

    heading = "decoding"
    headings: ClassVar = dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "seed"), "sampling")
    preset: Annotated[Preset | None, Unset("none")] = None
    """Decoding of Hu et al. 2021: lora-paper for WebNLG and DART, lora-paper-e2e for E2E. Other flags override it."""
    max_new_tokens: int = Field(100, ge=1)
    """Maximum length of a text, in tokens."""
    beams: int = Field(1, ge=1)
    """Number of beams. With 1, decoding is greedy, or samples if the temperature is above 0."""
    length_penalty: float = 1.0
    """Exponent of the length in the score of a beam: log-probability / tokens ** penalty."""
    no_repeat_ngram_size: int = Field(0, ge=0)
    """Length of the token sequences that may not occur twice in a text. 0 allows all repetitions."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Factor by which tokens of the prompt and of the text so far become less likely. 1 has no effect."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Amount that is subtracted from the logit of every token that the text already contains."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Amount that is subtracted from a token's logit for each of its occurrences in the text so far."""
    logit_bias: Annotated[dict[int, float], Unset("none")] = Field(default_factory=dict)
    """Amount that is added to a token's logit, as TOKEN_ID=BIAS with a bias from -100 to 100. Repeat the flag for
    several tokens."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature. 0 takes the most likely token; values below 1 make likely tokens more likely."""
    top_k: int = Field(0, ge=0)
    """Sample from the K most likely tokens only. 0 samples from all."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Sample from the smallest set of tokens whose probabilities add up to this. 0 takes the most likely token."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Sample only from tokens at least this fraction as likely as the most likely token."""
    num_candidates: int = Field(1, ge=1)
    """Number of texts for each record: the best beams, or that many samples."""
    rerank: Annotated[Literal["fidelity"] | None, Unset("off")] = None
    """Choose among a record's candidates: fidelity takes the one with the fewest slot errors. All beams are candidates
    unless the number of candidates is set."""
    faithful: bool = False
    """Take the most likely candidate without slot errors, as with --rerank fidelity, and sample further candidates for
    a record if there is none. A text that still has slot errors has them in the field `slot_errors` of its row."""
    faithful_candidates: int = Field(32, ge=0)
    """Maximum number of further candidates for a record, with --faithful."""
    slot_rules: Annotated[Path | None, Unset("the bundled rules for E2E")] = None
    """YAML file of rules for how texts express values, in addition to the bundled ones. See docs/evaluate.md."""
    logprobs: bool = False
    """Write the log-probability of each token as well, in nats."""
    stop: Annotated[tuple[str, ...], Verbatim(), Unset("none")] = ()
    """String at which a text ends; it is cut off. \\n is a line end and \\t a tab. Repeat the flag for several."""
    seed: int = 0
    """Sampling seed. With a fixed seed, a text depends only on its record and the settings."""

    @field_validator("stop")
    @classmethod
    def _line_ends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise FieldError("an empty string would end every text", "leave it out")
        return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in value)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        penalty = _LENGTH_PENALTY.get(preset) if isinstance(preset, str) else None
        if penalty is None:
            return values
        paper = {"beams": 10, "no_repeat_ngram_size": 4, "max_new_tokens": 64, "stop": ("\n\n",)}
        return {**paper, "length_penalty": penalty, **values}

    @model_validator(mode="after")
    def _combination(self) -> Self:
        if self.rerank and not self.faithful and max(self.beams, self.num_candidates) == 1:
            raise SettingsError("there is only one candidate to choose from", where="rerank", hint="raise --beams")
        self.decoding()
        return self

    def decoding(self) -> Decoding:
        """Return the engine's options.

        Raises:
            SettingsError: options contradict each other.
        """
        own = {"preset", "beams", "stop", "logprobs", "rerank", "faithful", "faithful_candidates", "slot_rules"}
        same = set(DecodingSettings.model_fields) - own
        chosen = {name: getattr(self, name) for name in same}
        chosen["logit_bias"] = tuple(sorted(self.logit_bias.items()))
        if (self.rerank or self.faithful) and "num_candidates" not in self.model_fields_set:
            chosen["num_candidates"] = self.beams
        try:
            return Decoding(num_beams=self.beams, **chosen)
        except SettingsError as error:
            where = "beams" if error.where == "num_beams" else error.where
            hint = error.hint and error.hint.replace("num_beams", "beams")
            raise SettingsError(error.what, where=where, hint=hint) from error
