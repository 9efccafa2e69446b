"""The two JSON files of an adapter folder: PEFT's `adapter_config.json`, and `tailora.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tailora.adapters.adapter import LayerKind
from tailora.adapters.config import Bias, LoraConfig
from tailora.adapters.formats.peft_keys import MERGE
from tailora.core.errors import AdapterError, SettingsError, unreadable
from tailora.families import MEANINGS

CONFIG_FILE = "adapter_config.json"
TAILORA_FILE = "tailora.json"

Number = Annotated[float, Field(allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1)]

_HARMLESS = frozenset(
    {
        *("auto_mapping", "inference_mode", "peft_version"),
        *("fan_in_fan_out", "layers_to_transform", "layers_pattern", "exclude_modules", "init_lora_weights"),
        *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
        *("merge_weights", "runtime_config"),
        *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # of ms-swift
    }
)
"""Settings of PEFT about how an adapter was made or which modules it has; they do not affect what it computes."""

_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base unchanged. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA move a part of it into the
adapter, which therefore belongs on the rest, and not on the base that is named."""

_CONVERT = (
    "convert it with PEFT: save_pretrained with path_initial_model_for_weight_conversion, which writes a plain LoRA "
    "for the base itself"
)
_TOKENWISE = ("alora_invocation_tokens", "arrow_config", "monteclora_config", "megatron_config")
_TASKS = (None, "CAUSAL_LM")
_OTHER_TASK = "train it for CAUSAL_LM on the language model itself, or use it with PEFT"
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT")


class PeftFile(BaseModel):
    """`adapter_config.json` as PEFT writes it for LoRA; other keys are kept as extras.

    Fields that are missing or null have PEFT's defaults: early versions lack many.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: Number
    target_modules: list[str] | str | None = None
    lora_dropout: Number = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    bias: Bias = "none"
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Number] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    init_lora_weights: bool | str | None = True
    layers_to_transform: list[int] | int | None = None
    exclude_modules: list[str] | str | None = None
    enable_lora: list[bool] | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_for_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: entry for name, entry in value.items() if entry is not None or name == "peft_type"}

    @property
    def slices(self) -> list[bool] | None:
        """The equal slices of each adapted layer that have factors, for files of PEFT before 0.3; else None."""
        return self.enable_lora if self.enable_lora and any(self.enable_lora) else None

    def unsupported(self) -> tuple[list[str], str]:
        """The settings that Tailora cannot represent, and what the user can do instead."""
        extras = {name: value for name, value in (self.model_extra or {}).items() if value and name not in _HARMLESS}
        named = [f"{name}={value!r}" for name, value in extras.items()]
        if self.task_type not in _TASKS:
            return [
                *named,
                f"task_type={self.task_type!r}, whose layers are not those of a language model",
            ], _OTHER_TASK
        init = self.init_lora_weights
        if (init.lower() if isinstance(init, str) else init) not in (*_PLAIN_INITS, None):
            return [*named, f"init_lora_weights={init!r}, which changed the base"], _CONVERT
        if any(name in _TOKENWISE for name in extras):
            return named, "use it with PEFT: it does not apply to every token alike"
        return named, MERGE

    def rank_of(self, module: str) -> int:
        """The rank at a module path, as PEFT matches `rank_pattern`."""
        return int(_matched(self.rank_pattern, module, self.r))

    def alpha_of(self, module: str) -> float:
        """The alpha at a module path, as PEFT matches `alpha_pattern`."""
        return float(_matched(self.alpha_pattern, module, self.lora_alpha))

    def lora_config(self, modules: list[str]) -> LoraConfig:
        """The same settings as Tailora has them.

        Args:
            modules: the paths of the file's tensors. They become the keys of the patterns, and the targets where
                `target_modules` cannot (an expression, layer numbers, exclusions, or a word that is one of `MEANINGS`).

        Raises:
            SettingsError: a value is outside its range.
        """
        targets = self.target_modules if isinstance(self.target_modules, list) else []
        if not targets or self.layers_to_transform is not None or self.exclude_modules or set(targets) & set(MEANINGS):
            targets = modules
        patterns = [*(self.rank_pattern or ()), *(self.alpha_pattern or ())]
        for pattern in [*patterns, *([self.target_modules] if isinstance(self.target_modules, str) else [])]:
            try:
                re.compile(pattern)
            except re.error as error:
                raise SettingsError(f"not a regular expression: {error}", where=f"pattern {pattern!r}") from error
        # A path matches every path that ends in it: the longest come first.
        ordered = sorted(modules, key=len, reverse=True)
        return LoraConfig(
            rank=self.r,
            alpha=self.lora_alpha,
            targets=tuple(sorted(targets)),
            dropout=self.lora_dropout,
            rslora=self.use_rslora,
            dora=self.use_dora,
            bias=self.bias,
            rank_pattern={name: self.rank_of(name) for name in ordered if self.rank_pattern},
            alpha_pattern={name: self.alpha_of(name) for name in ordered if self.alpha_pattern},
        )


def _matched(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """The value of the first pattern, a regular expression to PEFT, that matches a path's end from a dot on."""
    return next((v for p, v in (patterns or {}).items() if re.match(rf"(?:.*\.)?(?:{p})$", module)), default)


class BranchRecord(BaseModel):
    """One pair of factors inside the dense pair that PEFT sees."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rank: Rank
    scale: Number
    rows: tuple[int, int] | None = None


class LayerRecord(BaseModel):
    """What PEFT's files do not say about a layer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: LayerKind
    out: int | None
    branches: list[BranchRecord]


class TailoraFile(BaseModel):
    """`tailora.json`: what restores the adapter exactly, and where it comes from."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: Literal[1]
    base_fingerprint: str | None
    base_name: str | None
    content_hash: str
    config: LoraConfig
    layers: dict[str, LayerRecord]
    meta: dict[str, Any]


File = TypeVar("File", bound=BaseModel)


def read_file(kind: type[File], path: Path) -> File:
    """Read and check one of the two files.

    Raises:
        AdapterError: the file cannot be read or is invalid; all faults are in one message.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AdapterError(unreadable(error), where=path) from error
    except SettingsError as error:
        raise AdapterError(str(error), where=path) from error
    except ValidationError as error:
        faults = "; ".join(_fault(problem) for problem in error.errors(include_url=False)[:8])
        raise AdapterError(faults, where=path) from error


def _fault(error: Mapping[str, Any]) -> str:
    place = ".".join(str(step) for step in error["loc"])
    if place == "peft_type":
        kind = None if error["type"] == "missing" else error.get("input")
        if kind == "PREFIX_TUNING":
            return "is a prefix, which cannot be loaded beside other adapters; name it alone when the model is loaded"
        way = "use it with PEFT, for learnt prompts have no equivalent" if kind in _PROMPTS else MERGE
        return f"peft_type is {kind!r}, and only LoRA adapters can be read; {way}"
    return f"{place}: {error['msg']}" if place else str(error["msg"])
