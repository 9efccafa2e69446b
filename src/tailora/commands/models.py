"""`tailora models`: the base models that have a name, where they are on this machine, and what serves a base."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import ModelError
from tailora.core.settings import Settings, Unset
from tailora.engine.architecture import architecture_of
from tailora.families import family_of
from tailora.models.catalog import CATALOG, ModelSource, availability, resolve
from tailora.models.config import read_config
from tailora.models.settings import BASE

_AVAILABILITY: dict[ModelSource, str] = {
    "bundled": "yes, bundled",
    "converted": "yes, converted from GGUF",
    "cached": "yes, in the hub's cache",
    "package": "yes, converted on first use",
    "hub": "no, downloaded on first use",
}


class ModelsSettings(Settings):
    """Settings of `tailora models`: with a base, what serves it is shown instead of the catalogue."""

    heading = "model"
    base: Annotated[str | None, Field(description=BASE), Unset("all that have a name")] = None


def run(settings: ModelsSettings) -> dict[str, Any]:
    """Print the catalogue and return it, or what serves one base.

    Nothing is downloaded or converted for the catalogue.

    Raises:
        ModelError: there is no such base, or it cannot be read.
        OfflineError: the base has to be downloaded, and the hub cannot be reached.
    """
    return _catalogue() if settings.base is None else {"model": _described(settings.base)}


def _described(name: str) -> dict[str, Any]:
    """Print and return a base's family, and the backend that `auto` chooses for it on a CPU, with the reason."""
    base = resolve(name)
    config = read_config(base.folder)
    family, reason = family_of(config["model_type"]), None
    try:
        architecture_of(config)
    except ModelError as error:
        reason = error.what
    row = {
        "name": base.name,
        "folder": str(base.folder),
        "model_type": config["model_type"],
        "cpu_backend": "openvino" if reason is None else "torch",
        "reason": reason,
        "trained": family.trained,
    }
    backend = "OpenVINO" if reason is None else f"torch ({reason})"
    lines = (
        f"{row['name']}: {row['model_type']}",
        f"on a CPU: {backend}",
        "on a GPU: torch",
        f"training: {'yes' if family.trained else 'no, its attention cannot be replaced by attention over trees'}",
    )
    message_console().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return row


def _catalogue() -> dict[str, Any]:
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
        "hub id to a revision of the hub with NAME@REVISION. With --base, this command shows what serves that base.",
        highlight=False,
    )
    return {"models": rows}
