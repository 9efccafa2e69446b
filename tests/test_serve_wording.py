"""Errors over HTTP name fields of requests and settings of the server, never flags."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from snippets import ROOT
from tailora.core.errors import AdapterError, DataError, ModelError, SettingsError
from tailora.serve.api_error import from_user_error, message_of
from tailora.serve.settings import ServeSettings
from tailora.serve.wording import BODIES

CODE = ROOT / "src" / "tailora"
FLAG = re.compile(r"(?<![\w-])--[a-z]")
# The packages that a request can run; commands, training and evaluation cannot be reached over HTTP.
REACHED = (
    "adapters",
    "core",
    "data",
    "engine",
    "families.py",
    "inference",
    "lora",
    "inserts",
    "metrics",
    "models",
    "serve",
)


def constants(node: ast.AST) -> str:
    """The text of a string or format string, in which each field is `x`."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def sources() -> Iterator[Path]:
    for name in REACHED:
        yield from [CODE / name] if name.endswith(".py") else sorted((CODE / name).rglob("*.py"))


def texts(path: Path) -> Iterator[str]:
    """All strings of a module but its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in inner | docs and (text := constants(node)):
            yield text


def test_no_error_that_a_request_can_cause_names_a_flag() -> None:
    """Whatever text of these packages becomes a place, a problem or a hint."""
    flagged = [text for path in sources() for text in texts(path) if FLAG.search(text)]
    assert len(flagged) > 40
    for text in flagged:
        for kind in (AdapterError, DataError, ModelError, SettingsError):
            error = kind(text, where=text, hint=f"{text}; or wait")
            assert FLAG.search(str(from_user_error(error))) is None, text
            assert str(from_user_error(error)).endswith("; or wait"), text


def test_the_servers_own_errors_name_no_flag() -> None:
    """The strings of the server's package, but for those of its settings, its start and its worker for Ray."""
    own = [
        path for path in sources() if "serve" in path.parts and path.name not in ("settings.py", "server.py", "ray.py")
    ]
    texts_of_own = {path.name: [text for text in texts(path) if FLAG.search(text)] for path in own}
    reworded = {"registry.py", "wording.py"}  # user errors, and the pattern itself
    assert {name: found for name, found in texts_of_own.items() if found and name not in reworded} == {}


def test_the_descriptions_of_the_api_name_no_flag() -> None:
    described = [field.description or "" for body in BODIES for field in body.model_fields.values()]
    assert [text for text in described if FLAG.search(text)] == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        ("leave out --columns or --format", "leave out `columns` or `format`"),
        ("name it with --columns text=NAME; or not", 'name it with "columns": {"text": "NAME"}; or not'),
        ('add --columns text="my ""b"" col"', 'add "columns": {"text": "my \\"b\\" col"}'),
        ("use --backend torch", "use the server's setting `backend: torch`"),
        ("use it anyway with --force", "use it anyway with the server's setting `force`"),
        ("raise --max-body or send less", "raise the server's setting `max_body` or send less"),
        ("use --prompt-form paper; shorten it", "shorten it"),
        ("raise num_beams", "raise beams"),
    ],
)
def test_flags_become_fields_or_settings(hint: str, words: str) -> None:
    assert message_of(SettingsError("is wrong", hint=hint), {"num_beams": "beams"}) == f"is wrong; {words}"


def test_no_field_of_a_request_has_the_name_of_a_setting() -> None:
    """So that a flag has one meaning."""
    assert {name for body in BODIES for name in body.model_fields} & set(ServeSettings.model_fields) == set()


@pytest.mark.parametrize(
    ("where", "param"),
    [("scale", "scale"), ("records[3]", "records[3]"), ("table.csv:2", None), ("text.csv", None), ("max_body", None)],
)
def test_the_param_is_a_field_of_the_request(where: str, param: str | None) -> None:
    assert from_user_error(DataError("is wrong", where=where)).param == param
    assert from_user_error(DataError("is wrong", where=where), param="text").param == (param or "text")
