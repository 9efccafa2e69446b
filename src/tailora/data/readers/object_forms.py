"""Objects in the forms of other programs, as those that `jsonl` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailora.core.errors import DataError
from tailora.data.readers import piped

_CONTEXT_KEYS = frozenset(("context", "completion", "cate", "id", "group", "language"))
"""Keys that objects of the LoRA paper's form have; `cate` says whether WebNLG's category occurs in training."""

_CHOOSE = "or choose columns of plain values with --columns text=NAME,facts=NAME+NAME"
_AS_FACTS = f'write its cells as facts, {{"facts": [["subject", "column", "value"], …], "texts": […]}}, {_CHOOSE}'
_REFUSED: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"table", "highlighted_cells"}), "is a table with marked cells, as in ToTTo", _AS_FACTS),
    (frozenset({"box_score"}), "holds the tables of a game, as in RotoWire", _AS_FACTS),
    (
        frozenset({"chosen", "rejected"}),
        "is a preference between two texts, which is not supported",
        "keep one of them: rename 'chosen' to 'completion', and remove 'rejected'",
    ),
    (
        frozenset({"preferred_output", "non_preferred_output"}),
        "is a preference between two texts, which is not supported",
        'write the preferred conversation as {"messages": […]}',
    ),
)
"""Keys by which an object of a form without facts or prompts is recognised, what it is, and the hint."""


def refuse_form(row: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` for objects of well-known forms that have neither facts nor a prompt."""
    for keys, what, hint in _REFUSED:
        if keys <= row.keys():
            raise DataError(what, where=where, hint=hint)


def own_form(objects: list[tuple[int, dict[str, Any]]], where: str) -> list[tuple[int, dict[str, Any]]]:
    """Return objects of the LoRA paper's form as those with `facts`, and those of a GEM task with all `references`.

    Args:
        objects: (line, object) of each row; those of any other form are returned as they are.
        where: the file's name, for messages.

    Raises:
        DataError: a context is not facts, or has been tokenised.
    """
    present = {key for _, row in objects for key in row}
    if {"context", "completion"} <= present <= _CONTEXT_KEYS:
        return [(line, _of_context(row, f"{where}:{line}")) for line, row in objects]
    return [(line, _with_all_references(row)) for line, row in objects]


def gem_texts(row: Mapping[str, Any]) -> list[Any]:
    """Return the references of an object of a GEM task, and its target if that is none of them."""
    target, references = row.get("target"), list(row.get("references") or ())
    return references if target in (None, "", *references) else [*references, target]


def _with_all_references(row: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a GEM task with its target among its references.

    GEM's rows have a text to learn under `target`, and all texts to score with under `references`, which are empty in
    training data.
    """
    if not isinstance(row.get("target"), str) or not isinstance(row.get("references"), list):
        return row
    return {key: value for key, value in row.items() if key != "target"} | {"references": gem_texts(row)}


def _of_context(row: dict[str, Any], where: str) -> dict[str, Any]:
    context = row.get("context")
    if isinstance(context, list):
        what = "the context is a list, probably of token ids"
        hint = "give the data before they were tokenised, such as train_formatted.jsonl"
        raise DataError(what, where=where, hint=hint)
    rest = {key: value for key, value in row.items() if key != "context"}
    try:
        facts = piped.parse_facts(str(context))
    except ValueError as error:
        what = f"the context cannot be read as facts at {str(error)!r}"
        hint = "write it as `attribute : value | attribute : value`, or name the columns: --columns prompt=context"
        raise DataError(what, where=where, hint=f"{hint},text=completion") from error
    return rest | {"facts": [[fact.subject, fact.attribute, fact.value] for fact in facts]}
