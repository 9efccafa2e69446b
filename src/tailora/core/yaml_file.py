"""YAML files of `key: value` lines, read with the line of each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tailora.core.errors import SettingsError, unreadable


class Value(NamedTuple):
    """A value read from a file, and its line (from 1)."""

    value: Any
    line: int


class UniqueKeyLoader(yaml.SafeLoader):
    """Loads plain values, and refuses a mapping that has a key twice, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See PyYAML."""
        keys = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                )
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Value]:
    """Return the top-level keys of a YAML file with their values and lines.

    Raises:
        SettingsError: the file is missing, is not text, is not YAML, is not a mapping, or gives a key twice.
    """
    try:
        loader = UniqueKeyLoader(path.read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise SettingsError("holds no `key: value` lines", where=path, hint="write one setting per line")
        pairs = [(key, loader.construct_object(value, deep=True)) for key, value in node.value]
    except OSError as error:
        raise SettingsError(unreadable(error), where=path, hint="check the path") from error
    except UnicodeDecodeError as error:
        raise SettingsError("is not UTF-8 text", where=path, hint="save it as UTF-8") from error
    except (ValueError, OverflowError, RecursionError) as error:  # a date such as 2020-13-45, or thousands of brackets
        raise SettingsError(f"is not valid YAML: {error}", where=path, hint="correct it") from error
    except yaml.YAMLError as error:
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "unreadable"
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        hint = "correct that line"
        if "escape" in what:  # as in a path of Windows
            hint = "put the text in single quotes, in which a backslash is a letter"
        raise SettingsError(f"is not valid YAML: {what}", where=place, hint=hint) from error
    values: dict[str, Value] = {}
    for key, value in pairs:
        name, line = str(key.value), key.start_mark.line + 1
        if name in values:
            raise SettingsError(f"{name!r} is given twice", where=f"{path}:{line}", hint="keep one of them")
        values[name] = Value(value, line)
    return values
