"""A reproduction card: scores beside the published ones of the task, and every setting that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tailora.reports.tables import Table

_FILE = Path(__file__).with_name("published.yaml")
_NONE = "–"


def card(
    task: str,
    scores: Mapping[str, Mapping[str, float]],
    used: Mapping[str, Any],
    labels: Mapping[str, tuple[str, float]],
) -> list[Table]:
    """The scores beside the published ones, and the settings beside the published recipe where they differ.

    Args:
        task: e2e, webnlg or dart.
        scores: what was measured: part of the data ("all", "seen", "unseen") to score to value, as in scores.json.
        used: settings by name, as far as they are known.
        labels: label of each score, and what papers multiply it by.
    """
    published = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    own = published[task]
    parts: Mapping[str, Sequence[str]] = own["scores"]
    several = len(parts) > 1
    head = [labels[name][0] + (f", {part}" if several else "") for part, names in parts.items() for name in names]
    rows = [
        [row["name"], *(str(each) for part, names in parts.items() for each in _padded(row[part], len(names)))]
        for row in own["rows"]
    ]
    here = [_shown(scores.get(part, {}).get(name), labels[name][1]) for part, names in parts.items() for name in names]
    recipe = {**published["settings"], **own["settings"]}
    differing = [
        [name, _told(value), _told(used[name]) if name in used else "not known"]
        for name, value in recipe.items()
        if name not in used or _told(used[name]) != _told(value)
    ]
    return [
        ("Beside the published scores", ["", *head], [["measured here", *here], *rows]),
        ("Settings that differ from the paper's", ["setting", "paper", "here"], differing),
    ]


def _padded(values: Sequence[Any], count: int) -> list[Any]:
    return [*values, *[_NONE] * (count - len(values))]


def _shown(value: float | None, scale: float) -> str:
    return _NONE if value is None else f"{scale * value:.{2 if scale == 1 else 1}f}"


def _told(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float | int) else str(value)
