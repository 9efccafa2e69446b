"""Fuzz of all files that are read: a damaged one is read or refused with one error, soon and in little memory."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from file_fuzz import Kind, damaged, kinds, reading
from tailora.core.errors import UserError

NAMES = [
    *("E2E", "ViGGO", "CSV", "TSV", "piped", "JSON lines", "JSON", "messages", "WebNLG XML", "WebNLG JSON", "DART"),
    *("Parquet", "Arrow", "adapter weights", "adapter_config.json", "tailora.json", "loralib state dict"),
    *("base weights", "config.json", "tokenizer.json", "tokenizer_config.json", "run.json", "metrics.jsonl"),
    *("outputs.jsonl", "resume log", "resume state", "slot rules", "settings", "keys", "GGUF"),
]
FEW = {"GGUF": 3}  # slower to read
DAMAGED: dict[str, list[bytes]] = {
    "CSV": [b'""', b"|", b"a" * 5000 + b";text\nb\n"],
    "WebNLG JSON": [
        b'{"entries": [{"1": {"modifiedtripleset": [{"subject": "A", "property": "p", "object": "B"}],'
        b' "lexicalisations": [{"lex": "A", "%s": [[]]}]}}]}' % field
        for field in (b"comment", b"lang")
    ],
    "metrics.jsonl": [b'{"step": 1, "loss": 1%s}\n' % (b"0" * 400), b'{"step": 1%s, "loss": 1}\n' % (b"0" * 400)],
    "resume log": [b'"job"\n[Infinity, {}]\n', b'"job"\n' + b"[" * 5000 + b"\n"],
    "run.json": [b"[" * 100_000],
    "settings": [b"data: 2020-13-45\n", b"data: " + b"[" * 1500, b"data: !!int x\n"],
    "keys": [b"- name: 2020-13-45\n", b"[" * 1500, b"- !!float x\n"],
    "slot rules": [b"attributes: 2020-13-45\n", b"attributes: " + b"[" * 1500],
}


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return kinds(tmp_path_factory.mktemp("whole"))


def frame_of(kind: Kind, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    if kind.frame is not None:
        kind.frame(folder)
    return folder


def kind_of(name: str, all_kinds: dict[str, Kind]) -> Kind:
    if name not in all_kinds:
        pytest.skip("the optional gguf package is not installed")
    return all_kinds[name]


def test_every_kind_is_named(all_kinds: dict[str, Kind]) -> None:
    assert {*all_kinds, "GGUF"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read_and_damaged_ones_are_not_a_bug(
    name: str, all_kinds: dict[str, Kind], tmp_path: Path
) -> None:
    kind = kind_of(name, all_kinds)
    folder = frame_of(kind, tmp_path / "fuzz")
    for content in kind.seeds:
        assert reading(kind, content, folder).error is None

    @settings(max_examples=FEW.get(name, 30), suppress_health_check=list(HealthCheck), database=None)
    @given(place=st.integers(0, len(kind.seeds) - 1), source=st.randoms(use_true_random=False))
    def fuzz(place: int, source: random.Random) -> None:
        reading(kind, damaged(kind.seeds[place], source), folder)

    fuzz()


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, all_ in DAMAGED.items() for content in all_])
def test_what_once_ended_in_a_bug_is_refused(
    name: str, content: bytes, all_kinds: dict[str, Kind], tmp_path: Path
) -> None:
    kind = all_kinds[name]
    assert isinstance(reading(kind, content, frame_of(kind, tmp_path / "fuzz")).error, UserError)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_long_fuzz(name: str, all_kinds: dict[str, Kind], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FUZZ damaged files of each kind, by default 2,000; the counts are printed."""
    kind = kind_of(name, all_kinds)
    folder = frame_of(kind, tmp_path / "fuzz")
    count = int(os.environ.get("FUZZ", "2000")) // (20 if name in FEW else 1)
    ends: Counter[str] = Counter()
    slowest, began = 0.0, time.monotonic()
    for number in range(count):
        source = random.Random(f"{name} {number}")
        result = reading(kind, damaged(source.choice(kind.seeds), source), folder)
        ends["read" if result.error is None else type(result.error).__name__] += 1
        slowest = max(slowest, result.seconds)
    shown = ", ".join(f"{number:,} {end}" for end, number in ends.most_common())
    with capsys.disabled():
        seconds = time.monotonic() - began
        print(f"\n{name}: {count:,} files in {seconds:.0f} s (slowest {slowest:.2f} s): {shown}", end="")
    assert sum(ends.values()) == count
