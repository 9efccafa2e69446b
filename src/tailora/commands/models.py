"""`tailora models`: the base models that have a name, and where they are on this machine."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from tailora.core.console import message_console
from tailora.core.settings import Settings
from tailora.models.catalog import CATALOG, ModelSource, availability

_AVAILABILITY: dict[ModelSource, str] = {
    "bundled": "yes, bundled",
    "converted": "yes, converted from GGUF",
    "cached": "yes, in the hub's cache",
    "package": "yes, converted on first use",
    "hub": "no, downloaded on first use",
}


class ModelsSettings(Settings):
    """Settings of `tailora models`, which has none."""


def run(settings: ModelsSettings) -> dict[str, Any]:
    """Print the catalogue and return it; nothing is downloaded or converted."""
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
    table = Table("name", "parameters", "on this machine", "description", box=None, pad_edge=False)
    for entry in CATALOG.values():
        table.add_row(entry.name, f"{entry.parameters / 1e6:,.0f} M", _AVAILABILITY[availability(entry)], entry.about)
    console = message_console()
    console.print(table)
    console.print(
        "--base also accepts a folder in Hugging Face layout, a .gguf file, or a Hugging Face hub id. Pin a name or a "
        "hub id to a revision of the hub with NAME@REVISION.",
        highlight=False,
    )
    return {"models": rows}
