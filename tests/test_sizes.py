"""Sizes for people."""

from __future__ import annotations

import re

import pytest

from snippets import ROOT
from tailora.core.sizes import size


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "0.98 KiB"),
        (3276, "3.20 KiB"),
        (831_488, "812 KiB"),
        (2**20, "1.00 MiB"),
        (570 * 2**20, "570 MiB"),
        (1023 * 2**20, "1.00 GiB"),
        (2**40 * 5000, "5,000 TiB"),
    ],
)
def test_a_size_has_three_digits_and_a_unit(amount: int, words: str) -> None:
    assert size(amount) == words


def test_sizes_that_are_compared_have_one_unit() -> None:
    assert size(307 * 2**20, like=2**31) == "0.30 GiB"
    assert size(2**31, like=2**31) == "2.00 GiB"
    assert size(40_000, like=2**31) == "0.00 GiB"


def test_no_output_computes_a_size_itself() -> None:
    """Axes of plots, which have one unit for all values, are the exception."""
    pattern = re.compile(
        r"/ (?:2\*\*[23]0|1e6|1e9|_MIB)\b[^\n]*[MG]i?B|\b[MG]i?B\b[^\n]*/ (?:2\*\*[23]0|1e6|1e9|_MIB)\b"
    )
    found = {
        path.name: pattern.findall(path.read_text(encoding="utf-8")) for path in (ROOT / "src/tailora").rglob("*.py")
    }
    assert {name for name, lines in found.items() if lines} == {"comparison.py"}
    assert len(found["comparison.py"]) == 2
