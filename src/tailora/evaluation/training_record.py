"""The training settings of an adapter in a run directory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tailora.core.errors import SettingsError


def training_settings(adapter: Path) -> dict[str, Any]:
    """Return the settings of an adapter's training run, including its base; empty if it is not in a run directory.

    Raises:
        SettingsError: run.json is not the record of a training run.
    """
    for folder in (adapter, adapter.parent):
        record = folder / "run.json"
        if record.is_file():
            try:
                content = json.loads(record.read_text(encoding="utf-8"))
                return {**content["settings"], "base": content["account"]["base"]}
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                hint = "restore the file, or move the adapter's folder out of the run directory"
                raise SettingsError("is not the record of a training run", where=record, hint=hint) from error
    return {}


def training_source(adapters: Iterable[Path]) -> str | None:
    """Return the data that all adapters were trained on, as their runs name them; None if it is not known.

    Raises:
        SettingsError: see `training_settings`.
    """
    sources = {training_settings(adapter).get("data") for adapter in adapters}
    return str(sources.pop()) if len(sources) == 1 and None not in sources else None
