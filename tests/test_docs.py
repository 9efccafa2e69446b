"""The command lines in README and docs: each one's command and flags exist (`test_snippets.py` runs them)."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from tailora.commands import COMMANDS, settings_class
from tailora.core.flags import parser_for

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.vi.md", *sorted((ROOT / "docs").glob("*.md"))]

SHELL = {">", ">>", "|", "&", "&&", "||"}
"""Words that end a command."""


def command_lines(page: Path) -> list[str]:
    """Lines of code that begin with `tailora VERB`, those that end in a backslash joined with the next."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    return [line.strip() for line in text.splitlines() if re.match(r"\s*tailora [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_name_commands_and_flags_that_exist(page: Path) -> None:
    for line in command_lines(page):
        _, name, *arguments = itertools.takewhile(lambda word: word not in SHELL, shlex.split(line, comments=True))
        assert name in COMMANDS, line
        if arguments == ["--help"]:
            continue
        parser_for(settings_class(name), prog=name, description="").parse_strictly(arguments)
