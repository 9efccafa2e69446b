"""The JSON files of a model's folder that describe the network and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailora.core.errors import ModelError
from tailora.core.files import read_json_object

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"


def read_model_file(folder: Path, name: str, *, optional: bool = True) -> dict[str, Any]:
    """Return the object in one of a model folder's JSON files; empty if an optional file does not exist.

    Raises:
        ModelError: the file is missing, is not valid JSON, or contains something other than an object.
    """
    return read_json_object(folder / name, ModelError, hint="fetch the model again", optional=optional)


def special_token(folder: Path, name: str) -> str | None:
    """Return a special token, such as "eos_token", from tokenizer_config.json or else special_tokens_map.json."""
    named = read_model_file(folder, TOKENIZER_CONFIG).get(name) or read_model_file(folder, SPECIAL_TOKENS).get(name)
    token = named.get("content") if isinstance(named, dict) else named
    return token if isinstance(token, str) else None
