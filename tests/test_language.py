"""The words of what users read: no phrase that the style guide rules out, and no flag that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from snippets import ROOT, without_code
from tailora.commands import COMMANDS, settings_class
from tailora.core.flags import parser_for

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Phrases that readers stumble over, and what to write instead.
BANNED = {
    r"(?<!there )\b(is|are) no\b(?! (longer|more|less))": "is not a",
    r"\blet(s)? pass\b": "accepted",
    r"\bparted\b": "separated",
    r"\bso many\b": "the first N",
    r"\bstands? twice\b": "is given twice",
    r"\btold\b": "reported",
    r"\bgoes? before\b": "overrides",
    r"\bas (it|they) came\b": "unselected",
    r"\breceipts?\b": "report",
    r"\bmend(s|ed|ing)?\b": "fix, hint",
    r"\bpass(ed|ing) over\b": "ignore, skip",
    r"\bfor once\b": "",
    r"\bno longer\b": "describe what is; the changelog has the history",
    r"\bbug of ours\b": "a bug in Tailora",
}
# Flags of other programs that the pages name.
FOREIGN = {
    *("--api-key", "--enable-lora", "--lora-modules", "--max-lora-rank", "--max-loras", "--max-num-seqs"),
    *("--constraint", "--editable", "--local-dir", "--lowercase", "--lower", "--model_args", "--no-deps", "--revision"),
    *("--head", "--summary", "--tasks", "--tokenize", "--training"),
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def banned(text: str) -> list[str]:
    """The banned phrases of a text, each with the words around it and what to write instead."""
    flat = re.sub(r"\s+", " ", text)
    return [
        f"…{flat[max(0, match.start() - 30) : match.end() + 20]}…: write {instead or 'something else'!r}"
        for phrase, instead in BANNED.items()
        for match in re.finditer(phrase, flat, re.IGNORECASE)
    ]


def known_flags() -> Iterator[str]:
    for command in COMMANDS:
        parser = parser_for(settings_class(command), prog=command, description="")
        for action in parser._actions:
            yield from action.option_strings


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_are_written_in_plain_english(page: Path) -> None:
    assert banned(without_code(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_are_written_in_plain_english(command: str) -> None:
    parser = parser_for(settings_class(command), prog=command, description=COMMANDS[command].summary)
    assert banned(parser.format_help()) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.vi.md"], ids=name)
def test_flags_in_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"```(text|nginx|powershell|dockerfile).*?```", "", text, flags=re.DOTALL | re.IGNORECASE)
    words = {match[0] for match in re.finditer(r"(?<![\w-])--[a-z][\w-]*", text)}
    if page.name != "CONTRIBUTING.md":
        assert words - set(known_flags()) - FOREIGN - {"--version"} == set()


def test_banned_phrases_are_found() -> None:
    assert len(banned("It is no\njournal; give so many of them. There is no file.")) == 2
