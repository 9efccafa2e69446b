"""Messages in a file or pipe: nothing is wrapped."""

from __future__ import annotations

import io
import sys

import pytest
from rich.table import Table

from tailora.core.console import as_text, draws_progress, message_console


def test_nothing_is_wrapped_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console, words = message_console(), " ".join(["word"] * 100)
    assert not draws_progress(console)
    table = Table(title="A title")
    table.add_column("first")
    table.add_column("second")
    table.add_row(words, words)
    console.print(f"warning: {words}")
    console.print(table)
    message, *lines = capsys.readouterr().err.splitlines()
    assert message == f"warning: {words}"
    (row,) = [line for line in lines if "word" in line]
    assert row.count(words) == 2
    assert max(map(len, lines)) < 1100


def test_texts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = message_console()
    table = Table("[url]", title="[i]title")
    table.add_row("[/b] :cat: [qv]_proj")
    console.print("see runs[old]/:cat: and [/x]", highlight=False)
    console.print(table)
    printed = capsys.readouterr().err
    for text in ("see runs[old]/:cat: and [/x]\n", "[url]", "[i]title", " [/b] :cat: [qv]_proj "):
        assert text in printed


@pytest.mark.parametrize(("encoding", "line"), [("utf-8", "┃ score ┃"), ("cp1252", "| score |")])
def test_tables_are_text_that_standard_output_can_print(
    monkeypatch: pytest.MonkeyPatch, encoding: str, line: str
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    table = Table("score")
    table.add_row("47.1")
    print(as_text(table), flush=True)
    assert line in output.getvalue().decode(encoding)


def test_a_terminal_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "72")
    assert message_console().width == 72
