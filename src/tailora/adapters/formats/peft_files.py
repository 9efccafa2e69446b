"""The two JSON files of an adapter folder: PEFT's `adapter_config.json` and our `tailora.json` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tailora.adapters.config import LoraConfig
from tailora.errors import AdapterError, SettingsError
from tailora.families import MEANINGS

CONFIG_FILE = "adapter_config.json"
TAILORA_FILE = "tailora.json"

Number = Annotated[float, Field(allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1)]

_HARMLESS = frozenset(
    {
        *("task_type", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode", "peft_version"),
        *("fan_in_fan_out", "layers_to_transform", "layers_pattern", "exclude_modules", "init_lora_weights"),
        *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
    }
)
"""Settings of PEFT that say how an adapter came to be or which modules it has; they do not change what it computes."""

_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ move a part of it into the adapter."""


class PeftFile(BaseModel):
    """`adapter_config.json` as PEFT writes it for LoRA; keys that are not named here are kept as extras."""

    model_config = ConfigDict(extra="allow", strict=True)

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: Number
    target_modules: list[str] | str
    lora_dropout: Number = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Number] | None = None
    base_model_name_or_path: str | None = None
    init_lora_weights: bool | str | None = True
    layers_to_transform: list[int] | int | None = None
    exclude_modules: list[str] | str | None = None

    def beyond_us(self) -> list[str]:
        """What the file asks for that Tailora has no word for."""
        found = [
            f"{name}={value!r}" for name, value in (self.model_extra or {}).items() if value and name not in _HARMLESS
        ]
        if self.init_lora_weights not in (*_PLAIN_INITS, None):
            found.append(f"init_lora_weights={self.init_lora_weights!r}")
        return found

    def lora_config(self, modules: list[str]) -> LoraConfig:
        """The settings in our terms.

        Args:
            modules: the paths the file has tensors for; they become the targets where `target_modules` says them in a
                way of PEFT's own (by layer number, by exclusion, or by a word that is a meaning of ours).

        Raises:
            SettingsError: on a value outside its range.
        """
        targets = [self.target_modules] if isinstance(self.target_modules, str) else sorted(self.target_modules)
        if self.layers_to_transform is not None or self.exclude_modules or set(targets) & set(MEANINGS) or not targets:
            targets = modules
        return LoraConfig(
            rank=self.r,
            alpha=self.lora_alpha,
            targets=tuple(targets),
            dropout=self.lora_dropout,
            rslora=self.use_rslora,
            dora=self.use_dora,
            bias=self.bias,
            rank_pattern=self.rank_pattern or {},
            alpha_pattern=self.alpha_pattern or {},
        )


class BranchRecord(BaseModel):
    """One pair of factors inside the dense pair that PEFT sees."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rank: Rank
    scale: Number
    rows: tuple[int, int] | None = None


class LayerRecord(BaseModel):
    """What PEFT's files do not tell about a layer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["linear", "gpt2_conv1d", "embedding", "conv"]
    out: int | None
    branches: list[BranchRecord]


class TailoraFile(BaseModel):
    """`tailora.json`: what gives back the adapter exactly, and where it comes from."""

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
        AdapterError: with every fault in one message.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AdapterError(f"cannot be read: {error.strerror}", where=path) from error
    except SettingsError as error:
        raise AdapterError(str(error), where=path) from error
    except ValidationError as error:
        faults = "; ".join(_fault(each) for each in error.errors(include_url=False)[:8])
        raise AdapterError(faults, where=path) from error


def _fault(error: Mapping[str, Any]) -> str:
    place = ".".join(str(step) for step in error["loc"])
    if place == "peft_type":
        return f"this is {error['input']!r}, and only LoRA adapters can be read"
    return f"{place}: {error['msg']}" if place else str(error["msg"])
