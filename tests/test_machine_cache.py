"""What a machine has measured is found again by its key, and by nothing else."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailora.core import machine_cache
from tailora.core.machine_cache import are_times, keep, recall

KEY = {"model": "llama", "ranks": (1, 2), "adapter": {"alpha": 0.5}}


def any_value(_: Any) -> bool:
    return True


def is_list(value: Any) -> bool:
    return isinstance(value, list)


def test_a_result_is_found_by_its_kind_and_key(cache: Path) -> None:
    assert recall("kind", KEY, any_value) is None
    keep("kind", KEY, [1, "x"])
    assert recall("kind", dict(reversed(KEY.items())), any_value) == [1, "x"]
    assert recall("kind", {**KEY, "ranks": [1, 3]}, any_value) is None
    assert recall("other", KEY, any_value) is None
    keep("kind", KEY, [2])
    assert recall("kind", KEY, any_value) == [2]
    assert len(list((cache / "kind").iterdir())) == 1


@pytest.mark.parametrize("change", ["cpu", "instructions", "cores", "packages"])
def test_another_machine_or_package_has_results_of_its_own(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("kind", KEY, [1])
    with monkeypatch.context() as patched:
        if change == "cpu":
            patched.setattr(machine_cache, "cpu_name", lambda: "Another 9000")
        elif change == "instructions":
            patched.setattr(machine_cache, "instruction_sets", lambda: ("another",))
        elif change == "cores":
            patched.setattr(machine_cache, "cores", lambda: 1000)
        else:
            patched.setattr(machine_cache.importlib.metadata, "version", lambda name: "9.9")
        assert recall("kind", KEY, any_value) is None
    assert recall("kind", KEY, any_value) == [1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text("[1]"),
        lambda path: path.write_text(""),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text(path.read_text()[:-20]),
        lambda path: path.write_text(path.read_text().replace("llama", "gpt2")),
        lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "result": {}})),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_damaged_file_is_reported(
    cache: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    keep("kind", KEY, [1])
    (path,) = (cache / "kind").iterdir()
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert recall("kind", KEY, is_list) is None
    assert f"{path}: this cache file cannot be used" in caplog.text
    if path.is_file():
        keep("kind", KEY, [2])
        assert recall("kind", KEY, is_list) == [2]


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAILORA_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        keep("kind", KEY, [1])
        assert recall("kind", KEY, any_value) is None
    assert "the result cannot be cached" in caplog.text


_WRITER = """
import logging, sys
from tailora.core.machine_cache import are_times, keep, recall
logging.basicConfig(level=logging.WARNING)
for count in range(1, 201):
    keep("kind", {"model": "llama"}, {"a": count, "b": float(sys.argv[1])})
    assert recall("kind", {"model": "llama"}, lambda kept: are_times(kept, ("a", "b"))) is not None
"""


def test_two_processes_share_a_cache(cache: Path) -> None:
    """Each reads what either has written, whole: no damaged file, no warning, nothing left beside it."""
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(number)], stderr=subprocess.PIPE, text=True)
        for number in (1, 2)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, errors) == (0, "")
    assert recall("kind", {"model": "llama"}, any_value) in [{"a": 200, "b": number} for number in (1.0, 2.0)]
    assert len(list((cache / "kind").iterdir())) == 1


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ({"a": 1.5, "b": 2}, True),
        ({"b": 2}, True),
        ({}, False),
        ({"c": 1.0}, False),
        ({"a": 0}, False),
        ({"a": -1.0}, False),
        ({"a": float("nan")}, False),
        ({"a": float("inf")}, False),
        ({"a": "1"}, False),
        ([1.0], False),
        (None, False),
    ],
)
def test_times(value: Any, good: bool) -> None:
    assert are_times(value, ("a", "b")) is good
