"""The body of POST /v1/files/read."""

from __future__ import annotations

from pydantic import Field

from tailora.data.readers.formats import DataFormat
from tailora.serve.schema.body import Body

Column = str | list[str] | dict[str, str] | None


class FileBody(Body):
    """Body of POST /v1/files/read."""

    name: str = Field("file", min_length=1, max_length=200)
    """Name of the file, up to 200 characters, for error messages and for its format where the content is ambiguous."""
    text: str
    """Content of the file, decoded."""
    format: DataFormat | None = None
    """Format of the file; recognised by the content by default."""
    columns: dict[str, Column] | None = None
    """Columns of a table by role: {"text": "ref", "facts": ["name", "area"]}."""
    model: str | None = None
    """Model whose training data says which columns are facts, where `columns` is absent; `warnings` of the answer names
    facts that it was not trained on."""
