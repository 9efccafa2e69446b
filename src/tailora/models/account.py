"""What a merged model's folder says of the adapter in it. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailora.errors import ModelError


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
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("not an account of a merged model", where=account, mend="merge it again") from error
    return meta if isinstance(meta, dict) else {}
