"""Recipes: settings of training under one name, in YAML files of this package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from tailora.core.yaml_file import read_yaml

Recipe = Literal["fast", "best", "lora-paper"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
FOLDER = Path(__file__).parent / "recipes"
_OF_LORA = "learning_rate"
"""The setting that a recipe gives to method lora alone, since other methods need other learning rates."""


@cache
def recipe_settings(name: str) -> Mapping[str, Any]:
    """Return what a recipe sets, by the names of the settings of `tailora train`."""
    return {key: value.value for key, value in read_yaml(FOLDER / f"{name}.yaml").items()}


def added(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the recipe that values name adds to them: settings that they do not give themselves.

    Args:
        values: given settings; `recipe` may be the name of a recipe.
        fields: the fields of the settings class; a recipe's other settings are left out.
    """
    name, method = values.get("recipe"), values.get("method", "lora")
    if name not in RECIPES:
        return {}
    return {
        key: value
        for key, value in recipe_settings(name).items()
        if key in fields and key not in values and (key != _OF_LORA or method == "lora")
    }


def recipe_table() -> list[tuple[str, ...]]:
    """Return the rows of a table: a head, then each setting with its value in every recipe, or "" for the default."""
    contents = [recipe_settings(name) for name in RECIPES]
    keys = dict.fromkeys(key for content in contents for key in content)
    return [("setting", *RECIPES), *((key, *(_written(content.get(key)) for content in contents)) for key in keys)]


def recipe_help() -> str:
    """Return the table as lines of text for `--help`."""
    rows = [("", *RECIPES), *((f"--{key.replace('_', '-')}", *cells) for key, *cells in recipe_table()[1:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "What each --recipe sets; an empty place is the default:\n" + "\n".join(f"  {line}" for line in lines)


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
