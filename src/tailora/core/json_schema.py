"""The JSON schema of a command's YAML file, for editors and for checks before a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tailora.core.fields import NONE_TYPE, arms, help_of, is_verbatim, leaves, shape, takes_none
from tailora.core.settings import Settings

_NUMBER = r"^\s*[+-]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$"
_SWITCH = [True, False, 0, 1, *["yes", "no", "on", "off", "true", "false", "y", "n", "t", "f", "0", "1"]]


def schema_of(cls: type[Settings], title: str) -> dict[str, Any]:
    """Return a JSON schema (draft 2020-12). Every file that `cls.from_yaml` accepts is valid under it.

    No key is required, because flags may set what a file leaves out. Combinations of settings are not part of the
    schema; they are checked when the settings are read.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": {name: _property(field) for name, field in cls.model_fields.items()},
        "additionalProperties": False,
    }


def _property(field: FieldInfo) -> dict[str, Any]:
    kind = shape(field)
    options: list[dict[str, Any]] = []
    for arm in arms(field.annotation):
        if arm is NONE_TYPE:
            options.append({"type": "null"})
        elif arm is Any:
            options.append({})
        elif kind == "one" or get_origin(arm) is Literal:
            options.append(_value(arm, field))
        elif kind == "bool":
            options.append({"enum": _SWITCH})
        elif kind == "many":
            options += [{"type": "array", "items": _value(get_args(arm)[0], None)}, {"type": "string"}]
        else:
            key, item = get_args(arm)
            names = {"propertyNames": {"enum": list(get_args(key))}} if get_origin(key) is Literal else {}
            options.append({"type": "object", "additionalProperties": _value(item, None), **names})
            options += [{"type": "string"}, {"type": "array"}] if is_verbatim(field) else []
    if takes_none(field) and str not in leaves(field.annotation):
        options.append({"enum": ["none", "None", "NONE"]})
    described: dict[str, Any] = {"description": help_of(field)}
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is not PydanticUndefined and default is not None:
        described["default"] = _as_json(default)
    return described | (options[0] if len(options) == 1 else {"anyOf": options})


def _value(annotation: Any, field: FieldInfo | None) -> dict[str, Any]:
    """The schema of one value; numbers may be strings too, because YAML 1.1 reads 1e-3 as a string."""
    options: list[dict[str, Any]] = []
    for arm in arms(annotation):
        if get_origin(arm) is Literal:
            options.append({"enum": list(get_args(arm))})
        elif arm in (int, float):
            options.append({"type": ["number", "string"], "pattern": _NUMBER, **_range(field)})
        elif arm in (str, Path):
            options.append({"type": ["string", "number"] if arm is str else "string"})
        elif arm is bool:
            options.append({"enum": _SWITCH})
        else:
            options.append({})
    return options[0] if len(options) == 1 else {"anyOf": options}


def _range(field: FieldInfo | None) -> dict[str, float]:
    words = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    marks = [] if field is None else field.metadata
    return {word: getattr(mark, kind) for mark in marks for kind, word in words.items() if hasattr(mark, kind)}


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value
