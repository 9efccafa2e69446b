"""The model card (README.md) of an adapter folder: its base, its settings, its scores and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tailora.adapters.adapter import Adapter
from tailora.adapters.base_names import hub_name, is_hub_id, split_revision

FILE = "README.md"


def model_card(adapter: Adapter) -> str:
    """The text of the card, with the metadata block that the hub reads; it does not depend on date or machine."""
    (base, revision), config = hub_name(adapter.base_name), adapter.config
    tags = ["lora", "tailora", "data-to-text"]
    head = [
        *([f"base_model: {base}"] if base and is_hub_id(base) else []),
        "library_name: peft",
        "pipeline_tag: text-generation",
        f"tags: {json.dumps(tags)}",
    ]
    facts: dict[str, Any] = {
        "Base model": split_revision(adapter.base_name)[0] if adapter.base_name else "unknown",
        **({"Base revision": revision} if revision else {}),
        "Base fingerprint (SHA-256)": adapter.base_fingerprint or "unknown",
        "Adapter (SHA-256)": adapter.content_hash,
        "Rank, alpha": f"{config.rank}, {config.alpha:g}{' (rank-stabilised)' if config.rslora else ''}",
        "Adapted": ", ".join(config.targets),
        "Parameters": f"{adapter.parameters:,}",
    }
    facts |= {name.replace("_", " ").capitalize(): value for name, value in adapter.meta.items() if _plain(value)}
    scores = adapter.meta.get("scores")
    scored = {name: value for name, value in scores.items() if _plain(value)} if isinstance(scores, Mapping) else {}
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        f"# LoRA adapter for {_cell(base or adapter.base_name or 'a language model')}",
        "Trained with Tailora. PEFT reads `adapter_config.json` and `adapter_model.safetensors`. `tailora.json` holds\n"
        "what PEFT has no field for, such as the form of the prompts.",
        _table("setting", facts),
        *(["## Scores", _table("score", scored)] if scored else []),
        "## Use",
        '```\ntailora generate --adapter THIS_FOLDER --record "name : Blue Spice | type : pub"\n```',
    ]
    return "\n\n".join(parts) + "\n"


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
