"""The origin of an adapter, stored in addition to the tensors in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tailora.adapters.adapter import Adapter
from tailora.core.errors import AdapterError


class Origin(BaseModel):
    """The base that an adapter was trained on, and how: the fields of `Adapter` of these names."""

    model_config = ConfigDict(extra="ignore", strict=True)

    base_fingerprint: str | None = None
    base_name: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, adapter: Adapter) -> Origin:
        """The origin of an adapter."""
        return cls(base_fingerprint=adapter.base_fingerprint, base_name=adapter.base_name, meta=dict(adapter.meta))

    @classmethod
    def read(cls, text: object, path: Path) -> Origin:
        """Return the origin from a file's JSON text; an unknown origin if there is none.

        Args:
            text: the JSON text, or None.
            path: of the file, for messages.

        Raises:
            AdapterError: it is not such a text.
        """
        if text is None:
            return cls()
        try:
            return cls.model_validate_json(text if isinstance(text, str) else "")
        except ValidationError as error:
            what = "the note on the adapter's base and prompts is damaged"
            raise AdapterError(what, where=path, hint="convert the adapter again") from error
