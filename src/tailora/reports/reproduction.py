"""A reproduction card: scores next to the published ones of the task, and every setting that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tailora.reports.tables import Table

_FILE = Path(__file__).with_name("published.yaml")
_NONE = "–"
_PAPER = ("setting", "paper", "here")


def card(
    task: str,
    scores: Mapping[str, Mapping[str, float]],
    used: Mapping[str, Any],
    labels: Mapping[str, tuple[str, float]],
) -> list[Table]:
    """Return the scores next to the published ones, and the settings that differ from the published recipe.

    Args:
        task: e2e, webnlg or dart.
        scores: the measured ones, by part of the data ("all", "seen", "unseen") and name, as in scores.json.
        used: settings of training and decoding by name, as far as they are known; empty for texts of unknown origin.
        labels: label of each score, and the factor by which papers multiply it.
    """
    published = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    own = published[task]
    parts: Mapping[str, Sequence[str]] = own["scores"]
    several = len(parts) > 1
    head = [labels[name][0] + (f", {part}" if several else "") for part, names in parts.items() for name in names]
    rows = [
        [row["name"], *(str(value) for part, names in parts.items() for value in _padded(row[part], len(names)))]
        for row in own["rows"]
    ]
    here = [_shown(scores.get(part, {}).get(name), labels[name][1]) for part, names in parts.items() for name in names]
    recipe = {**published["settings"], **own["settings"]}
    published_scores = ("Published scores", ["", *head], [["measured here", *here], *rows])
    if not used:
        settings = [[name, _spelled(value)] for name, value in recipe.items()]
        return [published_scores, ("Settings of the paper (those of the texts are not known)", _PAPER[:2], settings)]
    differing = [
        [name, _spelled(value), _spelled(used[name]) if name in used else "not known"]
        for name, value in recipe.items()
        if name not in used or _spelled(used[name]) != _spelled(value)
    ]
    return [published_scores, ("Settings that differ from the paper's", _PAPER, differing)]


def _padded(values: Sequence[Any], count: int) -> list[Any]:
    return [*values, *[_NONE] * (count - len(values))]


def _shown(value: float | None, scale: float) -> str:
    return _NONE if value is None else f"{scale * value:.{2 if scale == 1 else 1}f}"


def _spelled(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float | int) else str(value)
