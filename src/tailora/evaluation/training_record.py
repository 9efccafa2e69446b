"""The settings that an adapter was trained with, where it lies in its run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tailora.core.errors import SettingsError


def training_settings(adapter: Path) -> dict[str, Any]:
    """The settings of an adapter's training run, its base among them; none where it lies alone.

    Raises:
        SettingsError: there is a run.json that is not a training run's.
    """
    for folder in (adapter, adapter.parent):
        record = folder / "run.json"
        if record.is_file():
            try:
                content = json.loads(record.read_text(encoding="utf-8"))
                return {**content["settings"], "base": content["account"]["base"]}
            except (ValueError, KeyError, TypeError) as error:
                hint = "restore the file, or use the adapter's folder without it"
                raise SettingsError("is not the record of a training run", where=record, hint=hint) from error
    return {}
