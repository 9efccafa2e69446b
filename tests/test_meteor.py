"""METEOR's formula on the program's own counts; the program itself where Java and pycocoevalcap are."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

from tailora.core.errors import MissingExtraError
from tailora.metrics import meteor as module
from tailora.metrics.meteor import meteor

# What METEOR 1.5 printed for two texts, and its scores of each.
COUNTS = "24 20 10 7 9 9 6 6 0 0 0 0 1 1 0 0 2 1 1 0 8 19 17"
SCORE = 0.3924780061436667
there = importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None


def test_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_answers", lambda lines: [COUNTS] * len(lines))
    assert meteor(["a b"], [["a c"]]).value == pytest.approx(SCORE, abs=1e-12)


def test_a_perfect_text_adds_no_fragment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_answers", lambda _: ["2 2 0 0 2 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 2 2", COUNTS])
    found = meteor(["a b", "c"], [["a b"], ["d"]])
    assert found.by_text[0] == pytest.approx(1)
    assert found.rows[:, 20].tolist() == [0, 8]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pycocoevalcap"):
        meteor(["a"], [["a"]])


def test_answers_must_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_answers", lambda _: ["1 2 3"])
    with pytest.raises(MissingExtraError, match="returned 1 result for 1 text"):
        meteor(["a"], [["a"]])


@pytest.mark.skipif(not there, reason="needs Java and pycocoevalcap")
def test_the_program() -> None:
    found = meteor(["blue spice is a cafe in the city center"], [["blue spice is a coffee shop in the city centre"]])
    assert np.all(found.rows[0][:2] == [9, 10])
    assert 0 < found.value < 1
