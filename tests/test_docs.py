"""The command lines in README and docs: each one's verb and flags exist, and the first ones run."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from tailora.cli import VERBS, main
from tailora.core.settings import parser_for
from tailora.models.load import load_base

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.vi.md", *sorted((ROOT / "docs").glob("*.md"))]


def command_lines(page: Path) -> list[str]:
    """Lines of code that begin with `tailora VERB`, those that end in a backslash joined with the next."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    return [line.strip() for line in text.splitlines() if re.match(r"\s*tailora [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_name_verbs_and_flags_that_exist(page: Path) -> None:
    for line in command_lines(page):
        _, name, *arguments = shlex.split(line, comments=True)
        assert name in VERBS, line
        module, _, settings = VERBS[name].settings.partition(":")
        parser = parser_for(getattr(importlib.import_module(module), settings), prog=name, description="")
        parser.add_argument("--json", action="store_true")
        parser.parse_strictly(arguments)


def test_the_readmes_own_data_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Train on your records\n")[2]
    block = section.split("```")[1]
    commands = [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert [command[0] for command in commands] == ["train", "generate", "merge"]
    rows = [("Blue Spice", "pub"), ("Green Man", "bar"), ("Red Lion", "café"), ("Blue Spice", "pub")]
    trained = [("name", "type", "text"), *((name, kind, f"{name} is a {kind}.") for name, kind in rows)]
    for path, table in {"my.csv": trained, "new.csv": [("name", "type"), *rows]}.items():
        with (tmp_path / path).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table)
    small = {"train": ["--max-steps", "2", "--batch-size", "2"], "generate": ["--max-new-tokens", "4"], "merge": []}
    for command in commands:
        words = ["tiny" if word == "smollm2-135m" else word for word in command]
        assert main([*words, *small[words[0]]]) == 0, capsys.readouterr().err
    outputs = [json.loads(line) for line in (tmp_path / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(outputs) == len(rows)
    assert outputs[0]["text"] == outputs[3]["text"]
    assert load_base(str(tmp_path / "merged")).model_type == load_base("tiny").model_type
