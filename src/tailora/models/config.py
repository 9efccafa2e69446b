"""The config.json of a base model: the one reader of it, and the length of text that it allows. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailora.core.errors import ModelError
from tailora.data.model_files import CONFIG, read_model_file

QUANTIZATION_METHOD = "tailora"
"""Name of Tailora's 8-bit form in config.json, by which other programs recognise that they cannot read it."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder.

    Raises:
        ModelError: it is missing or broken, names no architecture, or describes weights that another program quantised.
    """
    config = read_model_file(folder, CONFIG, optional=False)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            "has no model_type", where=folder / CONFIG, hint="name the folder of a model that transformers can load"
        )
    if config.get("quantization_config") is not None and not is_quantised(config):
        raise ModelError(
            "describes a model that another program quantised",
            where=folder / CONFIG,
            hint="use the unquantised model: adapters are trained on it and merged into it",
        )
    return config


def is_quantised(config: dict[str, Any]) -> bool:
    """Whether a config.json is that of a folder that `tailora quantize --to int8` wrote."""
    settings = config.get("quantization_config")
    return isinstance(settings, dict) and settings.get("quant_method") == QUANTIZATION_METHOD


def context_of(config: Any) -> int | None:
    """Return the largest length of a sequence in tokens; None if a transformers configuration sets no limit.

    If the rotary frequencies change beyond a length, it is that length: keys that are cached, and other texts of the
    same pass, would have the frequencies of another length.
    """
    limits = [getattr(config, "max_position_embeddings", None)]
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for scaling in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if scaling.get("rope_type", scaling.get("type")) in ("longrope", "su", "dynamic"):
            own = scaling.get("original_max_position_embeddings")
            limits.append(own or getattr(config, "original_max_position_embeddings", None))
    return min((int(limit) for limit in limits if limit), default=None)
