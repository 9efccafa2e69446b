"""What the folder of a merged or a quantised model says of what it was made of. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailora.core.errors import ModelError

METHOD = "tailora"
"""Name of the 8-bit form in config.json, by which other programs tell that they cannot read it."""


def carried_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the weights that a quantised folder was made of; None for any other folder."""
    account = folder / "tailora.json"
    if not account.is_file():
        return None
    try:
        quantised = json.loads(account.read_text(encoding="utf-8")).get("quantised")
        return None if quantised is None else str(quantised["fingerprint"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError("not an account of a model", where=account, hint="make it again") from error


def merged_account(folder: Path) -> Mapping[str, Any]:
    """How the adapter merged into a base's folder was trained; empty for a base with none in it.

    Raises:
        ModelError: there is a `tailora.json` that says nothing of it.
    """
    account = folder / "tailora.json"
    if not account.is_file():
        return {}
    try:
        meta = json.loads(account.read_text(encoding="utf-8"))["meta"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError("not an account of a merged model", where=account, hint="merge it again") from error
    return meta if isinstance(meta, dict) else {}
