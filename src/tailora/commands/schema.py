"""`tailora schema`: the JSON schema of a command's YAML file."""

from __future__ import annotations

import json
from typing import Any

from pydantic import field_validator

from tailora.commands import COMMANDS, settings_class
from tailora.core.json_schema import schema_of
from tailora.core.problems import FieldError, nearest
from tailora.core.settings import Settings


class SchemaSettings(Settings):
    """Settings of `tailora schema`."""

    first = "command"
    command: str
    """Command whose YAML file the schema describes, for example train."""

    @field_validator("command")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in COMMANDS:
            raise FieldError(f"no such command: {value}", nearest(value, COMMANDS, "see `tailora --help`"))
        return value


def run(settings: SchemaSettings) -> dict[str, Any]:
    """Print the schema and return it."""
    schema = schema_of(settings_class(settings.command), f"Settings of `tailora {settings.command}`")
    print(json.dumps(schema, indent=2, ensure_ascii=False))
    return schema
