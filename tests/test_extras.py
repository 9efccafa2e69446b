"""What messages and documents tell people to install exists: each extra that they name is one of the project's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {"tailora": set(PROJECT["optional-dependencies"])}
FILES = sorted(
    path
    for folder in ("src", "docs", "benchmarks", "examples", "tools")
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.html")]
) + sorted(ROOT.glob("*.md"))
NAMED = re.compile(r"(?:tailora|\"\.|'\.|(?<=\s)\.)\[([a-z, ]+)\]")
INSTALLED = re.compile(r"pip install (?:-[-\w]+ )*['\"`]?([A-Za-z][\w.-]*)(?:\[([\w,]+)\])?")


def mentions() -> list[tuple[str, str]]:
    texts = [(path, path.read_text(encoding="utf-8")) for path in FILES]
    return [(str(path.relative_to(ROOT)), match[1]) for path, text in texts for match in NAMED.finditer(text)]


@pytest.mark.parametrize(("path", "extras"), mentions())
def test_extras_that_are_named_exist(path: str, extras: str) -> None:
    assert {extra.strip() for extra in extras.split(",")} <= EXTRAS["tailora"], path


def test_messages_install_what_an_extra_brings() -> None:
    """A message of the library's names an extra, or a package that no extra brings."""
    brought = {
        re.split(r"[\[><=]", requirement)[0]
        for extra, requirements in PROJECT["optional-dependencies"].items()
        if extra != "dev"
        for requirement in requirements
    } - {"tailora"}
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for match in INSTALLED.finditer(path.read_text(encoding="utf-8")):
            if match[1] in brought:
                found.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert not found
