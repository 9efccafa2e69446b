"""The model card (README.md) of an adapter folder: its base, its settings, its scores and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tailora.adapters.base_names import hub_name, is_hub_id, split_revision
from tailora.adapters.insert import AnyAdapter, Insert

FILE = "README.md"


_PEFT = (
    "PEFT reads `adapter_config.json` and `adapter_model.safetensors`. `tailora.json` holds\n"
    "what PEFT has no field for, such as the form of the prompts."
)
_OURS = (
    "`adapter.safetensors` holds the parameters, and `tailora.json` what else Tailora needs, such as\n"
    "the form of the prompts. PEFT has no equivalent."
)


def model_card(adapter: AnyAdapter) -> str:
    """The text of the card, with the metadata block that the hub reads; it does not depend on date or machine."""
    base, revision = hub_name(adapter.base_name)
    is_peft = not isinstance(adapter, Insert) or adapter.kind == "prefix"
    tags = ["lora" if not isinstance(adapter, Insert) else adapter.kind, "tailora", "data-to-text"]
    head = [
        *([f"base_model: {base}"] if base and is_hub_id(base) else []),
        *(["library_name: peft"] if is_peft else []),
        "pipeline_tag: text-generation",
        f"tags: {json.dumps(tags)}",
    ]
    facts: dict[str, Any] = {
        "Base model": split_revision(adapter.base_name)[0] if adapter.base_name else "unknown",
        **({"Base revision": revision} if revision else {}),
        "Base fingerprint (SHA-256)": adapter.base_fingerprint or "unknown",
        "Adapter (SHA-256)": adapter.content_hash,
        **_settings(adapter),
        "Parameters": f"{adapter.parameters:,}",
    }
    facts |= {name.replace("_", " ").capitalize(): value for name, value in adapter.meta.items() if _plain(value)}
    scores = adapter.meta.get("scores")
    scored = {name: value for name, value in scores.items() if _plain(value)} if isinstance(scores, Mapping) else {}
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        f"# {_title(adapter)} for {_cell(base or adapter.base_name or 'a language model')}",
        f"Trained with Tailora. {_PEFT if is_peft else _OURS}",
        _table("setting", facts),
        *(["## Scores", _table("score", scored)] if scored else []),
        "## Use",
        '```\ntailora generate --adapter THIS_FOLDER --record "name : Blue Spice | type : pub"\n```',
    ]
    return "\n\n".join(parts) + "\n"


def _title(adapter: AnyAdapter) -> str:
    if isinstance(adapter, Insert):
        return adapter.description[0].upper() + adapter.description[1:]
    return "LoRA adapter"


def _settings(adapter: AnyAdapter) -> dict[str, str]:
    if isinstance(adapter, Insert):
        return {"Virtual tokens" if adapter.kind == "prefix" else "Bottleneck": str(adapter.size)}
    config = adapter.config
    return {
        "Rank, alpha": f"{config.rank}, {config.alpha:g}{' (rank-stabilised)' if config.rslora else ''}",
        "Adapted": ", ".join(config.targets),
    }


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {title} | value |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_cell(name)} | {_cell(_shown(value))} |" for name, value in rows.items())])


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """Text that cannot end a table cell or line, or begin a markup tag."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
