"""A journal keeps what was done, goes on after a kill, and is not taken for another job's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailora.core.errors import SettingsError
from tailora.core.resume_log import ResumeLog


@given(
    rows=st.lists(st.text(max_size=8), min_size=1, max_size=6),
    kept=st.integers(0, 400),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_kill_leaves_it_goes_on(tmp_path: Path, rows: list[str], kept: int) -> None:
    output = tmp_path / "out.jsonl"
    with ResumeLog(output, "job") as journal:
        for number, row in enumerate(rows):
            journal.add(number, {"text": row})
    written = journal.path.read_bytes()
    journal.path.write_bytes(written[:kept])
    with ResumeLog(output, "job") as journal:
        assert journal.rows == {number: {"text": rows[number]} for number in range(len(journal.rows))}
        for number in range(len(journal.rows), len(rows)):
            journal.add(number, {"text": rows[number]})
    assert journal.path.read_bytes() == written
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_another_jobs_is_refused_and_kept(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with ResumeLog(output, "one") as journal:
        journal.add(3, "x")
    with pytest.raises(SettingsError, match=r"out\.jsonl\.unfinished: was written with other settings"):
        ResumeLog(output, "two")
    with ResumeLog(output, "one") as journal:
        assert journal.rows == {3: "x"}


@pytest.mark.parametrize("content", ["what a user wrote\n", '"job"\n[1]\n', '"job"\n{"a": 1}\n'])
def test_what_is_no_journal_is_left_alone(tmp_path: Path, content: str) -> None:
    output = tmp_path / "out.jsonl"
    path = output.with_name("out.jsonl.unfinished")
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match="is not a Tailora resume file"):
        ResumeLog(output, "job")
    assert path.read_text(encoding="utf-8") == content


def test_one_folder_deeper(tmp_path: Path) -> None:
    with ResumeLog(tmp_path / "new" / "out.jsonl", "job") as journal:
        journal.add(0, None)
    assert journal.path.is_file()


def test_the_disk_is_synchronised_once_a_second_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, synced = [100.0], list[int]()
    real = os.fsync

    def counted(number: int) -> None:
        synced.append(os.fstat(number).st_size)
        real(number)

    monkeypatch.setattr(os, "fsync", counted)
    with ResumeLog(tmp_path / "out.jsonl", "job", clock=lambda: now[0]) as journal:
        for number in range(40):
            now[0] += 0.25
            journal.add(number, "x")
            assert b'[%d, "x"]' % number in journal.path.read_bytes()  # a killed process has written it
        assert len(synced) == 10
        now[0] += 0.25
        journal.add(40, "x")
    assert synced[10:] == [journal.path.stat().st_size]
    with ResumeLog(tmp_path / "out.jsonl", "job", clock=lambda: now[0]) as journal:
        assert len(journal.rows) == 41
        journal.remove()
    assert len(synced) == 11  # nothing was added, and a deleted file needs no disk


def test_a_killed_process_loses_no_row(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    code = (
        "import os, sys; from pathlib import Path; from tailora.core.resume_log import ResumeLog\n"
        "with ResumeLog(Path(sys.argv[1]), 'job', clock=lambda: 0.0) as journal:\n"
        "    for number in range(3): journal.add(number, 'x')\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(output)], check=False).returncode == 9
    with ResumeLog(output, "job") as journal:
        assert journal.rows == {0: "x", 1: "x", 2: "x"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_is_an_error_with_the_file(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from tailora.core.resume_log import ResumeLog\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    with ResumeLog(Path(sys.argv[1]), 'job') as log:\n"
        "        for number in range(100):\n"
        "            log.add(number, 'x' * 100)\n"
        "except OSError as error:\n"
        "    print(error.filename)\n"
    )
    output = tmp_path / "out.jsonl"
    shown = subprocess.run([sys.executable, "-c", program, str(output)], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"{output}.unfinished"
    with ResumeLog(output, "job") as log:
        assert 0 < len(log.rows) < 100
