"""How the training data of an adapter was read, which gives the defaults for reading the files that it is used on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tailora.data.columns import check_columns

_INPUT_ROLES = ("facts", "subject", "prompt", "mr")


@dataclass(frozen=True)
class TrainedReading:
    """The reading options of a training run, kept in the adapter's metadata.

    Attributes:
        format: the format that the user named, None where it was detected.
        columns: the column roles that the user chose; see `tables.parse_rows`.
        language: the language that the user chose, None for none.
        attributes: names of the attributes that were trained on, where they are known.
        plain_values: truth values in tables are read as "yes" and "no", and JSON numbers as they are written. False
            for adapters whose metadata does not describe the reading: these were trained with CSV's `True` as it is
            and JSON's `1.50` as "1.5".
    """

    format: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    language: str | None = None
    attributes: frozenset[str] = frozenset()
    plain_values: bool = True

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> Self | None:
        """Return the reading that an adapter's `meta` describes; None if another program trained the adapter.

        Raises:
            SettingsError: the column roles in it are not valid.
        """
        if "prompt_form" not in meta:
            return None
        attributes = meta.get("attributes")
        names = frozenset(map(str, attributes)) if isinstance(attributes, list) else frozenset()
        reading = meta.get("reading")
        if not isinstance(reading, Mapping):
            return cls(attributes=names, plain_values=False)
        columns = reading.get("columns")
        return cls(
            format=_text(reading.get("format")),
            columns=check_columns(columns) if isinstance(columns, Mapping) else {},
            language=_text(reading.get("language")),
            attributes=names,
        )

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns of which prompts were built, as far as the user named them."""
        chosen = [self.columns[role] for role in _INPUT_ROLES if self.columns.get(role) is not None]
        return tuple(name for value in chosen for name in ([value] if isinstance(value, str) else value))


def reading_meta(format: str | None, columns: Mapping[str, Any], language: str | None) -> dict[str, Any]:
    """Return what an adapter's `meta` keeps of its reading."""
    kept = {role: list(value) if isinstance(value, tuple) else value for role, value in columns.items()}
    return {"reading": {"format": format, "columns": kept, "language": language}}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
