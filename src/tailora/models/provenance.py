"""The `tailora.json` of a merged or quantised model's folder, which records its origin. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailora.core.errors import ModelError
from tailora.core.files import read_json_object

FILE = "tailora.json"
_HINT = "restore the file, or merge or quantise the model again"


def source_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of the weights that a folder was quantised from; None for any other folder.

    Raises:
        ModelError: `tailora.json` is broken.
    """
    quantised = _read(folder).get("quantised")
    if quantised is None:
        return None
    fingerprint = quantised.get("fingerprint") if isinstance(quantised, dict) else None
    if not isinstance(fingerprint, str):
        raise ModelError("does not name the weights that were quantised", where=folder / FILE, hint=_HINT)
    return fingerprint


def training_metadata(folder: Path) -> Mapping[str, Any]:
    """Return how the adapter merged into a model was trained, including its prompts; empty without an adapter.

    Raises:
        ModelError: `tailora.json` is broken.
    """
    record = _read(folder)
    if record and "meta" not in record:
        raise ModelError("does not say how the merged adapter was trained", where=folder / FILE, hint=_HINT)
    meta = record.get("meta")
    return meta if isinstance(meta, dict) else {}


def _read(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / FILE, ModelError, hint=_HINT, optional=True)
