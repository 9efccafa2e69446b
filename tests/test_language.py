"""The words of pages, help texts, messages and code: no phrase or name that the style guide rules out."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from snippets import ROOT, without_code
from tailora.commands import COMMANDS, settings_class
from tailora.core.flags import parser_for

CODE = ROOT / "src" / "tailora"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Phrases that readers stumble over, and what to write instead.
BANNED = {
    r"(?<!there )\b(is|are) no\b(?! (longer|more|less|better))": "is not a",
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
    r"\ban? [\w -]{2,25} of (its|their) own\b": "its own",
    r"\banew\b": "again",
    r"\bgiven beside\b": "is not allowed together with",
    r"\bas (he|she|they|you) (has|have) it\b": "as in",
}
# In pages and help texts alone.
BANNED_IN_PAGES = {r"\bbeside\b": "next to, with, together with", r"\bas a picture\b": "a plot of"}
SOURCES = sorted(CODE.rglob("*.py"))
# Names that say nothing.
VAGUE = {"told", "found", "given", "made", "each", "held", "account"}
# Flags of other programs that the pages name.
FOREIGN = {
    *("--address", "--api-key", "--enable-lora", "--lora-modules", "--max-lora-rank", "--max-loras", "--max-num-seqs"),
    *("--constraint", "--editable", "--local-dir", "--lowercase", "--lower", "--model_args", "--no-deps", "--revision"),
    *("--max-restarts", "--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id"),
    *("--shutdown-timeout", "--cpus-per-task", "--nodes", "--ntasks-per-node", "--requeue", "--signal"),
    *("--head", "--summary", "--tasks", "--tokenize", "--training", "--logdir", "--backend-store-uri"),
    *("--otlp-traces-endpoint",),
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def banned(text: str, phrases: Mapping[str, str] = BANNED) -> list[str]:
    """The banned phrases of a text, each with the words around it and what to write instead."""
    flat = re.sub(r"\s+", " ", text)
    return [
        f"…{flat[max(0, match.start() - 30) : match.end() + 20]}…: write {instead or 'something else'!r}"
        for phrase, instead in phrases.items()
        for match in re.finditer(phrase, flat, re.IGNORECASE)
    ]


def messages(source: Path) -> Iterator[str]:
    """The string literals of a module, docstrings included; the fields of a format string are {}."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def names(source: Path) -> Iterator[str]:
    """The variables, parameters, functions and classes that a module defines."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


@functools.cache
def known_flags() -> set[str]:
    parsers = [parser_for(settings_class(command), prog=command, description="") for command in COMMANDS]
    return {flag for parser in parsers for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_are_written_in_plain_english(page: Path) -> None:
    assert banned(without_code(page.read_text(encoding="utf-8")), BANNED | BANNED_IN_PAGES) == []


def test_the_vietnamese_page_has_one_word_for_a_model() -> None:
    prose = re.sub(r"`[^`]*`|\([^)]*\)", "", without_code((ROOT / "README.vi.md").read_text(encoding="utf-8")))
    assert re.findall(r".*\bmodels?\b.*", prose) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_are_written_in_plain_english(command: str) -> None:
    parser = parser_for(settings_class(command), prog=command, description=COMMANDS[command].summary)
    assert banned(parser.format_help(), BANNED | BANNED_IN_PAGES) == []


def test_messages_and_docstrings_are_written_in_plain_english() -> None:
    wrong = [(name(source), problem) for source in SOURCES for text in messages(source) for problem in banned(text)]
    assert wrong == []


def test_names_say_what_a_thing_is() -> None:
    vague = [(name(source), word) for source in SOURCES for word in sorted(VAGUE.intersection(names(source)))]
    assert vague == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.vi.md"], ids=name)
def test_flags_in_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"```(text|nginx|powershell|dockerfile).*?```", "", text, flags=re.DOTALL | re.IGNORECASE)
    words = {match[0] for match in re.finditer(r"(?<![\w-])--[a-z][\w-]*", text)}
    if page.name != "CONTRIBUTING.md":
        known = known_flags() | {"--version"}
        assert {word for word in words - FOREIGN if word.replace("_", "-") not in known} == set()


def test_banned_phrases_are_found() -> None:
    assert len(banned("It is no\njournal; give so many of them. There is no file.")) == 2
