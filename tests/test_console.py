"""Messages in a file or pipe: nothing is wrapped."""

from __future__ import annotations

import pytest
from rich.table import Table

from tailora.core.console import draws_progress, message_console


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


def test_a_terminal_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "72")
    assert message_console().width == 72
