"""`tailora models`: the base models that have a name, and which of them are on this machine."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from tailora.core.settings import Settings
from tailora.models.catalog import CATALOG, ModelSource, availability

_NOW: dict[ModelSource, str] = {
    "bundled": "yes, bundled",
    "converted": "yes, converted from GGUF",
    "cached": "yes, in the hub's cache",
    "package": "yes, converted at first use",
    "hub": "to be downloaded",
}


class ModelsSettings(Settings):
    """Settings of `tailora models`: there are none."""


def run(settings: ModelsSettings) -> dict[str, Any]:
    """List the catalogue on stderr and return it; nothing is fetched or converted."""
    rows = [
        {
            "name": entry.name,
            "parameters": entry.parameters,
            "about": entry.about,
            "repository": entry.repository,
            "source": availability(entry),
        }
        for entry in CATALOG.values()
    ]
    table = Table("name", "parameters", "here", "what it is", box=None, pad_edge=False)
    for entry in CATALOG.values():
        table.add_row(entry.name, f"{entry.parameters / 1e6:,.0f} M", _NOW[availability(entry)], entry.about)
    console = Console(stderr=True)
    console.print(table)
    console.print("A folder in Hugging Face layout, a .gguf, or a hub id works as --base too.", highlight=False)
    return {"models": rows}
