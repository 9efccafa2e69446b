"""A journal keeps what was done, goes on after a kill, and is not taken for another job's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailora.errors import SettingsError
from tailora.journal import Journal


@given(
    rows=st.lists(st.text(max_size=8), min_size=1, max_size=6),
    kept=st.integers(0, 400),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_kill_leaves_it_goes_on(tmp_path: Path, rows: list[str], kept: int) -> None:
    output = tmp_path / "out.jsonl"
    with Journal(output, "job") as journal:
        for number, row in enumerate(rows):
            journal.add(number, {"text": row})
    written = journal.path.read_bytes()
    journal.path.write_bytes(written[:kept])
    with Journal(output, "job") as journal:
        assert journal.rows == {number: {"text": rows[number]} for number in range(len(journal.rows))}
        for number in range(len(journal.rows), len(rows)):
            journal.add(number, {"text": rows[number]})
    assert journal.path.read_bytes() == written
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_another_jobs_is_refused_and_kept(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with Journal(output, "one") as journal:
        journal.add(3, "x")
    with pytest.raises(SettingsError, match=r"out\.jsonl\.unfinished: holds what was done with other settings"):
        Journal(output, "two")
    with Journal(output, "one") as journal:
        assert journal.rows == {3: "x"}


@pytest.mark.parametrize("content", ["what a user wrote\n", '"job"\n[1]\n', '"job"\n{"a": 1}\n'])
def test_what_is_no_journal_is_left_alone(tmp_path: Path, content: str) -> None:
    output = tmp_path / "out.jsonl"
    path = output.with_name("out.jsonl.unfinished")
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match="is no journal of ours"):
        Journal(output, "job")
    assert path.read_text(encoding="utf-8") == content


def test_one_folder_deeper(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "out.jsonl", "job") as journal:
        journal.add(0, None)
    assert journal.path.is_file()
